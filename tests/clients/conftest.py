"""Every test here drives a real gateway with the real models through somebody else's client."""

from pathlib import Path

import pytest

from tests.clients.open_shop import alone, open_shop, turn

__all__ = ["alone", "open_shop", "turn"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives in this folder."""
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.clients)
            item.add_marker(pytest.mark.engine)
