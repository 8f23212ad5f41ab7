"""Embeddings, classifications and explanations: what can be asked, and what the engine is sent for it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollway.serve.engines import Caps
from tollway.serve.requests.parts import INPUTS_MAX, EngineCall, OnePiece, embedding, text_bytes, unsupported

EXPLAINED_MAX = 8  # each asks the model hundreds of times
_INSIDE = ("integrated-gradients", "attention")


class EmbeddingRequest(OnePiece, kw_only=True):
    """POST /v1/embeddings."""

    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    operation = "embedding"

    @property
    def inputs(self) -> list[str]:
        """The texts, one or many."""
        return [self.input] if isinstance(self.input, str) else self.input

    @property
    def count(self) -> int:
        return len(self.inputs)

    def input_bytes(self) -> int:
        """An upper bound on tokens: a WordPiece token has at least one byte, and each text gets two marks."""
        return sum(len(text.encode()) + 2 for text in self.inputs)

    def refuse_unsupported(self, caps: Caps) -> None:
        """Raise BadRequest for what this engine cannot honour."""
        if not caps.embeddings:
            raise unsupported("model", "this model makes no embeddings; GET /v1/models says what kind each is")
        if not 1 <= len(self.inputs) <= INPUTS_MAX or not all(isinstance(text, str) for text in self.inputs):
            raise unsupported("input", f"give a text or a list of 1 to {INPUTS_MAX} texts; token ids are not accepted")
        if not all(text.strip() for text in self.inputs):
            raise unsupported("input", "an empty text has no embedding")
        if self.dimensions is not None and self.dimensions != caps.embedding_dimensions:
            raise unsupported("dimensions", f"this model's embeddings have {caps.embedding_dimensions} dimensions")

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        """One engine call for all texts, or for some of them after the other."""
        return embedding(model, self.inputs, self.encoding_format or "float", caps)


class _Given(OnePiece, kw_only=True):
    """What classify and explain share: inputs are texts, data URLs of pictures, or objects with the model's fields."""

    input: str | dict[str, Any] | list[str | dict[str, Any]]

    @property
    def inputs(self) -> list[str | dict[str, Any]]:
        """The inputs, one or many."""
        return self.input if isinstance(self.input, list) else [self.input]

    @property
    def count(self) -> int:
        return len(self.inputs)

    def counted(self, caps: Caps) -> tuple[str, int]:
        return ("", 0) if caps.input == "text" else ("images" if caps.input == "image" else "rows", self.count)

    def input_bytes(self) -> int:
        """An upper bound on tokens: a token has at least one byte, and each input gets a few marks."""
        return sum(text_bytes(one) + 8 for one in self.inputs)

    def refuse_wrong_inputs(self, most: int) -> None:
        """Raise BadRequest for none or too many. What the fields must be, the engine knows."""
        if not 1 <= len(self.inputs) <= most:
            raise unsupported("input", f"give 1 to {most} inputs")


class ClassifyRequest(_Given, kw_only=True):
    """POST /v1/classify."""

    top_k: Annotated[int, Meta(ge=1, le=1000)] | None = None

    operation = "classification"

    def refuse_unsupported(self, caps: Caps) -> None:
        """Raise BadRequest for what this engine cannot honour."""
        if not caps.classify:
            raise unsupported("model", "this model does not classify; GET /v1/models says what kind each is")
        self.refuse_wrong_inputs(INPUTS_MAX)

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        """One engine call for all inputs."""
        body: dict[str, Any] = {"model": model, "input": self.input}
        if self.top_k is not None:
            body["top_k"] = self.top_k
        return [EngineCall("/classify", msgspec.json.encode(body))]


class DetectRequest(_Given, kw_only=True):
    """POST /v1/detect: which objects are where in a picture."""

    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None  # the least score that is shown; else the model's own
    top_k: Annotated[int, Meta(ge=1, le=1000)] | None = None

    operation = "detection"

    def refuse_unsupported(self, caps: Caps) -> None:
        """Raise BadRequest for what this engine cannot honour."""
        if not caps.detect:
            raise unsupported("model", "this model finds no objects; GET /v1/models says what kind each is")
        self.refuse_wrong_inputs(INPUTS_MAX)

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        """One engine call for all pictures."""
        body = {"model": model, "input": self.input, "threshold": self.threshold, "top_k": self.top_k}
        return [
            EngineCall("/detect", msgspec.json.encode({name: one for name, one in body.items() if one is not None}))
        ]


class ExplainRequest(_Given, kw_only=True):
    """POST /v1/explain: which parts of an input made the model answer as it did."""

    method: Literal["shap", "permutation", "lime", "occlusion", "integrated-gradients", "attention"] = "shap"
    target: Annotated[str, Meta(min_length=1, max_length=200)] | None = None  # the label to explain; else the answer's
    samples: Annotated[int, Meta(ge=16, le=2000)] | None = None  # how often the model may be asked

    operation = "explanation"

    def counted(self, caps: Caps) -> tuple[str, int]:
        return "explanations", self.count

    def refuse_unsupported(self, caps: Caps) -> None:
        """Raise BadRequest for what this engine cannot honour."""
        if not caps.explain:
            raise unsupported("model", "this model cannot be explained")
        if self.method in _INSIDE and not caps.explain_inside:
            raise unsupported(
                "method",
                f"{self.method} looks inside the model, and this version has no pt2 format to look into (its maker adds it "
                "to [convert] formats of the recipe); shap, permutation, lime and occlusion work",
            )
        self.refuse_wrong_inputs(EXPLAINED_MAX)

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        """One engine call for all inputs."""
        body = {
            "model": model,
            "input": self.input,
            "method": self.method,
            "target": self.target,
            "samples": self.samples,
        }
        return [
            EngineCall("/explain", msgspec.json.encode({name: one for name, one in body.items() if one is not None}))
        ]
