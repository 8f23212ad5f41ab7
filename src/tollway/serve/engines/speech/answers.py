"""What the speech replica answers, by path: how long a recording is, what was said in it; a text, spoken."""

import asyncio
import base64
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from tollway.kit.errors import BadRequest, NotFound, Unavailable
from tollway.serve.engines.speech import Spec, decoding, sound
from tollway.serve.engines.speech.whisper import Whisper

_KEPT: Final = 4  # recordings that were measured and not yet read
_DECODERS: Final = 2
_STUCK_S: Final = 240.0


class _Ask(msgspec.Struct):
    """A body; the gateway has checked it, this only finds its parts."""

    model: str = ""
    input: str = ""
    prompt: str = ""
    temperature: float = 0.0
    speed: float = 1.0
    response_format: str = "wav"


_decode = msgspec.json.Decoder(_Ask).decode


class _Answers:
    """Answers by path; the engine's work is done beside the event loop."""

    def __init__(self, spec: Spec, workers: int) -> None:
        self._spec = spec
        self._workers = ThreadPoolExecutor(workers, "speech")
        self._began: dict[int, float] = {}
        self._doors: dict[str, Callable[[_Ask, bytes], Awaitable[dict[str, Any]]]] = {}

    async def __call__(self, method: str, path: str, body: bytes) -> bytes:
        if method == "GET" and path == "/health":
            now = time.monotonic()
            if any(now - began > _STUCK_S for began in self._began.values()):
                raise Unavailable("The engine does not come back.", code="engine_failed")
            return b'{"status":"ok"}'
        door = self._doors.get(path)
        if door is None or method != "POST":
            raise NotFound(f"There is no {method} {path[:80]!r} here.", code="unknown_url")
        head, _, rest = body.partition(b"\n")
        try:
            ask = _decode(head)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"The body is not valid: {str(error)[:200]}.", code="invalid_json") from None
        return msgspec.json.encode(await door(ask, rest))

    async def _beside(self, work: Callable[[threading.Event], Any]) -> Any:
        """Run in a worker; when the caller leaves, the work is told to end at its next step."""
        stop, key = threading.Event(), object()

        def run() -> Any:
            self._began[id(key)] = time.monotonic()
            try:
                return work(stop)
            finally:
                del self._began[id(key)]

        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, run)
        except asyncio.CancelledError:
            stop.set()
            raise


class Hearing(_Answers):
    """Recordings to words."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        super().__init__(spec, workers=1)
        self._whisper = Whisper(folder, spec.threads)
        self._decoders = asyncio.Semaphore(_DECODERS)
        self._kept: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._doors = {
            "/v1/audio/measure": self._measure,
            "/v1/audio/transcriptions": self._transcribe,
            "/v1/probe": self._probe,
        }

    async def _probe(self, ask: _Ask, rest: bytes) -> dict[str, Any]:
        silence = np.zeros(decoding.RATE, np.float32)
        await self._beside(lambda stop: self._whisper.transcribe(silence, "", 0.0, stop.is_set))
        return {"ok": True}

    async def _measure(self, ask: _Ask, recording: bytes) -> dict[str, Any]:
        heard = await self._sound(recording)
        return {"seconds": -(-len(heard) // decoding.RATE)}

    async def _transcribe(self, ask: _Ask, recording: bytes) -> dict[str, Any]:
        heard = await self._sound(recording)
        self._kept.pop(hashlib.sha256(recording).digest(), None)
        read = await self._beside(
            lambda stop: self._whisper.transcribe(heard, ask.prompt, ask.temperature, stop.is_set)
        )
        seconds = len(heard) / decoding.RATE
        return {
            "text": " ".join(one.text for one in read),
            "language": self._whisper.languages[0] if len(self._whisper.languages) == 1 else "",
            "duration": round(seconds, 2),
            "segments": read,
            "usage": {"prompt_tokens": 0, "total_tokens": 0, "audio_seconds": -(-len(heard) // decoding.RATE)},
        }

    async def _sound(self, recording: bytes) -> np.ndarray:
        """A recording's samples; what was measured is not decoded again a moment later."""
        key = hashlib.sha256(recording).digest()
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        async with self._decoders:
            samples = await decoding.decoded(recording, self._spec.seconds_max)
        heard = np.frombuffer(samples, "<i2").astype(np.float32) / 32768.0
        self._kept[key] = heard
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return heard


class Speaking(_Answers):
    """Texts to speech."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        from tollway.serve.engines.speech.voice import Voice

        super().__init__(spec, workers=spec.threads)
        self._folder, self._voice_type = folder, Voice
        self._mine = threading.local()
        self._voice().spoken("Ready.", 1.0, lambda: False)
        self._doors = {"/v1/audio/speech": self._speak, "/v1/probe": self._probe}

    def _voice(self) -> Any:
        """Each worker has a voice of its own: its dictionaries are filled as it reads."""
        if not hasattr(self._mine, "voice"):
            self._mine.voice = self._voice_type(self._folder)
        return self._mine.voice

    async def _probe(self, ask: _Ask, rest: bytes) -> dict[str, Any]:
        await self._beside(lambda stop: self._voice().spoken("One.", 1.0, stop.is_set))
        return {"ok": True}

    async def _speak(self, ask: _Ask, rest: bytes) -> dict[str, Any]:
        if ask.response_format not in sound.KINDS:
            raise BadRequest("This engine makes wav, pcm and flac.", param="response_format", code="invalid_value")
        if not ask.input:
            raise BadRequest("There is nothing to say.", param="input", code="invalid_value")

        def work(stop: threading.Event) -> tuple[str, float]:
            voice = self._voice()
            spoken = voice.spoken(ask.input, ask.speed, stop.is_set)
            data = sound.written(spoken, voice.rate, ask.response_format)
            return base64.b64encode(data).decode("ascii"), len(spoken) / voice.rate

        audio, seconds = await self._beside(work)
        return {
            "audio": audio,
            "content_type": sound.KINDS[ask.response_format],
            "duration": round(seconds, 2),
            "usage": {"prompt_tokens": 0, "total_tokens": 0, "characters": len(ask.input)},
        }
