"""A real gateway process for tests, customers to sell to, and a raw client that notes exactly what it was answered.

    async with running_gateway(home) as gateway:             # `tollway up` with the starter models, waits for readiness
        answer = await gateway.ask(gateway.key, chat("Hi"))  # gateway.url, .port, .operator_email, .operator_password

    make_customer(home, terms=PAID, wallet_micros=1_000_000)  # before or while it runs
    gateway = start_gateway(home); …; gateway.stop()          # the same without asyncio

Nothing here knows the inside of the gateway: it starts the command, reads its one line of JSON, speaks HTTP. The client
is our own so that a call cut off by a crash is told apart from one answered to its last byte.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tollway.kit.settings import Settings
from tollway.sell import accounts, api_keys, catalog, ledger
from tollway.serve import models
from tollway.shop import Shop

PAID = catalog.Terms(
    overage="wallet",
    charges=(
        catalog.Charge(meter="input_tokens", price_micros=700_000, included=50),
        catalog.Charge(meter="cached_tokens", price_micros=70_000),
        catalog.Charge(meter="output_tokens", price_micros=2_300_000),
        catalog.Charge(meter="requests", price_micros=1_100_000),
    ),
)
"""Prices that leave fractions of a micro, and a few free tokens."""

_libc = ctypes.CDLL(None)


# -- the gateway process -----------------------------------------------------------------------------------------------


class GatewayProcess:
    """A started `tollway up`. `welcome` is the document it printed when it was ready."""

    def __init__(self, home: Path, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.home, self.port, self.process, self.log_file = home, port, process, log
        self.welcome: dict[str, Any] = {}
        self.ready_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        """The demo organization's API key (first start with the starter models), else empty."""
        return str(self.welcome.get("key", ""))

    @property
    def operator_email(self) -> str:
        return str(self.welcome.get("operator_email", ""))

    @property
    def operator_password(self) -> str:
        """Shown at a home's first start only."""
        return str(self.welcome.get("operator_password", ""))

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log(self, last: int = 4000) -> str:
        """The end of what it wrote to stderr."""
        return self.log_file.read_text(errors="replace")[-last:] if self.log_file.is_file() else ""

    def wait_ready(self, within_s: float = 300) -> None:
        """Returns once the JSON line was printed: every model on offer has answered. Raises with the log otherwise."""
        began, text = time.monotonic(), b""
        assert self.process.stdout is not None
        while not text.endswith(b"\n"):
            left = within_s - (time.monotonic() - began)
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise RuntimeError(f"the gateway was not ready within {within_s:g} s:\n{self.log()}")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise RuntimeError(f"the gateway ended with {self.process.wait()}:\n{self.log()}")
            text += piece
        self.ready_s = time.monotonic() - began
        self.welcome = json.loads(text)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.wait()

    def stop(self, within_s: float = 300) -> int:
        """SIGTERM, and wait; what does not end in time is killed. Returns the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def wait(self, within_s: float = 300) -> int:
        """Wait for its end."""
        code = self.process.wait(within_s)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    async def ended(self, within_s: float = 300) -> int:
        """Wait for its end without blocking the loop."""
        async with asyncio.timeout(within_s):
            while self.alive:
                await asyncio.sleep(0.01)
        return self.wait()

    async def ask(self, key: str, body: Mapping[str, Any], path: str = "/v1/chat/completions", **how: Any) -> "Answer":
        """POST `body` as JSON; see `ask`."""
        return await ask(self.port, key, body, path, **how)

    async def get(self, path: str, key: str = "") -> "Answer":
        """GET `path`."""
        return await ask(self.port, key, None, path)


def start_gateway(
    home: Path,
    *flags: str,
    starter: bool = True,
    env: Mapping[str, str] | None = None,
    database_url: str = "",
    port: int | None = None,
    wait: bool = True,
    within_s: float = 300,
    log: Path | None = None,
) -> GatewayProcess:
    """Start `tollway up --json` on a free port. `flags` go to the command; `env` on top of a clean environment; `log`
    takes its stderr (gateway.log in the home unless given)."""
    port = port or free_port()
    words = ["up", "--home", str(home), "--port", str(port), "--json", *flags]
    if not starter:
        words.append("--no-starter")
    home.mkdir(parents=True, exist_ok=True)
    log = log or home / "gateway.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [*tollway_program(), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
            env=_environment(database_url) | dict(env or {}),
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    gateway = GatewayProcess(home, port, process, log)
    if wait:
        try:
            gateway.wait_ready(within_s)
        except BaseException:
            gateway.kill()
            raise
    return gateway


@contextlib.asynccontextmanager
async def running_gateway(home: Path, *flags: str, **how: Any) -> AsyncIterator[GatewayProcess]:
    """`start_gateway` for the length of a block; stopped at the end however the block ends."""
    within_s = how.pop("within_s", 300)
    gateway = start_gateway(home, *flags, wait=False, **how)  # in this thread: the child ends with it
    try:
        await asyncio.to_thread(gateway.wait_ready, within_s)
        yield gateway
    finally:
        if gateway.alive:
            await asyncio.to_thread(gateway.stop)
        else:
            gateway.wait()


def tollway_program() -> list[str]:
    """The installed `tollway` beside this Python, or the module."""
    script = Path(sys.executable).parent / "tollway"
    return [str(script)] if script.exists() else [sys.executable, "-m", "tollway"]


def run_cli(home: Path, *words: str, database_url: str = "") -> Any:
    """Run one command with --json; returns its document. Raises with its stderr when it fails."""
    command = [*tollway_program(), *words, "--home", str(home), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=_environment(database_url), check=False
    )
    if done.returncode:
        raise RuntimeError(f"`tollway {' '.join(words)}` ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def _environment(database_url: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("TOLLWAY_")}
    kept |= {"NO_PROXY": "127.0.0.1,localhost", "TOLLWAY_LOG_LEVEL": "warning"}
    return kept | ({"TOLLWAY_DATABASE_URL": database_url} if database_url else {})


def _die_with_parent() -> None:
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a test run that dies leaves nothing behind


# -- customers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Customer:
    """An organization that can call: its key, and what was put into its wallet."""

    org_id: str
    name: str
    key: str
    key_id: str
    currency: str
    wallet_micros: int


@contextlib.contextmanager
def shop_of(home: Path, database_url: str = "") -> Any:
    """The shop of a home, opened beside the gateway (or without one)."""
    shop = Shop.open(Settings(home, environment={"TOLLWAY_DATABASE_URL": database_url} if database_url else {}))
    try:
        yield shop
    finally:
        shop.close()


def make_customer(
    home: Path,
    terms: catalog.Terms = PAID,
    wallet_micros: int = 0,
    *,
    name: str = "acme",
    database_url: str = "",
    **key: Any,
) -> Customer:
    """An organization on a plan of its own with `terms`, a filled wallet and an API key; a running gateway knows it
    within a quarter of a second. `key`: limits of the key (rpm, tpm, concurrency, models, scopes)."""
    with shop_of(home, database_url) as shop, shop.db.write() as conn:
        now_ms = shop.clock.now_ms()
        org = accounts.create_organization(conn, now_ms, name, f"{name}@example.com")
        plan = catalog.create_plan(conn, now_ms, f"plan-{name}", name, terms)
        catalog.subscribe(conn, now_ms, org.id, plan.id)
        if wallet_micros:
            ledger.top_up(conn, now_ms, org.id, terms.currency, wallet_micros, f"top_up:{name}")
        issued = api_keys.issue_key(conn, now_ms, shop.secrets.pepper, org.id, "test", **key)
    return Customer(org.id, name, issued.secret, issued.id, terms.currency, wallet_micros)


def offer_upstream(
    home: Path, name: str, url: str, *, upstream_model: str = "", kind: Any = "chat", database_url: str = ""
) -> None:
    """Put the server at `url` (up to /v1) on offer under `name`."""
    with shop_of(home, database_url) as shop, shop.db.write() as conn:
        models.offer_upstream(conn, shop.clock.now_ms(), name, kind, models.Upstream(url, upstream_model or name))


# -- the client --------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What a client received, to the last byte that came."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""  # chunked transfer undone
    complete: bool = False  # the last byte of the HTTP answer came
    left: bool = False  # we closed the connection ourselves
    took_s: float = 0.0
    first_event_s: float | None = None
    lost: str = ""  # why the connection ended early

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def streamed(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[bytes]:
        """Payloads of the whole events of a stream that came."""
        blocks = self.body.split(b"\n\n")[:-1]
        return [block.removeprefix(b"data: ") for block in blocks if block.startswith(b"data: ")]

    @property
    def answered(self) -> bool:
        """Whether a client would take this for its answer: a whole JSON body, or a stream up to its [DONE]."""
        if self.status != 200:
            return False
        return self.body.endswith(b"data: [DONE]\n\n") if self.streamed else self.complete

    @property
    def usage(self) -> dict[str, Any] | None:
        """The usage the answer states; None when it states none."""
        if not self.streamed:
            found: dict[str, Any] | None = self.json.get("usage")
            return found
        for event in reversed(self.events):
            if event.startswith(b"{") and (usage := json.loads(event).get("usage")):
                return dict(usage)
        return None

    @property
    def error(self) -> dict[str, Any] | None:
        """The error object, of an error answer or inside a stream."""
        if not self.streamed:
            return self.json.get("error") if self.complete and self.status != 200 else None
        for event in self.events:
            if event.startswith(b'{"error"'):
                return dict(json.loads(event)["error"])
        return None

    @property
    def text(self) -> str:
        """The generated text."""
        if not self.streamed:
            choice = self.json["choices"][0]
            return str(choice.get("text") or choice["message"]["content"])
        pieces = [json.loads(event) for event in self.events if event.startswith(b"{")]
        return "".join(
            str(piece["choices"][0].get("delta", {}).get("content") or "") for piece in pieces if piece.get("choices")
        )


def chat(text: str, model: str = "smollm2-135m-instruct", *, stream: bool = False, **more: Any) -> dict[str, Any]:
    """The body of a chat call; a stream asks for usage."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream} | more
    return body | ({"stream_options": {"include_usage": True}} if stream else {})


