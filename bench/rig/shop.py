"""A Tollway home set up for a bench through the command line, and the gateway started on it, as an operator would.

Every call passes key look-up, RPM, TPM and concurrency limits, a money and quota hold, and a durable usage row: the
limits are set far above what a bench can reach, so that they are checked and never bite.
"""

import json
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rig.processes import Child, Rig, free_port, plain_environment, talk

ORGANIZATION, PLAN = "bench", "bench"
HUGE = 1_000_000_000


@dataclass(frozen=True)
class Shop:
    """A home directory and the command that works on it."""

    home: Path

    @staticmethod
    def program() -> list[str]:
        """The installed `tollway` beside this Python, or the module."""
        script = Path(sys.executable).parent / "tollway"
        return [str(script)] if script.exists() else [sys.executable, "-m", "tollway"]

    def tollway(self, *words: str) -> Any:
        """Runs one command with --json and returns its document."""
        command = [*self.program(), *words, "--home", str(self.home), "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=plain_environment(), check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"`tollway {' '.join(words)}` failed ({done.returncode}):\n{done.stderr.strip()[-2000:]}"
            )
        return json.loads(done.stdout) if done.stdout.strip() else None

    def open_for_business(self) -> str:
        """An organization with a plan, a full wallet and an API key; returns the key."""
        prices = ("--price", "input_tokens=0.10", "--price", "output_tokens=0.30")
        limits = (
            "--rpm",
            f"{HUGE}",
            "--tpm",
            f"{HUGE}",
            "--concurrency",
            "100000",
            "--monthly-tokens",
            f"{1000 * HUGE}",
        )
        self.tollway("org", "create", ORGANIZATION)
        self.tollway("plan", "create", PLAN, "--currency", "USD", "--overage", "wallet", *prices, *limits)
        self.tollway("subscription", "start", ORGANIZATION, PLAN)
        self.tollway("wallet", "top-up", ORGANIZATION, "1000000")
        return str(self.tollway("key", "create", ORGANIZATION)["key"])

    def up(
        self, rig: Rig, core: int | None, *flags: str, timeout_s: float = 60, name: str = "gateway"
    ) -> tuple[Child, int]:
        """Starts the gateway pinned to a core; returns it and its port once it is ready."""
        port = free_port()
        command = [*self.program(), "up", "--home", str(self.home), "--port", str(port), *flags]
        child = rig.start(name, command, core=core, env={"TOLLWAY_LOG_LEVEL": "warning"})
        child.wait_for_http(port, "/readyz", timeout_s)
        return child, port

    def events(self) -> tuple[int, int]:
        """(rows, distinct ids) among the usage events, read from the database beside the running gateway."""
        with sqlite3.connect(f"file:{self.home / 'tollway.db'}?mode=ro", uri=True, timeout=10) as db:
            return db.execute("SELECT count(*), count(DISTINCT request_id) FROM usage_event").fetchone()

    def check_rows(self, answered: int) -> bool:
        """Says whether every answered call has exactly one row."""
        rows, distinct = self.events()
        good = rows == distinct == answered
        talk(f"\nanswered calls {answered}, usage rows {rows}, distinct {distinct}: {'equal' if good else 'NOT EQUAL'}")
        return good
