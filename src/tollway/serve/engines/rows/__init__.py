"""The engine for everything that is not a language model: classifiers, regressors, encoders, recommenders, on ONNX Runtime,
OpenVINO or LiteRT, whichever the package's format asks for.

The process (`python -m tollway.serve.engines.rows`, see `__main__`) answers `/v1/classify`, `/v1/detect`, `/v1/embeddings`
and `/v1/explain` on a private unix socket, with the very encoding the model was trained with (`tollway.inference`). This module
knows how to start it and what it can do; it does not import the engine.
"""

from pathlib import Path
from typing import Final

from tollway.kit.formats import FORMATS
from tollway.serve.engines import child
from tollway.serve.engines.machine import cpu_cores
from tollway.serve.engines.port import Address, Caps, Launch, Probe

MODULE: Final = "tollway.serve.engines.rows"
SLOTS: Final = 64  # calls inside at once, at most: the batches are made of them
_MEMORY_LEAST: Final = 2 << 30


class Spec(child.Spec, frozen=True, kw_only=True):
    """Everything the process needs to know."""

    folder: str
    format: str
    kind: str
    input: str  # text | image | row
    cores: int
    memory_bytes: int


class Rows:
    """A model package that answers row by row. `threads=0`: as many as the CPU quota allows cores; how they are
    used is measured (`calibration.py`)."""

    pulse = "/health"

    def __init__(
        self,
        folder: Path,
        model: str,
        *,
        version: str = "",
        kind: str = "classification",
        input: str = "text",
        format: str = "onnx",
        context_tokens: int = 0,
        embedding_dimensions: int = 0,
        weights_bytes: int = 0,
        threads: int = 0,
        labels: tuple[str, ...] = (),
        pairs: bool = False,
        image_size: int = 0,
        explain_inside: bool = False,
    ) -> None:
        self.name = FORMATS[format].engine
        self.model = model
        self.version = version
        self._folder, self._kind, self._input, self._format = folder, kind, input or "text", format
        self._cores = threads or cpu_cores()
        self._memory = max(_MEMORY_LEAST, 12 * weights_bytes)
        embedding, drawing = kind == "embedding", kind == "image-generation"
        detecting = kind == "object-detection"
        self.caps = Caps(
            embeddings=embedding,
            classify=not (embedding or detecting or drawing),
            detect=detecting,
            explain=not (embedding or drawing or detecting),
            explain_inside=explain_inside and not (embedding or drawing or detecting),
            rerank=pairs,
            moderations=kind in ("classification", "moderation") and self._input == "text" and not pairs,
            recommendations=kind == "recommendation",
            images=drawing,
            image_size=image_size,
            prompts=labels if drawing else (),
            input=self._input,
            slots=SLOTS,
            turns=True,
            context_tokens=context_tokens,
            embedding_dimensions=embedding_dimensions,
        )
        self.probe = Probe(path="/probe", body={"model": model})

    def __repr__(self) -> str:
        return f"Rows({self.model}@{self.version}, {self._format})"

    def launch(self, socket: Path) -> Launch:
        spec = Spec(
            folder=str(self._folder.absolute()),
            format=self._format,
            socket=str(socket),
            model=self.model,
            kind=self._kind,
            input=self._input,
            cores=self._cores,
            memory_bytes=self._memory,
        )
        return child.launch(MODULE, spec)

    def address(self, socket: Path) -> Address:
        return Address(url=f"unix:{socket}")
