"""The gateways that tests of the HTTP face share."""

from tests.clients.open_shop import fortress, open_shop

__all__ = ["fortress", "open_shop"]
