"""The gateway told to stop, started twice, with a full disk, and with its database killed under it."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import postgres as postgres_wheel
from tests.proof import books
from tests.proof.house import (
    PAID,
    Answer,
    Customer,
    GatewayProcess,
    chat,
    make_customer,
    offer_upstream,
    running_gateway,
    shop_of,
    start_gateway,
)
from tests.proof.load import MODEL, Crowd
from tests.proof.upstream import Upstream, prompt


@pytest.fixture
def mill() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def make_house(home: Path, mill: Upstream, database_url: str = "") -> Customer:
    offer_upstream(home, MODEL, mill.url, database_url=database_url)
    return make_customer(home, PAID, 50_000_000, database_url=database_url)


def check(home: Path, customer: Customer, answers: list[Answer], database_url: str = "") -> int:
    """Every answer billed once, the books closed; returns the number of events without an answer."""
    noted = books.Noted({a.request_id: books.tokens_stated(a) for a in answers if a.answered})
    with shop_of(home, database_url) as shop:
        known = books.events(shop.db)
        noted.unanswered.update(books.tokens_of(row) for name, row in known.items() if name not in noted.answered)
        found, extra = noted.against(shop.db)
        assert found + books.problems(shop.db, [customer]) == []
    return extra


async def test_told_to_stop_it_finishes_what_it_began(tmp_path: Path, mill: Upstream) -> None:
    customer = make_house(tmp_path, mill)
    gateway = start_gateway(tmp_path, starter=False)
    try:
        bodies = [chat(prompt(f"c{n}", 30, pause_ms=40), MODEL, stream=n % 2 == 0) for n in range(20)]
        calls = [asyncio.create_task(gateway.ask(customer.key, body)) for body in bodies]
        async with asyncio.timeout(60):
            while len([name for name in await asyncio.to_thread(mill.calls) if name.startswith("c")]) < len(bodies):
                await asyncio.sleep(0.02)
        gateway.process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        late = [await gateway.ask(customer.key, chat(prompt("late", 1), MODEL))]
        while late[-1].answered and time.monotonic() < told + 60:  # it has not heard the signal yet
            late.append(await gateway.ask(customer.key, chat(prompt("late", 1), MODEL)))
        answers = await asyncio.gather(*calls)
        assert await gateway.ended() == 0, gateway.log()
        assert all(answer.answered for answer in answers)
        assert not late[-1].answered
        assert check(tmp_path, customer, [*answers, *late]) == 0
        print(f"20 calls finished, the process ended {time.monotonic() - told:.1f} s after SIGTERM")
    finally:
        gateway.kill()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_second_gateway_on_the_same_database_refuses(
    tmp_path: Path, mill: Upstream, kind: str, request: pytest.FixtureRequest
) -> None:
    url = "" if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
    first_home = tmp_path / "one"
    second_home = first_home if kind == "sqlite" else tmp_path / "two"  # on PostgreSQL even from another home
    make_house(first_home, mill, url)
    async with running_gateway(first_home, starter=False, database_url=url):
        second = start_gateway(second_home, starter=False, database_url=url, wait=False)
        assert await second.ended() not in (0, -signal.SIGKILL)
        assert "Another gateway is running" in second.log()
        assert "Traceback" not in second.log()
    async with running_gateway(second_home, starter=False, database_url=url):
        pass  # the place is free again


async def test_the_log_is_json_on_stderr_and_stdout_says_only_that_it_is_ready(tmp_path: Path, mill: Upstream) -> None:
    customer = make_house(tmp_path, mill)
    async with running_gateway(tmp_path, starter=False) as gateway:
        secret = "a prompt that nobody else may read"
        lost = await gateway.ask(customer.key, chat(f"fail=1 {secret}", MODEL))
        assert lost.status == 503
        assert gateway.process.stdout is not None
        os.set_blocking(gateway.process.stdout.fileno(), False)
        assert gateway.process.stdout.read() is None
        lines = [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{")]
    assert any(line["event"] == "engine failed" and line["level"] == "warning" for line in lines), gateway.log()
    assert secret not in gateway.log()
    assert customer.key not in gateway.log()


# -- disk full ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB; needs root to mount it."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(folder: Path) -> Path:
    """Take every byte that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as sink, contextlib.suppress(OSError):
        for piece in (64 * 1024, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    sink.write(bytes(piece))
    return filler


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_full_disk_fails_closed_and_recovers_without_a_restart(small_disk: Path, mill: Upstream) -> None:
    """The log is on a full disk too."""
    customer = make_house(small_disk, mill)
    answers: list[Answer] = []
    async with running_gateway(
        small_disk, starter=False, env={"TOLLWAY_LOG_LEVEL": "info"}, log=Path("/dev/full")
    ) as gateway:

        async def call(name: str, count: int) -> list[Answer]:
            bodies = [chat(prompt(f"{name}{n}", 5), MODEL, stream=n % 2 == 0) for n in range(count)]
            came = list(await asyncio.gather(*(gateway.ask(customer.key, body) for body in bodies)))
            answers.extend(came)
            return came

        assert all(a.answered for a in await call("before", 20))
        filler = fill(small_disk)
        refused: list[Answer] = []
        for _ in range(20):  # what the write-ahead log already holds may take a few more
            refused = await call("full", 30)
            if not any(a.answered for a in refused):
                break
        assert not any(a.answered for a in refused), "calls are answered though nothing can be recorded"
        for answer in refused:
            assert answer.error is not None, answer
            assert answer.error["code"] == "recording_failed"
            assert answer.streamed or (answer.status == 503 and "retry-after" in answer.headers)
        assert (await gateway.get("/healthz")).status == 200
        filler.unlink()
        freed = time.monotonic()
        while not (await call("after", 1))[0].answered:
            assert time.monotonic() - freed < 180
        back_s = time.monotonic() - freed
        assert all(a.answered for a in await call("good", 20))
        told = (await gateway.get("/v1/key", customer.key)).json
    assert check(small_disk, customer, answers) == 0, "a call that was refused is billed"
    with shop_of(small_disk) as shop:
        spent = sum(row.price_picos for row in books.events(shop.db).values())
    assert told["wallet_micros"] == (customer.wallet_micros * 1_000_000 - spent) // 1_000_000, (
        "refused calls are still held"
    )
    print(
        f"{sum(a.answered for a in answers)} answered, {sum(not a.answered for a in answers)} refused, back in {back_s:.2f} s"
    )


