"""What is made for a caller: pictures, speech, and the words of a recording.

`/v1/images/generations`, `/v1/audio/speech`, `/v1/audio/transcriptions`. A recording reaches the engine as it came, behind
one line of JSON: no copy in another alphabet.
"""

import hashlib
import secrets
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from tollway.kit.errors import Unavailable
from tollway.serve.engines import Caps
from tollway.serve.requests.parts import EngineCall, OnePiece, unsupported

PICTURES_MAX: Final = 10
CHARACTERS_MAX: Final = 4096
_SEED_MAX: Final = 2**31 - 1
_SOUNDS: Final = {
    "mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav",
    "pcm": "audio/pcm",
}  # fmt: skip
_ENDINGS: Final = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg"}


class ImageRequest(OnePiece, kw_only=True):
    """POST /v1/images/generations."""

    prompt: Annotated[str, Meta(max_length=32_000)] = ""
    n: Annotated[int, Meta(ge=1, le=PICTURES_MAX)] | None = None
    size: str | None = None
    seed: Annotated[int, Meta(ge=0, le=_SEED_MAX)] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: str | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    moderation: str | None = None

    operation = "image"
    shapes = True

    def counted(self, caps: Caps) -> tuple[str, int]:
        return "images", self.n or 1

    def refuse_unsupported(self, caps: Caps) -> None:
        if not caps.images:
            raise unsupported("model", "this model makes no pictures; GET /v1/models says what kind each is")
        if self.response_format == "url":
            raise unsupported("response_format", "pictures are sent as b64_json and kept nowhere")
        if caps.passes_through:
            return
        if self.prompt.strip() and not (caps.prompts and self.prompt.strip() in caps.prompts):
            known = f"; it knows {', '.join(caps.prompts[:20])}" if caps.prompts else '; leave it out, or send ""'
            raise unsupported("prompt", f"this model makes pictures of one kind and reads no words{known}")
        own = f"{caps.image_size}x{caps.image_size}"
        if self.size not in (None, "auto", own):
            raise unsupported("size", f"this model makes pictures of {own}")
        if self.output_format not in (None, "png"):
            raise unsupported("output_format", "pictures are PNG")
        for name in ("quality", "style", "background", "moderation"):
            if getattr(self, name) not in (None, "auto", "standard"):
                raise unsupported(name, "this model does not have it")

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        body = msgspec.to_builtins(self) | {"model": model}
        if not caps.passes_through:
            seed = secrets.randbelow(_SEED_MAX) if self.seed is None else self.seed
            body = {"model": model, "n": self.n or 1, "seed": seed, "prompt": self.prompt.strip()}
        return [EngineCall("/images/generations", msgspec.json.encode(body))]

    def shaped(self, answer: bytes, call_id: str, at_s: int) -> bytes:
        return msgspec.json.encode({"created": at_s} | msgspec.json.decode(answer))


class SpeechRequest(OnePiece, kw_only=True):
    """POST /v1/audio/speech."""

    input: Annotated[str, Meta(min_length=1, max_length=CHARACTERS_MAX)]
    voice: str | dict[str, Any] | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    speed: Annotated[float, Meta(gt=0)] | None = None
    instructions: str | None = None
    stream_format: Literal["audio", "sse"] | None = None

    operation = "speech"

    def counted(self, caps: Caps) -> tuple[str, int]:
        return "characters", len(self.input)

    def refuse_unsupported(self, caps: Caps) -> None:
        if not caps.speech:
            raise unsupported("model", "this model does not speak; GET /v1/models says what kind each is")
        if not self.input.strip():
            raise unsupported("input", "there is nothing to say")
        if self.stream_format == "sse":
            raise unsupported("stream_format", "speech is sent as audio")
        slowest, fastest = (0.25, 4.0) if caps.passes_through else (0.5, 2.0)  # OpenAI's, or what a voice of ours can do
        if self.speed is not None and not slowest <= self.speed <= fastest:
            raise unsupported("speed", f"this model speaks at {slowest:g} to {fastest:g} times its own pace")
        if caps.passes_through:
            return
        if self.response_format not in (None, "wav", "pcm", "flac"):
            raise unsupported("response_format", "this engine makes wav, pcm and flac")
        if self.voice is not None and self.voice not in ("default", *caps.voices):
            raise unsupported("voice", f"this model has {', '.join(caps.voices)}")
        if self.instructions:
            raise unsupported("instructions", "this model speaks in one way")

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        form = self.response_format or "wav"
        if caps.passes_through:
            named = ("input", "voice", "speed", "instructions")
            asked = {name: value for name in named if (value := getattr(self, name)) is not None}
            body = msgspec.json.encode(asked | {"model": model, "response_format": form})
            return [EngineCall("/audio/speech", body, sound=_SOUNDS[form])]
        body = msgspec.json.encode(
            {"model": model, "input": self.input, "speed": self.speed or 1.0, "response_format": form}
        )
        return [EngineCall("/audio/speech", body)]


