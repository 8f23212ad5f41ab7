"""What ranks, judges and recommends: `/v1/rerank`, `/v1/moderations`, `/v1/recommendations`.

A package that reads pairs of texts (a cross-encoder) answers rerank itself. An embedding model is asked for its vectors, and
their cosines are the scores: quicker, and less exact. The answer's `method` says which it was.
"""

import base64
import math
from array import array
from operator import mul
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from tollway.kit.errors import Unavailable
from tollway.serve.engines import Caps
from tollway.serve.requests.parts import INPUTS_MAX, EngineCall, OnePiece, embedding, text_bytes, unsupported

_DIGITS: Final = 6
_RANKED_MAX: Final = INPUTS_MAX - 1  # the query is an input of its own
Identity = str | int


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """A document as an object, as some clients send them."""

    text: str


class RerankRequest(OnePiece, kw_only=True):
    """POST /v1/rerank, as Cohere's and Jina's clients send it."""

    query: str
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=_RANKED_MAX)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool = False
    max_tokens_per_doc: Annotated[int, Meta(ge=1)] | None = None

    operation = "rerank"
    shapes = True

    @property
    def texts(self) -> list[str]:
        """The documents."""
        return [one if isinstance(one, str) else one.text for one in self.documents]

    @property
    def count(self) -> int:
        return len(self.documents) + 1

    def input_bytes(self) -> int:
        """The query is read once with each document, or once."""
        query = len(self.query.encode()) + 4
        return sum(len(text.encode()) + query for text in self.texts) + query

    def refuse_unsupported(self, caps: Caps) -> None:
        if not (caps.rerank or caps.embeddings):
            raise unsupported("model", "this model ranks nothing; an embedding or a text-pair model does")
        if not self.query.strip():
            raise unsupported("query", "it is empty")
        empty = next((index for index, text in enumerate(self.texts) if not text.strip()), None)
        if empty is not None:
            raise unsupported(f"documents[{empty}]", "it is empty")
        if self.max_tokens_per_doc is not None:
            raise unsupported("max_tokens_per_doc", "each model cuts a text where its own context ends")

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        if caps.rerank:
            body: dict[str, Any] = {"model": model, "query": self.query, "documents": self.texts}
            return [EngineCall("/rerank", msgspec.json.encode(body))]
        return embedding(model, [self.query, *self.texts], "base64", caps)

    def shaped(self, answer: bytes, call_id: str, at_s: int) -> bytes:
        told: dict[str, Any] = msgspec.json.decode(answer)
        try:
            if "results" in told:
                scores = {int(one["index"]): float(one["relevance_score"]) for one in told["results"]}
            else:
                scores = dict(enumerate(_cosines([one["embedding"] for one in told["data"]])))
            pairs = [(scores[index], index) for index in range(len(self.documents))]
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable("The engine gave an answer that is not valid.", code="engine_failed") from error
        best = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[: self.top_n]
        results: list[dict[str, Any]] = [
            {"index": index, "relevance_score": round(score, _DIGITS)} for score, index in best
        ]
        if self.return_documents:
            texts = self.texts
            results = [one | {"document": {"text": texts[one["index"]]}} for one in results]
        return msgspec.json.encode(
            {
                "id": f"rerank-{call_id}",
                "object": "list",
                "model": self.model,
                "method": "cross-encoder" if "results" in told else "cosine of embeddings",
                "results": results,
                "usage": told.get("usage"),
            }
        )


class ModerationRequest(OnePiece, kw_only=True):
    """POST /v1/moderations: texts, or OpenAI's text parts."""

    input: str | list[str | dict[str, Any]]

    operation = "moderation"
    shapes = True

    @property
    def inputs(self) -> list[str]:
        """The texts."""
        given = [self.input] if isinstance(self.input, str) else self.input
        return [one if isinstance(one, str) else str(one.get("text", "")) for one in given]

    @property
    def count(self) -> int:
        return len(self.inputs)

    def input_bytes(self) -> int:
        return sum(text_bytes(one) + 8 for one in self.inputs)

    def refuse_unsupported(self, caps: Caps) -> None:
        if not caps.moderations:
            raise unsupported("model", "this model judges no texts; a text classifier does")
        if not 1 <= len(self.inputs) <= INPUTS_MAX:
            raise unsupported("input", f"give a text or a list of 1 to {INPUTS_MAX} texts")
        for index, one in enumerate(self.input if isinstance(self.input, list) else ()):
            if not isinstance(one, str) and (one.get("type") != "text" or not isinstance(one.get("text"), str)):
                raise unsupported(f"input[{index}]", "this model reads text parts only")

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        return [EngineCall("/moderations", msgspec.json.encode({"model": model, "input": self.inputs}))]

    def shaped(self, answer: bytes, call_id: str, at_s: int) -> bytes:
        told: dict[str, Any] = msgspec.json.decode(answer)
        head: dict[str, Any] = {"id": f"modr-{call_id}", "model": self.model}
        return msgspec.json.encode(head | {name: told[name] for name in ("results", "usage") if name in told})


class RecommendationRequest(OnePiece, kw_only=True):
    """POST /v1/recommendations: the best items for a user, best first."""

    user: Identity  # type: ignore[assignment]  # here it is whom the items are for
    top_n: Annotated[int, Meta(ge=1, le=1000)] = 10
    exclude: Annotated[tuple[Identity, ...], Meta(max_length=10_000)] = ()

    operation = "recommendation"
    shapes = True

    def counted(self, caps: Caps) -> tuple[str, int]:
        return "rows", 1

    def refuse_unsupported(self, caps: Caps) -> None:
        if not caps.recommendations:
            raise unsupported("model", "this model recommends nothing; GET /v1/models says what kind each is")

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        row = {"user": str(self.user), "top": self.top_n, "exclude": [str(one) for one in self.exclude]}
        return [EngineCall("/classify", msgspec.json.encode({"model": model, "input": [row]}))]

    def shaped(self, answer: bytes, call_id: str, at_s: int) -> bytes:
        told: dict[str, Any] = msgspec.json.decode(answer)
        data = [{"object": "recommendation", "index": index} | one for index, one in enumerate(_items(told))]
        body: dict[str, Any] = {"object": "list", "model": self.model, "user": self.user, "data": data}
        return msgspec.json.encode(body | {"usage": told.get("usage")})


def _items(told: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        found = told["data"][0]["items"]
        return [{"item": one["item"], "score": round(float(one["score"]), _DIGITS)} for one in found]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Unavailable("The engine gave an answer that is not valid.", code="engine_failed") from error


def _cosines(vectors: list[str | list[float]]) -> list[float]:
    """Of the first vector with each of the others."""
    query, *others = [_numbers(one) for one in vectors]
    length = math.sqrt(sum(map(mul, query, query)))
    return [sum(map(mul, query, one)) / ((length * math.sqrt(sum(map(mul, one, one)))) or 1.0) for one in others]


def _numbers(vector: str | list[float]) -> list[float]:
    if not isinstance(vector, str):
        return vector
    numbers = array("f")
    numbers.frombytes(base64.b64decode(vector))
    return numbers.tolist()
