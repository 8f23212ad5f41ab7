"""What is made for a caller: pictures, speech, and the words of a recording.

`/v1/images/generations`, `/v1/audio/speech`, `/v1/audio/transcriptions`. A recording reaches the engine as it came, behind
one line of JSON: no copy in another alphabet.
"""

import secrets
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from tollway.serve.engines import Caps
from tollway.serve.requests.parts import OnePiece, Work, unsupported

PICTURES_MAX: Final = 10
CHARACTERS_MAX: Final = 4096
_SEED_MAX: Final = 2**31 - 1


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

    def work(self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]) -> list[Work]:
        body = msgspec.to_builtins(self) | {"model": model}
        if not caps.passes_through:
            seed = secrets.randbelow(_SEED_MAX) if self.seed is None else self.seed
            body = {"model": model, "n": self.n or 1, "seed": seed, "prompt": self.prompt.strip()}
        return [Work("/images/generations", msgspec.json.encode(body))]

    def shaped(self, answer: bytes, call_id: str, at_s: int) -> bytes:
        return msgspec.json.encode({"created": at_s} | msgspec.json.decode(answer))


class SpeechRequest(OnePiece, kw_only=True):
    """POST /v1/audio/speech."""

    input: Annotated[str, Meta(min_length=1, max_length=CHARACTERS_MAX)]
    voice: str | dict[str, Any] | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    speed: Annotated[float, Meta(ge=0.25, le=4.0)] | None = None
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
        if self.response_format not in (None, "wav", "pcm", "flac"):
            raise unsupported("response_format", "this engine makes wav, pcm and flac")
        if self.voice is not None and self.voice not in ("default", *caps.voices):
            raise unsupported("voice", f"this model has {', '.join(caps.voices)}")
        if self.speed is not None and not 0.5 <= self.speed <= 2.0:
            raise unsupported("speed", "this model speaks at 0.5 to 2.0 times its own pace")
        if self.instructions:
            raise unsupported("instructions", "this model speaks in one way")
        if self.stream_format == "sse":
            raise unsupported("stream_format", "speech is sent as audio")

    def work(self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]) -> list[Work]:
        body = {"model": model, "input": self.input, "speed": self.speed or 1.0}
        body["response_format"] = self.response_format or "wav"
        return [Work("/audio/speech", msgspec.json.encode(body))]


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

    def counted(self, caps: Caps) -> tuple[str, int]:
        return "audio_seconds", self.seconds

    def refuse_unsupported(self, caps: Caps) -> None:
        if not caps.transcriptions:
            raise unsupported("model", "this model hears nothing; GET /v1/models says what kind each is")
        if self.language not in (None, *caps.languages):
            raise unsupported("language", f"this model hears {', '.join(caps.languages)}")
        if "word" in self.timestamp_granularities:
            raise unsupported("timestamp_granularities", "this model tells the time of segments")

    def work(self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]) -> list[Work]:
        asked = {"model": model, "prompt": self.prompt or "", "temperature": self.temperature or 0.0}
        return [Work("/audio/transcriptions", msgspec.json.encode(asked) + b"\n" + self.recording)]

    def measuring(self) -> Work:
        """The call that tells how long the recording is."""
        return Work("/audio/measure", b"{}\n" + self.recording)
