"""How far a call comes that nobody pays for: no engine counts for it, no model is loaded, no line looks crowded."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.flows.test_call import Engine
from tests.sell.test_access import Shop, terms
from tollway.flows.answer import open_call
from tollway.flows.call import Service
from tollway.kit.clock import ManualClock
from tollway.kit.db import Database
from tollway.kit.errors import PaymentRequired, TollwayError
from tollway.kit.settings import Settings
from tollway.sell import catalog, ledger
from tollway.serve.engines import Caps, UpstreamServer
from tollway.serve.line import Seat
from tollway.serve.models import Model
from tollway.serve.requests import ChatRequest, EmbeddingRequest, Message, Request, TranscriptionRequest
from tollway.serve.served import Served
from tollway.watch.metrics import Metrics

TERMS = catalog.Terms(
    overage="wallet",
    charges=(
        *terms().charges[1:],
        catalog.Charge(meter="input_tokens", price_micros=2_000_000),
        catalog.Charge(meter="audio_seconds", price_micros=1_000_000),
    ),
)


class Asked(Engine):
    """An engine that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []
        self.hangs = False

    async def post(self, path: str, body: bytes, kind: str = "") -> Any:
        self.paths.append(path)
        if self.hangs:
            await asyncio.Event().wait()
        if path == "/apply-template":
            return SimpleNamespace(status=200, body=b'{"prompt":"x"}')
        return SimpleNamespace(status=200, body=b'{"tokens":[1,2],"seconds":3}')


class House:
    """A service with one buyer, whose wallet is empty, and one model."""

    def __init__(self, shop: Shop, caps: Caps) -> None:
        self.shop, self.engine, self.woken = shop, Asked(), 0
        model = Model("m", "chat", "M", "llama_cpp", "1", None, 0)
        settings = Settings(Path("/nonexistent"), environment={})
        engines = [UpstreamServer("http://localhost/v1", "m", caps=caps)]
        self.served = Served(model, engines, {}, settings, shop.clock, lambda *_: None, self._wake)
        seat = Seat(self.engine, 4, 0, "1")  # type: ignore[arg-type]
        self.served.line.seats.append(seat)
        self.served._sizing._seats = lambda: [seat]
        fleet = SimpleNamespace(find=lambda *_: self.served)
        self.service = Service(shop.clock, shop.access, None, fleet, Metrics(), 5.0)  # type: ignore[arg-type]

    def _wake(self, _served: Served) -> None:
        self.woken += 1

    async def ask(self, request: Request, timeout_s: float | None = None) -> TollwayError | None:
        try:
            call = await open_call(self.service, self.shop.caller(), request, "id", timeout_s=timeout_s)
        except TollwayError as error:
            return error
        self.service.access.release(call.grant)
        return None


@pytest.fixture
def poor(db: Database, clock: ManualClock, pepper: bytes) -> Shop:
    return Shop(db, clock, pepper, TERMS)


CHAT = ChatRequest(model="m", messages=[Message(role="user", content="x" * 10_000)])
RECORDING = TranscriptionRequest(model="m", recording=b"RIFF")


@pytest.mark.parametrize(
    ("request_", "caps"),
    [(CHAT, Caps(chat=True, tokenize=True)), (RECORDING, Caps(transcriptions=True, languages=("en",)))],
)
async def test_an_empty_wallet_has_nothing_counted_and_nothing_loaded(
    poor: Shop, request_: Request, caps: Caps
) -> None:
    house = House(poor, caps)
    house.served.away = True
    assert isinstance(await house.ask(request_), PaymentRequired)
    assert house.engine.paths == [] and house.woken == 0
    poor.change(lambda conn: ledger.top_up(conn, poor.clock.now_ms(), poor.org.id, "USD", 10_000_000, "t"))
    assert await house.ask(request_) is None
    assert house.engine.paths and house.woken


@pytest.mark.parametrize(
    ("request_", "caps"),
    [(CHAT, Caps(chat=True, tokenize=True)), (RECORDING, Caps(transcriptions=True, languages=("en",)))],
)
async def test_a_template_that_never_ends_takes_the_time_of_its_call_only(
    poor: Shop, request_: Request, caps: Caps
) -> None:
    poor.change(lambda conn: ledger.top_up(conn, poor.clock.now_ms(), poor.org.id, "USD", 10_000_000, "t"))
    house = House(poor, caps)
    house.engine.hangs = True
    async with asyncio.timeout(60):
        error = await house.ask(request_, timeout_s=0.2)
    assert error is not None and (error.status, error.code) == (503, "timeout")
    assert house.engine.paths and house.shop.caller().account.gate.running == 0


async def test_calls_that_nobody_pays_for_make_no_line_look_crowded(poor: Shop) -> None:
    house = House(poor, Caps(embeddings=True))
    forecast = house.served.line.forecast
    forecast.rate, forecast.usual = 1000.0, 10.0
    request = EmbeddingRequest(model="m", input="x" * 700)  # 0.7 s: fine, unless more comes than can be served
    for _ in range(100):
        assert isinstance(await house.ask(request), PaymentRequired)
    poor.change(lambda conn: ledger.top_up(conn, poor.clock.now_ms(), poor.org.id, "USD", 10_000_000, "t"))
    assert await house.ask(request) is None
