"""What the tests of all engines share."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.engine_contract import Run, running


@pytest.fixture(scope="module")
def run() -> Iterator[Run[Any]]:
    """Runs coroutines from tests that are not asynchronous themselves, on one loop for all of a module's replicas."""
    yield from running()
