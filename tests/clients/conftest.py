"""Every test here drives a real gateway with the real models through somebody else's client.

Calls that are computed together in one batch may differ in a word even at temperature 0. Tests that hold two answers
against each other therefore ask for `alone`: no other test uses the gateway meanwhile, on no xdist worker.
"""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.open_shop import OpenShop, open_shop

__all__ = ["open_shop"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives in this folder."""
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.clients)
            item.add_marker(pytest.mark.engine)


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """A shared turn at the gateway, or the whole of it for those who ask to be alone."""
    if "open_shop" not in request.fixturenames:
        yield
        return
    shop: OpenShop = request.getfixturevalue("open_shop")
    with (shop.home.parent / "turn").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if "alone" in request.fixturenames else fcntl.LOCK_SH)
        yield


@pytest.fixture
def alone() -> None:
    """Nobody else calls the gateway during this test (see `turn`)."""
