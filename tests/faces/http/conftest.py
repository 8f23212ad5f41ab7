"""The gateways that tests of the HTTP face share."""

from tests.clients.open_shop import alone, fortress, open_shop, turn

__all__ = ["alone", "fortress", "open_shop", "turn"]
