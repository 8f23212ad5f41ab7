"""One real gateway with the real starter models, shared by every test and every xdist worker that asks for it.

Whoever comes first starts it; the one who started it waits at the end until the others have left, then stops it. Two
shops are kept apart: `open_shop` as anybody would start it, and `fortress` with short deadlines, which hostile tests
may abuse without slowing the others down.

Calls that are computed together in one batch may differ in a word even at temperature 0. Tests that hold two answers
against each other, or how long calls waited, therefore ask for `alone`: no other test uses the open shop meanwhile, on
no xdist worker. A conftest.py that imports `open_shop` imports `alone` and `turn` too.
"""

import fcntl
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.proof.house import PAID, Customer, make_customer, start_gateway
from tollway.sell import catalog

CHAT = "smollm2-135m-instruct"
EMBED = "all-minilm-l6-v2"
FREE = catalog.Terms(overage="invoice", charges=(catalog.Charge(meter="output_tokens", price_micros=1_000_000),))
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex


@dataclass(frozen=True)
class OpenShop:
    """A running gateway: where it is, and what it said when it started."""

    home: Path
    port: int
    pid: int
    welcome: dict[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """What a client calls its base URL."""
        return f"{self.url}/v1"

    @property
    def key(self) -> str:
        """The demo organization's key."""
        return str(self.welcome["key"])

    def log(self) -> str:
        """Everything it wrote to stderr."""
        return (self.home / "gateway.log").read_text(errors="replace")

    def http(self, key: str | None = None, **how: Any) -> httpx.Client:
        """A plain client, with the demo key unless told otherwise."""
        headers = {"authorization": f"Bearer {self.key if key is None else key}"} if key != "" else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=300, trust_env=False, **how)

    def customer(self, terms: catalog.Terms = PAID, wallet_micros: int = 0, **key: Any) -> Customer:
        """A new organization, once the gateway knows its key."""
        made = make_customer(self.home, terms, wallet_micros, name=f"c-{uuid.uuid4().hex[:12]}", **key)
        self.wait_for_key(made.key)
        return made

    def wait_for_key(self, key: str) -> None:
        """Until the gateway has noticed a key."""
        with self.http(key) as client:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                if client.get("/v1/key").status_code != 401:
                    return
                time.sleep(0.02)
        raise TimeoutError("the gateway did not notice the key")


@contextmanager
def shared_gateway(name: str, env: Mapping[str, str]) -> Iterator[OpenShop]:
    """Join the gateway `name` of this test run, or start it."""
    folder = Path(tempfile.gettempdir()) / f"tollway-shop-{_RUN[:12]}-{name}"
    users = folder / "users"
    started = None
    mine = users / f"{os.getpid()}-{uuid.uuid4().hex[:6]}"
    with _locked():
        users.mkdir(parents=True, exist_ok=True)
        note = folder / "open.json"
        shop = _noted(note)
        if shop is None:
            started = start_gateway(folder / "home", env=env)
            shop = OpenShop(started.home, started.port, started.process.pid, started.welcome)
            note.write_text(
                json.dumps({"home": str(shop.home), "port": shop.port, "pid": shop.pid, "welcome": shop.welcome})
            )
        mine.touch()
    try:
        yield shop
    finally:
        mine.unlink()
        while started is not None:
            with _locked():  # nobody comes while we look and clear away
                if not any(_alive(int(user.name.partition("-")[0])) for user in users.iterdir()):
                    started.stop()
                    shutil.rmtree(folder, ignore_errors=True)
                    break
            time.sleep(0.1)


@pytest.fixture(scope="session")
def open_shop() -> Iterator[OpenShop]:
    """The gateway as `tollway up` starts it."""
    with shared_gateway("open", {}) as shop:
        yield shop


@pytest.fixture(scope="session")
def fortress() -> Iterator[OpenShop]:
    """A gateway with short deadlines, room for a prompt of 10 MB, and everything it has to say in its log."""
    env = {
        "TOLLWAY_HEADER_TIMEOUT_S": "1.5",
        "TOLLWAY_BODY_TIMEOUT_S": "3",
        "TOLLWAY_BODY_BYTES_MAX": str(12 * 1024 * 1024),
        "TOLLWAY_LOG_LEVEL": "debug",
    }
    with shared_gateway("fortress", env) as shop:
        yield shop


@contextmanager
def _locked() -> Iterator[None]:
    """One process of this test run at a time. The file stays: who waits for it must not wait for one that is gone."""
    with (Path(tempfile.gettempdir()) / f"tollway-shop-{_RUN[:12]}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _noted(note: Path) -> OpenShop | None:
    with suppress(FileNotFoundError):
        seen = json.loads(note.read_text())
        if _alive(seen["pid"]):
            return OpenShop(Path(seen["home"]), seen["port"], seen["pid"], seen["welcome"])
    return None


def _alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


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
