"""Somebody else's server behind our doors: a second, real Tollway answers, and both shops count and bill the same; and what
an upstream can do wrong."""

import socketserver
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import msgspec
import openai
import pytest

from tests.clients.open_shop import CHAT, EMBED, OpenShop, alone, open_shop, turn
from tests.proof.house import Customer, GatewayProcess, make_customer, start_gateway
from tests.serve import tiny_doors, tiny_models
from tollway.flows import packaged, release
from tollway.insight import economics
from tollway.kit.settings import Settings
from tollway.sell import catalog, usage
from tollway.serve import models
from tollway.serve.engines.speech import sound
from tollway.shop import Shop

__all__ = ["alone", "open_shop", "turn"]
pytestmark = pytest.mark.engine
HEARS, SPEAKS, SENTENCE = "whisper-tiny-en", "hibari-en", "Nobody waits for long on this road."
METERS = ("input_tokens", "output_tokens", "images", "audio_seconds", "characters")
TERMS = catalog.Terms(
    overage="wallet", charges=tuple(catalog.Charge(meter=meter, price_micros=2_000_000) for meter in METERS)
)
FAR: dict[str, tuple[models.Kind, str]] = {
    "ear": ("transcription", HEARS), "voice": ("speech", SPEAKS), "pairs": ("rerank", "pairs"),
    "judge": ("moderation", "judge"), "painter": ("image-generation", "painter"),
}  # fmt: skip
COSTS = {"ear": (("audio_seconds", 500_000),), "voice": (("characters", 1_000_000),)}


# -- an upstream that is out of its mind -------------------------------------------------------------------------------


class Strange(socketserver.ThreadingTCPServer):
    """Answers each base URL in its own way: `/html/v1/audio/speech` gets a page. Probes it answers as it should."""

    allow_reuse_address, daemon_threads = True, True