# -- the database's server -----------------------------------------------------------------------------------------------


class PostgresServer:
    """A PostgreSQL server of our own, durable as in production, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._server: Any = postgres_wheel.server_in(folder)
        self.folder, self.url = folder, str(self._server.get_uri())

    def start(self) -> None:
        """Start it again on the same data, at the same address."""
        postgres_wheel.insist(self._server.ensure_postgres_running)
        assert self._server.get_uri() == self.url

    def kill(self) -> None:
        """kill -9 of the server and its children, as the kernel would for want of memory."""
        head = int((self.folder / "postmaster.pid").read_text().split()[0])
        children = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == head]
        for pid in (head, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(_parent(pid) and _state(pid) != "Z" for pid in (head, *children)):
            time.sleep(0.01)
        for lock in ("postmaster.pid", ".s.PGSQL.5432.lock"):  # else a process not yet collected passes for the server
            (self.folder / lock).unlink(missing_ok=True)

    def remove(self) -> None:
        self._server.cleanup()


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="tollway-pg-own-"))
    server = PostgresServer(folder)
    yield server
    server.remove()
    shutil.rmtree(folder, ignore_errors=True)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    return int((_stat(pid) or ["", "0"])[1])


def _state(pid: int) -> str:
    return (_stat(pid) or ["Z"])[0]


@pytest.mark.slow
async def test_the_database_killed_under_load_fails_closed_and_is_found_again(
    tmp_path: Path, mill: Upstream, postgres: PostgresServer
) -> None:
    customer = make_house(tmp_path, mill, postgres.url)
    crowd = Crowd([customer], 5, leavers=0, failing=0)
    async with running_gateway(tmp_path, starter=False, database_url=postgres.url) as gateway:
        load = asyncio.create_task(crowd.press(gateway, 8))
        noted = crowd.noted
        await until(lambda: len(noted.answered) >= 50)
        postgres.kill()
        await until(lambda: noted.refused >= 8)  # each was told once: whatever was on its way has come
        before = len(noted.answered)
        await until(lambda: noted.refused >= 16)  # and once more, after as long as the recorder insists
        assert len(noted.answered) == before, "calls are answered though nothing can be recorded"
        await asyncio.to_thread(postgres.start)
        started = time.monotonic()
        await until(lambda: len(noted.answered) > before)
        back_s = time.monotonic() - started
        await until(lambda: _places_taken(postgres.url) == 1)
        other = start_gateway(tmp_path / "other", starter=False, database_url=postgres.url, wait=False)
        assert await other.ended() not in (0, -signal.SIGKILL), (
            "the place of the one gateway was lost with the server"
        )
        crowd.stopping = True
        await load
        assert (await _call(gateway, customer)).answered
        told = (await gateway.get("/v1/key", customer.key)).json
    with shop_of(tmp_path, postgres.url) as shop:
        known = books.events(shop.db)
        lost = set(crowd.noted.answered) - set(known)
        assert not lost
        assert books.problems(shop.db, [customer]) == []
        extra = len(known) - len(crowd.noted.answered) - 1
    spent = sum(row.price_picos for row in known.values())
    assert told["wallet_micros"] == (customer.wallet_micros * 1_000_000 - spent) // 1_000_000
    assert extra <= 8, "more events without an answer than calls were in flight"
    print(
        f"{len(crowd.noted.answered)} answered, {crowd.noted.refused} refused, {extra} billed unanswered, back in {back_s:.2f} s"
    )


@pytest.mark.slow
async def test_a_gateway_that_lost_its_place_to_another_stops(
    tmp_path: Path, mill: Upstream, postgres: PostgresServer
) -> None:
    make_house(tmp_path, mill, postgres.url)
    gateway = start_gateway(tmp_path, starter=False, database_url=postgres.url)
    try:
        gateway.process.send_signal(signal.SIGSTOP)  # it sleeps while the server is started anew and another one comes
        postgres.kill()
        await asyncio.to_thread(postgres.start)
        with shop_of(tmp_path, postgres.url) as other:
            other.own_the_shop()
            gateway.process.send_signal(signal.SIGCONT)
            await gateway.ended()
        assert "another gateway took over" in gateway.log()
    finally:
        gateway.kill()


async def until(found: Callable[[], bool], within_s: float = 180) -> None:
    async with asyncio.timeout(within_s):
        while not found():
            await asyncio.sleep(0.02)


def _places_taken(url: str) -> int:
    """Gateways that hold the place of the one gateway, as the server knows them."""
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchone()
    return int(row[0]) if row else 0


async def _call(gateway: GatewayProcess, customer: Customer) -> Answer:
    return await gateway.ask(customer.key, chat(prompt("one"), MODEL))
