"""Speech and hearing through the unmodified OpenAI client: what is spoken is heard again, and paid. Real models, real files."""

import asyncio
import contextlib
import io
import json
import math
import os
import select
import socket
import struct
import subprocess
import time
import uuid
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.proof.house import GatewayProcess, make_customer, start_gateway
from tollway.faces.console import snippets
from tollway.flows import packaged, sample_calls
from tollway.kit.errors import BadRequest
from tollway.kit.settings import Settings
from tollway.sell import catalog, usage
from tollway.serve import models
from tollway.serve.engines.speech import decoding, sound
from tollway.shop import Shop

pytestmark = [pytest.mark.engine, pytest.mark.clients]

HEARS, SPEAKS = "whisper-tiny-en", "hibari-en"
PLACES_EACH = 8  # recordings of one organization at the same time
SENTENCE = "The quick brown fox jumps over the lazy dog."
TERMS = catalog.Terms(
    overage="wallet",
    charges=(
        catalog.Charge(meter="audio_seconds", price_micros=100_000_000),
        catalog.Charge(meter="characters", price_micros=10_000_000),
    ),
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("home")
    with Shop.open(Settings(home, environment={})) as shop:
        for name in (HEARS, SPEAKS):
            package, model = packaged.bring(shop, name)
            assert model is not None and model.engine == "speech"
            assert shop.store.verify(package, deep=True).ok
            assert package.manifest.licence in ("MIT", "Apache-2.0")
    made = start_gateway(
        home,
        starter=False,
        env={
            "TOLLWAY_AUDIO_SECONDS_MAX": "30",
            "TOLLWAY_AUDIO_BYTES_MAX": "2000000",
            "TOLLWAY_BODY_TIMEOUT_S": "120",  # who sends slowly keeps his place for the length of a test
        },
    )
    yield made
    made.stop()


class Buyer:
    def __init__(self, gateway: GatewayProcess, wallet_micros: int = 1_000_000, **key: Any) -> None:
        self.home = gateway.home
        made = make_customer(gateway.home, TERMS, wallet_micros, name=f"b-{uuid.uuid4().hex[:8]}", **key)
        self.org_id, self.key = made.org_id, made.key
        self.http = httpx.Client(
            base_url=gateway.url, headers={"authorization": f"Bearer {self.key}"}, timeout=300, trust_env=False
        )
        while self.http.get("/v1/key").status_code == 401:
            pass
        self.openai = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=self.key, max_retries=0)

    def totals(self) -> usage.Totals:
        with Shop.open(Settings(self.home, environment={})) as shop, shop.db.read() as conn:
            return usage.totals(conn, self.org_id, 0)

    def post(self, recording: bytes, **fields: Any) -> httpx.Response:
        files = {"file": ("a.wav", recording)}
        return self.http.post("/v1/audio/transcriptions", data={"model": HEARS, **fields}, files=files)


@pytest.fixture
def buyer(gateway: GatewayProcess) -> Iterator[Buyer]:
    one = Buyer(gateway)
    yield one
    one.http.close()
    one.openai.close()


def tone(seconds: float, rate: int = 8000) -> bytes:
    return sound.wav((np.sin(np.arange(int(seconds * rate)) * 0.3) * 9000).astype("<i2"), rate)


def test_what_is_spoken_is_heard_again_and_both_are_paid(buyer: Buyer) -> None:
    spoken = buyer.openai.audio.speech.create(model=SPEAKS, voice="default", input=SENTENCE, response_format="flac")
    assert spoken.response.headers["content-type"] == "audio/flac"
    recording = spoken.read()
    assert recording[:4] == b"fLaC"
    heard = buyer.openai.audio.transcriptions.create(model=HEARS, file=("a.flac", recording))
    assert heard.text == SENTENCE
    assert buyer.totals().characters == len(SENTENCE)
    seconds = buyer.totals().audio_seconds
    assert 2 <= seconds <= 4
    assert buyer.totals().price_picos == (len(SENTENCE) * 10 + seconds * 100) * 1_000_000


