"""The running gateway's housekeeping: what it measures when asked, and that it closes whatever the database says."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tollway.flows.gateway import Gateway
from tollway.kit.clock import ManualClock
from tollway.kit.errors import Unavailable
from tollway.kit.settings import Settings
from tollway.shop import Shop


@pytest.fixture
async def gateway(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Gateway]:
    made = Gateway(Shop.open(Settings(tmp_path, environment={}), clock))
    await made.open()
    yield made
    await made.close()


async def test_the_books_are_read_beside_the_loop(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that answers slowly must not stop the calls under way."""
    readers, read = [], gateway.shop.db.read

    @contextmanager
    def watched() -> Iterator[sa.Connection]:
        readers.append(threading.current_thread())
        with read() as conn:
            yield conn

    monkeypatch.setattr(gateway.shop.db, "read", watched)
    await gateway.measure()
    assert readers and threading.main_thread() not in readers
    assert b"maas_ledger_imbalance 0.0" in gateway.service.metrics.exposition()


async def test_figures_are_shown_while_the_database_is_away(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise sa.exc.OperationalError("select", None, Exception("gone"))

    monkeypatch.setattr(gateway.shop.db, "read", away)
    gateway.service.access.refusals["unauthorized"] += 2
    await gateway.measure()
    assert b'maas_rejected_total{reason="unauthorized"} 2.0' in gateway.service.metrics.exposition()


async def test_replicas_are_stopped_even_if_the_last_hours_cannot_be_written(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(Shop.open(Settings(tmp_path, environment={}), clock))
    await gateway.open()
    done = []

    async def refuse() -> None:
        done.append("hours")
        raise Unavailable("The database is away.")

    close = gateway.service.fleet.close

    async def note() -> None:
        done.append("closed")
        await close()

    monkeypatch.setattr(gateway, "_note", refuse)
    monkeypatch.setattr(gateway.service.fleet, "close", note)
    await gateway.close()
    assert done == ["hours", "closed", "hours"], "what the replicas did up to their end counts too"


async def test_what_opens_half_way_is_closed_again_in_reverse(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(Shop.open(Settings(tmp_path, environment={}), clock))
    closed = []

    async def broken() -> None:
        close = gateway.service.fleet.close

        async def fleet() -> None:
            closed.append("fleet")
            await close()

        monkeypatch.setattr(gateway.service.fleet, "close", fleet)
        monkeypatch.setattr(gateway.service.recorder, "_thread", Watched(gateway.service.recorder._thread, closed))
        raise Unavailable("The database is away.")

    monkeypatch.setattr(gateway, "refresh", broken)
    with pytest.raises(Unavailable):
        await gateway.open()
    assert closed == ["fleet", "recorder"]
    assert not [thread for thread in threading.enumerate() if thread.name == "recorder" and thread.is_alive()]
    again = Gateway(Shop.open(Settings(tmp_path, environment={}), clock))
    await again.open()  # nobody owns the shop any more
    await again.close()


class Watched:
    """A thread whose end is written down."""

    def __init__(self, thread: threading.Thread, ended: list[str]) -> None:
        self._thread, self._ended = thread, ended

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)
        self._ended.append("recorder")