class TranscriptionRequest(OnePiece, kw_only=True):
    """POST /v1/audio/transcriptions; the form's fields, and the recording."""

    language: str | None = None
    prompt: Annotated[str, Meta(max_length=2000)] | None = None
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = "json"
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    timestamp_granularities: tuple[Literal["segment", "word"], ...] = ()
    recording: bytes = b""
    seconds: int = 0  # as the engine measured it

    operation = "transcription"
    measured: ClassVar[bool] = True
    shapes = True

    def counted(self, caps: Caps) -> tuple[str, int]:
        return "audio_seconds", self.seconds

    def refuse_unsupported(self, caps: Caps) -> None:
        if not caps.transcriptions:
            raise unsupported("model", "this model hears nothing; GET /v1/models says what kind each is")
        if caps.passes_through:
            return
        if self.language not in (None, *caps.languages):
            raise unsupported("language", f"this model hears {', '.join(caps.languages)}")
        if "word" in self.timestamp_granularities:
            raise unsupported("timestamp_granularities", "this model tells the time of segments")

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        if caps.passes_through:
            return [self._form(model)]
        asked = {"model": model, "prompt": self.prompt or "", "temperature": self.temperature or 0.0}
        return [EngineCall("/audio/transcriptions", msgspec.json.encode(asked) + b"\n" + self.recording)]

    def _form(self, model: str) -> EngineCall:
        """The form that somebody else's server reads. Its words with their times are asked for where the caller sees them."""
        fields = [
            ("model", model),
            ("response_format", "json" if self.response_format in ("json", "text") else "verbose_json"),
        ]
        for name in ("language", "prompt", "temperature"):
            value = getattr(self, name)
            if value is not None:
                fields.append((name, str(value)))
        if self.response_format == "verbose_json":
            fields += [("timestamp_granularities[]", one) for one in self.timestamp_granularities]
        boundary = hashlib.sha256(self.recording).hexdigest()  # a file cannot hold its own digest
        name = f"recording.{_ENDINGS.get(self.recording[:4], 'mp3')}"
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{text}\r\n' for key, text in fields
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = b"".join([part.encode() for part in parts]) + self.recording + f"\r\n--{boundary}--\r\n".encode()
        return EngineCall("/audio/transcriptions", body, f"multipart/form-data; boundary={boundary}")

    def shaped(self, answer: bytes, call_id: str, at_s: int) -> bytes:
        """What was heard with all that it may be shown with; an upstream says less than our own engine."""
        told: dict[str, Any] = msgspec.json.decode(answer)
        try:
            text, segments = str(told["text"]), [_segment(one) for one in told.get("segments") or ()]
            duration = float(told.get("duration") or self.seconds)
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable("The engine gave an answer that is not valid.", code="engine_failed") from error
        usage = {"prompt_tokens": 0, "total_tokens": 0, "audio_seconds": self.seconds}
        whole = {"text": text, "language": told.get("language") or "", "duration": duration, "segments": segments}
        words = {"words": told["words"]} if isinstance(told.get("words"), list) else {}
        return msgspec.json.encode(whole | words | {"usage": usage})

    def measuring(self) -> EngineCall:
        """The call that tells how long the recording is."""
        return EngineCall("/audio/measure", b"{}\n" + self.recording)


def _segment(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"start": float(one["start"]), "end": float(one["end"]), "text": str(one["text"])}