async def ask(
    port: int,
    key: str,
    body: Mapping[str, Any] | bytes | None,
    path: str = "/v1/chat/completions",
    *,
    leave_when: Callable[[Answer], bool] | None = None,
    timeout_s: float = 300,
) -> Answer:
    """One request on a connection of its own; never raises for what the server does. `leave_when(answer so far)`:
    asked after every piece; True closes the connection there and then."""
    answer, began = Answer(), time.monotonic()
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
            writer.write(head.encode() + data)
            await _receive(reader, answer, began, leave_when)
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        answer.lost = repr(error)
    finally:
        answer.took_s = time.monotonic() - began
        if writer is not None:
            writer.transport.abort()
    return answer


async def _receive(
    reader: asyncio.StreamReader, answer: Answer, began: float, leave_when: Callable[[Answer], bool] | None
) -> None:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    answer.status = int(status.split()[1])
    answer.headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if answer.headers.get("transfer-encoding") != "chunked":
        answer.body = await reader.readexactly(int(answer.headers.get("content-length", 0)))
        answer.complete = True
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        answer.body += (await reader.readexactly(size + 2))[:-2]
        if answer.first_event_s is None:
            answer.first_event_s = time.monotonic() - began
        if leave_when is not None and leave_when(answer):
            answer.left = True
            return
    await reader.readexactly(2)
    answer.complete = True