def test_a_refused_recording_is_a_request_of_the_minute(gateway: GatewayProcess) -> None:
    """It is decoded before it can be refused: without a limit, refusals would be work for nothing."""
    buyer = Buyer(gateway, rpm=2)
    answers = [buyer.post(b"RIFF, and no sound") for _ in range(3)]
    assert [one.status_code for one in answers] == [400, 400, 429], [one.text for one in answers]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert buyer.totals().requests == 0


def test_every_form_of_a_transcription_tells_the_same(buyer: Buyer) -> None:
    recording = buyer.http.post("/v1/audio/speech", json={"model": SPEAKS, "input": SENTENCE}).content
    with wave.open(io.BytesIO(recording)) as opened:
        seconds = opened.getnframes() / opened.getframerate()
        assert (opened.getframerate(), opened.getnchannels(), opened.getsampwidth()) == (24_000, 1, 2)
    ask = buyer.openai.audio.transcriptions.create
    whole: Any = ask(model=HEARS, file=("a.wav", recording), response_format="verbose_json")
    assert whole.text == SENTENCE and whole.language == "en"
    assert float(whole.duration) == pytest.approx(seconds, abs=0.02)
    assert [one.text for one in whole.segments] == [SENTENCE]
    assert 0 <= whole.segments[0].start < whole.segments[0].end <= seconds + 0.02
    assert ask(model=HEARS, file=("a.wav", recording), response_format="text") == SENTENCE + "\n"
    srt = ask(model=HEARS, file=("a.wav", recording), response_format="srt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:0") and SENTENCE in srt
    vtt = ask(model=HEARS, file=("a.wav", recording), response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:0") and SENTENCE in vtt
    raw = buyer.http.post("/v1/audio/speech", json={"model": SPEAKS, "input": SENTENCE, "response_format": "pcm"})
    assert raw.headers["content-type"] == "audio/pcm" and recording.endswith(raw.content)
    fast = buyer.http.post("/v1/audio/speech", json={"model": SPEAKS, "input": SENTENCE, "speed": 2.0}).content
    assert len(fast) < 0.7 * len(recording)


def test_what_is_no_recording_is_refused_and_costs_nothing(buyer: Buyer) -> None:
    random = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    liar = bytearray(tone(1))
    liar[40:44] = struct.pack("<I", 0xFFFFFFF0)  # four gigabytes follow, it says
    hostile = {
        "empty": b"", "text": b"hello", "noise": random, "riff": b"RIFF" + random[:4] + b"WAVE" + random,
        "flac": b"fLaC" + random, "mp3": b"ID3" + random, "ogg": b"OggS" + random, "zip": b"PK\x03\x04" + random,
    }  # fmt: skip
    for name, recording in hostile.items():
        reply = buyer.post(recording)
        assert reply.status_code == 400, (name, reply.text)
        assert reply.json()["error"]["code"] in ("invalid_audio", "missing_file"), (name, reply.text)
    assert buyer.post(bytes(liar)).status_code in (200, 400)
    long = buyer.post(tone(31))
    assert (long.status_code, long.json()["error"]["code"]) == (400, "audio_too_long")
    large = buyer.post(b"RIFF" + bytes(2_100_000))
    assert (large.status_code, large.json()["error"]["param"]) in ((413, "file"), (413, None))
    assert buyer.totals().audio_seconds <= 1
    assert buyer.http.get("/healthz").status_code == 200


def test_what_a_model_cannot_do_is_refused_by_name(buyer: Buyer) -> None:
    def param(reply: httpx.Response) -> str:
        assert reply.status_code == 400, reply.text
        return str(reply.json()["error"]["param"])

    recording = tone(1)
    assert param(buyer.post(recording, language="zh")) == "language"
    assert param(buyer.post(recording, response_format="docx")) == "response_format"
    assert param(buyer.post(recording, temperature="warm")) == "temperature"
    assert param(buyer.post(recording, colour="red")) == "colour"
    assert param(buyer.post(recording, seconds="1")) == "seconds"
    assert param(buyer.post(recording, stream="true")) == "stream"
    assert param(buyer.post(recording, **{"timestamp_granularities[]": "word"})) == "timestamp_granularities"
    assert param(buyer.post(recording, model=SPEAKS)) == "model"
    speech = {"model": SPEAKS, "input": "Hi."}
    for name, value in (("voice", "alloy"), ("response_format", "mp3"), ("speed", 5), ("instructions", "sing")):
        assert param(buyer.http.post("/v1/audio/speech", json=speech | {name: value})) == name
    assert param(buyer.http.post("/v1/audio/speech", json=speech | {"input": "x" * 5000})) == "input"
    assert param(buyer.http.post("/v1/audio/speech", json=speech | {"model": HEARS})) == "model"


def test_who_cannot_pay_the_whole_recording_is_not_heard(gateway: GatewayProcess) -> None:
    poor = Buyer(gateway, wallet_micros=300)  # three seconds
    assert poor.post(tone(4)).status_code == 402
    assert poor.totals().requests == 0
    assert poor.post(tone(2)).status_code == 200
    assert poor.totals().audio_seconds == 2
    poor.http.close()
    poor.openai.close()


def test_who_sends_many_recordings_slowly_leaves_places_to_the_others(gateway: GatewayProcess, buyer: Buyer) -> None:
    slow, port = Buyer(gateway), httpx.URL(gateway.url).port
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {slow.key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000\r\n\r\n--b"
    ).encode()
    with contextlib.ExitStack() as open_now:
        senders = [open_now.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
        for one in senders:
            one.sendall(head)
        end = time.monotonic() + 60
        while len(select.select(senders, [], [], 0.05)[0]) < len(senders) - PLACES_EACH and time.monotonic() < end:
            time.sleep(0.05)  # who gets no place is told so at once: then all heads were read
        refused = slow.post(tone(1))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_recordings")
        assert int(refused.headers["retry-after"]) >= 1
        assert buyer.post(tone(1)).status_code == 200
    slow.http.close()
    slow.openai.close()


async def test_a_recording_is_decoded_within_bounds(tmp_path: Path) -> None:
    samples = (np.sin(np.arange(22_050) * 0.05) * 12_000).astype("<i2")
    for made in (sound.wav(samples, 22_050), sound.flac(samples, 22_050)):
        found = np.frombuffer(await decoding.decoded(made, 2), "<i2")
        assert len(found) == pytest.approx(16_000, abs=20)
        assert math.sqrt((found.astype(float) ** 2).mean()) == pytest.approx(12_000 / math.sqrt(2), rel=0.05)
    with pytest.raises(BadRequest, match="longer than 1 seconds"):
        await decoding.decoded(sound.flac(np.zeros(100_000, "<i2"), 22_050), 1)
    bad = await asyncio.gather(
        *(decoding.decoded(head + bytes(3000), 2) for head in (b"fLaC", b"ID3", b"OggS")), return_exceptions=True
    )
    assert all(isinstance(one, BadRequest) for one in bad)


@pytest.mark.parametrize("name", [HEARS, SPEAKS])
def test_the_calls_that_the_console_shows_are_answered_when_they_are_pasted(buyer: Buyer, tmp_path: Path, name: str) -> None:
    with Shop.open(Settings(buyer.home, environment={})) as shop, shop.db.read() as conn:
        (call,) = sample_calls.of(shop.store, shop.settings, models.get_model(conn, name))
    code = snippets.curl(str(buyer.http.base_url).rstrip("/"), call, buyer.key)
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    if name == HEARS:
        assert "toll road" in json.loads(done.stdout)["text"].lower(), done.stdout
    else:
        assert (tmp_path / "speech.wav").read_bytes()[:4] == b"RIFF"
