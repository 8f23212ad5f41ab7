"""The engine for speech: what was said (Whisper on CTranslate2) and what is to be said (hibari on ONNX Runtime).

The process (`python -m tollway.serve.engines.speech`, see `__main__`) answers `/v1/audio/transcriptions` or
`/v1/audio/speech` on a private unix socket. This module knows how to start it and what it can do; it does not import the
engines.
"""

from pathlib import Path
from typing import Final

from tollway.serve.engines import child
from tollway.serve.engines.machine import cpu_cores
from tollway.serve.engines.port import Address, Caps, Launch, Probe

MODULE: Final = "tollway.serve.engines.speech"
HEARS: Final = "transcription"
SPEAKS: Final = "speech"
KINDS: Final = (HEARS, SPEAKS)
_MEMORY_BYTES: Final = 3 << 30


class Spec(child.Spec, frozen=True, kw_only=True):
    """Everything the process needs to know."""

    folder: str
    kind: str
    threads: int
    seconds_max: int
    memory_bytes: int


class Speech:
    """A model package that hears or speaks. `threads=0`: all cores that the CPU quota allows."""

    name = "speech"
    pulse = "/health"

    def __init__(
        self,
        folder: Path,
        model: str,
        *,
        version: str = "",
        kind: str = HEARS,
        labels: tuple[str, ...] = (),
        seconds_max: int = 1500,
        threads: int = 0,
    ) -> None:
        self.model, self.version = model, version
        self._folder, self._kind, self._seconds_max = folder, kind, seconds_max
        self._threads = threads or cpu_cores()
        hears = kind == HEARS
        self.caps = Caps(
            transcriptions=hears,
            speech=not hears,
            input="audio" if hears else "text",
            languages=(labels or ("en",)) if hears else (),
            voices=() if hears else (labels or ("default",)),
            slots=1 if hears else self._threads,
        )
        self.probe = Probe(path="/probe", body={"model": model})

    def __repr__(self) -> str:
        return f"Speech({self.model}@{self.version}, {self._kind})"

    def launch(self, socket: Path) -> Launch:
        spec = Spec(
            folder=str(self._folder.absolute()),
            socket=str(socket),
            model=self.model,
            kind=self._kind,
            threads=self._threads,
            seconds_max=self._seconds_max,
            memory_bytes=_MEMORY_BYTES,
        )
        return child.launch(MODULE, spec)

    def address(self, socket: Path) -> Address:
        return Address(url=f"unix:{socket}")
