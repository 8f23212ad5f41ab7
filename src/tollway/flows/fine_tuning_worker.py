"""The process that trains, as the gateway sees it: started with its orders, listened to, told to stop, timed.

What it does inside is `flows/fine_tuning_child.py`. Its last word is kept beside the job (`made.json`), so that a gateway
that was killed while it published the result does not train again.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

import msgspec

from tollway.kit import durable
from tollway.kit.errors import BadRequest

_MADE: Final = "made.json"
_LINE_MAX: Final = 1 << 20
_TRAINER: Final = ("torch", "transformers", "peft")  # what `make run` alone does not bring


def require_trainer() -> None:
    """Raises BadRequest where the process could not train: before a job is taken that would only fail."""
    lacking = next((name for name in _TRAINER if importlib.util.find_spec(name) is None), None)
    if lacking is not None:
        raise BadRequest(
            "This shop does not fine-tune: its trainer is not installed.",
            param="model",
            code="factory_not_installed",
            hint="Its operator adds it with `make setup-factory`.",
        )


class Worker:
    """One training process at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._job_id = ""
        self._since = 0.0
        self._owed: dict[str, int] = {}  # microseconds that could not be written down

    async def words(self, job_id: str, orders: Any, stop: asyncio.Event) -> AsyncGenerator[dict[str, Any]]:
        """Start it and yield what it says, up to its end. Setting `stop` ends it after its next step."""
        pipe, environment = asyncio.subprocess.PIPE, {**_environment(), "OMP_NUM_THREADS": str(orders.threads)}
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "tollway.flows.fine_tuning_child", stdin=pipe, stdout=pipe,
            stderr=asyncio.subprocess.DEVNULL, env=environment, start_new_session=True, limit=_LINE_MAX,
        )  # fmt: skip
        self._job_id, self._since = job_id, time.monotonic()
        assert process.stdin is not None and process.stdout is not None
        told = asyncio.create_task(_tell(process.stdin, stop))
        try:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(msgspec.json.encode(orders) + b"\n")
                await process.stdin.drain()
                async for line in process.stdout:
                    yield json.loads(line)
            await process.wait()
        finally:
            told.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
            self._process = None

    def busy_us(self, job_id: str) -> int:
        """How long it has run for this job since that was asked last; the rest of it after its end."""
        owed_us = self._owed.pop(job_id, 0)
        if job_id != self._job_id or not self._since:
            return owed_us
        now = time.monotonic()
        took, self._since = now - self._since, now if self._process is not None else 0.0
        return owed_us + round(took * 1e6)

    def put_back(self, job_id: str, busy_us: int) -> None:
        """That could not be written down: it comes again with the next."""
        self._owed[job_id] = self._owed.get(job_id, 0) + busy_us


def keep(folder: Path, made: dict[str, Any]) -> None:
    """Write its last word down, durably."""
    durable.write(folder / _MADE, json.dumps(made))


def kept(folder: Path) -> dict[str, Any] | None:
    """The last word of a process that finished its work for this job; None when there was none."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        found: dict[str, Any] = json.loads((folder / _MADE).read_text(encoding="utf-8"))
        return found if Path(found["adapter"]).is_file() else None
    return None


async def _tell(stdin: asyncio.StreamWriter, stop: asyncio.Event) -> None:
    await stop.wait()
    stdin.close()


def _environment() -> dict[str, str]:
    """What the worker may know of ours: no keys, no database address."""
    names = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {name: os.environ[name] for name in names if name in os.environ}
