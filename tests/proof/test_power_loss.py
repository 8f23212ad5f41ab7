"""The power fails at any moment: no acknowledged event is lost or doubled, and the books close in every state of the disk.

And the checker is worth its name: each of six planted bugs turns it red.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.proof import books, replay
from tests.proof.house import PAID, Customer, make_customer, shop_of
from tests.proof.power_workload import BUGS
from tollway.kit.db import Database
from tollway.sell import catalog

ROOT = Path(__file__).parents[2]
STATES = 5_000


@dataclass(frozen=True)
class Recording:
    ops: list[replay.Op]
    start: dict[str, bytes]
    customer: Customer


def record(home: Path, planted: str = "", events: int = 240) -> Recording:
    """Run the workload on a fresh home under strace."""
    customer = make_customer(home, PAID, 1_000_000)
    with shop_of(home) as shop, shop.db.read() as conn:
        subscription = catalog.running_subscription(conn, customer.org_id)
    assert subscription is not None
    data = home / "data"  # the database alone, so that every file in the folder is SQLite's
    data.mkdir()
    for file in home.glob("tollway.db*"):
        shutil.move(file, data / file.name)
    start = {file.name: file.read_bytes() for file in data.iterdir()}
    assert set(start) == {"tollway.db"}, "the database was not closed"
    words = (customer.org_id, customer.key_id, subscription.id, subscription.plan_version_id, str(events), planted)
    command = [sys.executable, "-m", "tests.proof.power_workload", str(data), *words]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PYTHONDONTWRITEBYTECODE": "1"}
    replay.record(command, home / "trace", env)
    return Recording(replay.parse(home / "trace", data, start), start, customer)


@pytest.fixture
def bench() -> Iterator[Path]:
    """A folder in memory: a thousand databases are opened in it."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="tollway-power-", dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


class Checker:
    """Opens a state of the disk as the next start would, and looks."""

    def __init__(self, folder: Path, customer: Customer) -> None:
        self._folder, self._customer = folder, customer
        self._db = Database(str(folder / "tollway.db"))

    def problems(self, crash: replay.Crash) -> list[str]:
        for old in self._folder.iterdir():
            old.unlink()
        for name, data in crash.files.items():
            (self._folder / name).write_bytes(data)
        try:
            with self._db.read() as conn:
                verdict = [row[0] for row in conn.exec_driver_sql("PRAGMA integrity_check")]
                assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            if verdict != ["ok"]:
                return [f"corrupt: {verdict[:3]}"]
            known = books.events(self._db)
            lost = [
                f"{request_id} was acknowledged and is lost" for request_id in crash.acks if request_id not in known
            ]
            return lost + books.problems(self._db, [self._customer])
        finally:
            self._db.engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_state_of_the_disk_loses_or_doubles_what_was_acknowledged(tmp_path: Path, bench: Path) -> None:
    recording = record(tmp_path)
    checker = Checker(bench, recording.customer)
    kinds = [op.kind for op in recording.ops]
    assert kinds.count("ack") == 240
    assert kinds.count("sync") > 50, "the workload did not commit often enough to prove anything"
    assert any(op.kind == "write" and op.file == 1 for op in recording.ops), "no checkpoint was recorded"
    seen, acked = 0, set()
    for crash in replay.crashes(recording.ops, recording.start, STATES, seed=8):
        found = checker.problems(crash)
        assert not found, f"step {crash.step} of {len(recording.ops)}, {crash.mode}: {found[:5]}"
        seen += 1
        acked.add(len(crash.acks))
    assert seen >= STATES
    assert len(acked) > 40, "the crashes all fell on the same moments"
    print(f"{seen} crash states over {len(recording.ops)} operations, {kinds.count('sync')} syncs: 0 lost, 0 doubled")


@pytest.mark.parametrize("planted", BUGS)
def test_a_planted_bug_turns_the_checker_red(tmp_path: Path, bench: Path, planted: str) -> None:
    recording = record(tmp_path, planted, events=120)
    checker = Checker(bench, recording.customer)
    wanted = {
        "synchronous_normal": "is lost",
        "ack_before_commit": "is lost",
        "event_twice": "has 2 events",
        "wallet_apart": "wallet of acme",
        "posted_apart": "wallet of acme",
        "rollup_apart": "rollup of",
    }[planted]
    seen = 0
    for crash in replay.crashes(recording.ops, recording.start, 600, seed=9):
        seen += 1
        if any(wanted in problem for problem in checker.problems(crash)):
            print(f"{planted}: found in state {seen}")
            return
    pytest.fail(f"{planted} was not found in {seen} states")