class _Handler(socketserver.StreamRequestHandler):
    timeout = 60
    answers: ClassVar[dict[str, tuple[int, bytes]]] = {
        "html": (200, b"<!DOCTYPE html><html>bad gateway</html>"),
        "error": (200, b'{ "error": {"message": "no, sk-secret"}}'),
        "empty": (200, b""),
        "broken": (500, b"no"),
        "busy": (429, b'{"error": {"message": "slow down"}}'),
        "stranger": (401, b'{"error": {"message": "who are you, sk-secret?"}}'),
        "nonsense": (200, b'{"results": [{"index": 0, "relevance_score": "very"}], "text": 7, "segments": [{}]}'),
        "list": (200, b"[1]"),
        "halfway": (200, b'data: {"error": {"message": "out of memory, sk-secret"}}\n\n'),
        "loose": (200, b'{"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 9}}'),
        "negative": (200, b'{"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"prompt_tokens": -1000000}}'),
    }

    def handle(self) -> None:
        while line := self.rfile.readline():
            length = 0
            while (head := self.rfile.readline()) not in (b"\r\n", b""):
                if head.lower().startswith(b"content-length:"):
                    length = int(head.split(b":")[1])
            body = self.rfile.read(length)
            mode, asked = line.split()[1].decode().split("/")[1], b"QUERY" in body or b"SAY" in body or b"RIFF" in body
            if not asked:
                self._say(200, b'{"results": [], "data": []}')
            elif mode == "long":
                self._endless()
                return
            elif mode == "silent":
                self.rfile.read(1)  # until the other side leaves
                return
            else:
                self._say(*self.answers[mode])

    def _say(self, status: int, body: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    def _endless(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"%x\r\n%b\r\n" % (1 << 20, b"a" * (1 << 20))
        try:
            while True:
                self.wfile.write(piece)
        except OSError:
            pass


@pytest.fixture(scope="module")
def strange() -> Iterator[str]:
    with Strange(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


# -- two shops ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, Customer]]:
    """The shop that others buy from."""
    home = tmp_path_factory.mktemp("far")
    with Shop.open(Settings(home, environment={})) as shop:
        for name in ("pairs", "judge", "painter"):
            tiny_models.shelve(shop.store, name, tmp_path_factory.mktemp(name), tiny_doors.MAKERS[name])
            release.deploy(shop, name)
        for name in (HEARS, SPEAKS):
            packaged.bring(shop, name)
    us = make_customer(home, TERMS, 10_000_000, name="the-other-shop")
    made = start_gateway(home, starter=False, env={"TOLLWAY_AUDIO_SECONDS_MAX": "30"})
    yield made, us
    made.stop()


@pytest.fixture(scope="module")
def near(
    far: tuple[GatewayProcess, Customer],
    open_shop: OpenShop,
    strange: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    """The shop that sells on: none of its models is its own."""
    home = tmp_path_factory.mktemp("near")
    gateway, us = far
    with Shop.open(Settings(home, environment={})) as shop:
        for name, (kind, there) in FAR.items():
            upstream = models.Upstream(f"{gateway.url}/v1", there, "FAR_KEY", (), COSTS.get(name, ()))
            release.add_upstream(shop, name, kind, upstream)
        for name, kind, there in (("chat", "chat", CHAT), ("embed", "embedding", EMBED)):
            upstream = models.Upstream(open_shop.base_url, there, "OPEN_KEY")
            release.add_upstream(shop, name, kind, upstream)  # type: ignore[arg-type]
        for mode in (*_Handler.answers, "long", "silent"):
            kinds = {"rank": "rerank", "say": "speech", "hear": "transcription", "talk": "chat", "embed": "embedding"}
            for name, kind in kinds.items():
                upstream = models.Upstream(f"{strange}/{mode}/v1", "any")
                release.add_upstream(shop, f"{name}-{mode}", kind, upstream)  # type: ignore[arg-type]
    key = open_shop.customer(TERMS, 1_000_000).key
    env = {"FAR_KEY": us.key, "OPEN_KEY": key, "TOLLWAY_AUDIO_SECONDS_MAX": "20"}
    made = start_gateway(home, starter=False, env=env)
    yield made
    made.stop()


class Buyer:
    def __init__(self, gateway: GatewayProcess) -> None:
        self.home = gateway.home
        made = make_customer(gateway.home, TERMS, 1_000_000, name=f"b-{uuid.uuid4().hex[:8]}")
        self.org_id = made.org_id
        self.http = httpx.Client(
            base_url=gateway.url, headers={"authorization": f"Bearer {made.key}"}, timeout=300, trust_env=False
        )
        while self.http.get("/v1/key").status_code == 401:
            time.sleep(0.02)
        self.openai = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=made.key, max_retries=0)

    def totals(self) -> usage.Totals:
        with Shop.open(Settings(self.home, environment={})) as shop, shop.db.read() as conn:
            return usage.totals(conn, self.org_id, 0)


@pytest.fixture
def buyer(near: GatewayProcess) -> Iterator[Buyer]:
    one = Buyer(near)
    wanted = {
        *FAR,
        "chat",
        "embed",
        *(f"{name}-{mode}" for name in ("rank", "say", "hear") for mode in _Handler.answers),
    }
    end = time.monotonic() + 300
    while wanted - {told["id"] for told in one.http.get("/v1/models").json()["data"]}:
        assert time.monotonic() < end, "an upstream is offered once it has answered"
        time.sleep(0.05)
    yield one
    one.http.close()
    one.openai.close()


def far_totals(far: tuple[GatewayProcess, Customer]) -> usage.Totals:
    with Shop.open(Settings(far[0].home, environment={})) as shop, shop.db.read() as conn:
        return usage.totals(conn, far[1].org_id, 0)


def test_what_is_spoken_there_is_heard_there_counted_by_both_and_paid_with_its_cost(
    buyer: Buyer, far: tuple[GatewayProcess, Customer]
) -> None:
    before = far_totals(far)
    spoken = buyer.openai.audio.speech.create(model="voice", voice="default", input=SENTENCE, response_format="flac")
    assert spoken.response.headers["content-type"] == "audio/flac"
    recording = spoken.read()
    assert recording[:4] == b"fLaC"
    ask = buyer.openai.audio.transcriptions.create
    heard = ask(model="ear", file=("a.flac", recording))
    whole: Any = ask(model="ear", file=("a.flac", recording), response_format="verbose_json")
    srt = ask(model="ear", file=("a.flac", recording), response_format="srt")
    assert heard.text == whole.text == SENTENCE and SENTENCE in srt and whole.segments[0].text == SENTENCE

    ours, theirs = buyer.totals(), far_totals(far)
    assert ours.characters == theirs.characters - before.characters == len(SENTENCE)
    seconds = -(-float(whole.duration) // 1)
    assert ours.audio_seconds == theirs.audio_seconds - before.audio_seconds == 3 * seconds
    assert ours.price_picos == (len(SENTENCE) + 3 * seconds) * 2_000_000
    with Shop.open(Settings(buyer.home, environment={})) as shop, shop.db.read() as conn:
        books = economics.of_shop(shop, conn, shop.clock.now_ms() - 3_600_000, shop.clock.now_ms())
    costs = {row.model: row.bought_micros for row in books.rows}
    assert costs["ear"] >= 3 * seconds // 2 and costs["voice"] >= len(SENTENCE)


def test_rankings_judgements_and_pictures_are_those_of_the_other_shop(
    buyer: Buyer, far: tuple[GatewayProcess, Customer]
) -> None:
    gateway, us = far
    with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {us.key}"}, trust_env=False, timeout=300) as there:
        for path, name, body in (
            (
                "/v1/rerank",
                "pairs",
                {"query": "the best year", "documents": ["a dull film", "the best film of the year"]},
            ),
            ("/v1/moderations", "judge", {"input": ["a dull film", "a lovely film"]}),
            ("/v1/images/generations", "painter", {"n": 2, "seed": 3, "prompt": ""}),
        ):
            ours, theirs = (one.post(path, json={"model": name, **body}) for one in (buyer.http, there))
            assert ours.status_code == theirs.status_code == 200, ours.text
            for key in ("results", "data", "usage"):
                assert ours.json().get(key) == theirs.json().get(key)
    assert buyer.totals().images == 2 and buyer.totals().input_tokens > 10


def test_chat_responses_and_embeddings_are_counted_as_there(buyer: Buyer, alone: None) -> None:
    question = [{"role": "user", "content": "Say hello."}]
    body: dict[str, Any] = {"model": "chat", "messages": question, "max_tokens": 6, "temperature": 0}
    whole = buyer.openai.chat.completions.create(**body)
    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in buyer.openai.chat.completions.create(**body, stream=True)
    )
    told = buyer.openai.responses.create(model="chat", input="Say hello.", max_output_tokens=16, temperature=0)
    vector = buyer.openai.embeddings.create(model="embed", input=["a", "b"])
    assert whole.choices[0].message.content == streamed and whole.model == "chat"
    assert told.output_text.startswith(streamed) and told.usage is not None and len(vector.data) == 2
    assert whole.usage is not None
    read = 2 * whole.usage.prompt_tokens + told.usage.input_tokens + vector.usage.prompt_tokens
    found = buyer.totals()
    assert found.input_tokens + found.cached_tokens == read
    assert found.output_tokens == 2 * whole.usage.completion_tokens + told.usage.output_tokens


def test_what_the_upstream_refuses_is_said_in_its_words(buyer: Buyer) -> None:
    reply = buyer.http.post("/v1/audio/speech", json={"model": "voice", "input": "x", "response_format": "mp3"})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "response_format"
    reply = buyer.http.post("/v1/images/generations", json={"model": "painter", "prompt": "a cat"})
    assert reply.status_code == 400 and "reads no words" in reply.json()["error"]["message"]
    assert buyer.totals().requests == 0


def test_a_recording_is_measured_before_it_is_sent_away(buyer: Buyer, far: tuple[GatewayProcess, Customer]) -> None:
    import numpy as np

    before = far_totals(far).requests
    tone = sound.wav((np.sin(np.arange(21 * 8000) * 0.3) * 9000).astype("<i2"), 8000)
    for recording, code in (
        (b"hello", "invalid_audio"),
        (b"RIFF" + b"\0" * 60, "invalid_audio"),
        (tone, "audio_too_long"),
    ):
        reply = buyer.http.post("/v1/audio/transcriptions", data={"model": "ear"}, files={"file": ("a", recording)})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)
    assert far_totals(far).requests == before


# -- what an upstream can do wrong -------------------------------------------------------------------------------------


def asked(buyer: Buyer, name: str, mode: str, **headers: str) -> httpx.Response:
    model = {"model": f"{name}-{mode}"}
    if name == "hear":
        tone = sound.wav(__import__("numpy").zeros(8000, "<i2"), 8000)
        files = {"file": ("a.wav", tone)}
        return buyer.http.post("/v1/audio/transcriptions", data=model, files=files, headers=headers)
    path, body = ("/v1/rerank", {"query": "QUERY", "documents": ["d"]})
    if name == "say":
        path, body = "/v1/audio/speech", {"input": "SAY"}
    if name == "embed":
        path, body = "/v1/embeddings", {"input": ["QUERY"]}
    if name == "talk":
        path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": "QUERY"}]}
    return buyer.http.post(path, json=model | body, headers=headers)


@pytest.mark.parametrize("mode", ["html", "error", "empty", "broken", "busy", "stranger", "nonsense", "list", "long"])
def test_what_is_no_answer_is_a_503_that_nobody_pays(mode: str, buyer: Buyer) -> None:
    names = {"long": ["rank"], "nonsense": ["rank", "say", "hear", "talk", "embed"]}
    for name in names.get(mode, ["rank", "say", "talk", "embed"]):
        reply = asked(buyer, name, mode)
        assert reply.status_code == 503, f"{name}: {reply.text[:200]}"
        assert reply.json()["error"]["code"] in ("engine_failed", "engine_busy", "engine_lost")
        assert "sk-secret" not in reply.text
    assert buyer.totals().requests == 0 and buyer.totals().price_picos == 0


def test_an_error_in_the_middle_of_a_stream_is_none_of_its_pieces(buyer: Buyer) -> None:
    """An engine that has said 200 can only say it there."""
    body = {"model": "talk-halfway", "stream": True, "messages": [{"role": "user", "content": "QUERY"}]}
    reply = buyer.http.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_failed"), reply.text
    assert "sk-secret" not in reply.text and buyer.totals().requests == 0


@pytest.mark.parametrize("name", ["rank", "hear"])
def test_one_that_says_nothing_is_left_when_the_time_is_over(name: str, buyer: Buyer) -> None:
    began = time.monotonic()
    reply = asked(buyer, name, "silent", **{"x-tollway-timeout-ms": "2000"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "timeout")
    assert 0.5 < time.monotonic() - began < 60
    assert buyer.totals().requests == 0


def test_other_words_for_what_was_used_are_understood(buyer: Buyer) -> None:
    reply = asked(buyer, "rank", "loose")
    assert reply.status_code == 200 and reply.json()["results"][0]["relevance_score"] == 0.5
    assert buyer.totals().input_tokens == 9


def test_less_than_nothing_was_never_used(buyer: Buyer) -> None:
    """A bill below zero would be money for the caller."""
    reply = asked(buyer, "rank", "negative")
    assert reply.status_code == 200
    assert buyer.totals().input_tokens > 0 and buyer.totals().price_picos > 0


def test_a_cost_of_no_known_meter_is_refused(near: GatewayProcess) -> None:
    with Shop.open(Settings(near.home, environment={})) as shop, pytest.raises(Exception, match="no meter 'tokenz'"):
        release.add_upstream(shop, "x", "chat", models.Upstream("http://x/v1", "x", "", (), (("tokenz", 1),)))


def test_an_offer_of_before_has_no_cost() -> None:
    kept = {"url": "http://x/v1", "model": "x", "key_env": "", "more": []}
    assert msgspec.convert(kept, models.Upstream).costs == ()
