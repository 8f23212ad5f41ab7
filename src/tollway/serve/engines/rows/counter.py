"""What the replica answers: classifications, embeddings, explanations, in OpenAI's manner, with what they used."""

import asyncio
import base64
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from tollway.inference import Encoded
from tollway.kit.errors import BadRequest, NotFound, Unavailable
from tollway.serve.engines.rows import Spec, doors
from tollway.serve.engines.rows.lanes import Lanes, Recalled
from tollway.serve.engines.rows.rack import Row, Turn

_APART_BYTES: Final = 16 * 1024  # reading more than this is done beside the event loop
_STUCK_S: Final = 45.0
_DIGITS: Final = 6
INPUTS_MAX: Final = 256


class _Ask(msgspec.Struct):
    """A body; the gateway has checked it, this only finds its parts."""

    input: Any = None
    model: str = ""
    top_k: int | None = None
    encoding_format: str = "float"
    method: str = ""
    target: str | None = None
    samples: int | None = None
    query: Any = None
    documents: Any = None
    n: Any = 1
    seed: Any = 0
    prompt: Any = ""
    turn: Turn = Turn()
    call: str = ""


_decode = msgspec.json.Decoder(_Ask).decode


class Counter:
    """Answers by path."""

    def __init__(self, spec: Spec, lanes: Lanes) -> None:
        self._spec, self._lanes = spec, lanes
        self._features = lanes.features
        self._reader = ThreadPoolExecutor(1, "reader")
        self._explainer = ThreadPoolExecutor(1, "explainer")
        self._single = _single_field(self._features.fields(), spec.input)

    async def __call__(self, method: str, path: str, body: bytes) -> bytes:
        if method == "GET" and path == "/health":
            if self._lanes.stuck_s() > _STUCK_S:
                raise Unavailable("A lane does not come back.", code="engine_failed")
            return msgspec.json.encode({"status": "ok"} | self._lanes.told())
        answer = {
            "/v1/classify": self._classify,
            "/v1/embeddings": self._embed,
            "/v1/explain": self._explain,
            "/v1/rerank": self._rerank,
            "/v1/moderations": self._moderate,
            "/v1/images/generations": self._draw,
            "/v1/probe": self._probe,
            "/v1/recall": self._recall,
        }.get(path)
        if answer is None or method != "POST":
            raise NotFound(f"There is no {method} {path[:80]!r} here.", code="unknown_url")
        try:
            ask = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"The body is not valid: {str(error)[:200]}.", code="invalid_json") from None
        try:
            return msgspec.json.encode(await answer(ask, len(body)))
        except Recalled as left:
            return msgspec.json.encode(self._until_left(left, ask))

    async def _recall(self, ask: _Ask, size: int) -> dict[str, Any]:
        return {"recalled": self._lanes.recall(ask.call)}

    def _until_left(self, left: Recalled, ask: _Ask) -> dict[str, Any]:
        """What was done for a caller who left: that much is owed. Nothing, where rows are paid for as a whole."""
        rows = ask.input if isinstance(ask.input, list) else [ask.input]
        if not left.done or (self._spec.input != "text" and len(left.done) < len(rows)):
            error = BadRequest("The caller left before the call began.", code="left")
            error.status = 499
            raise error
        encoded = self._features.encode([self._row(rows[place], place) for place in left.done])
        return {"object": "list", "data": [], "model": self._spec.model, "usage": self._usage(encoded)}

    async def _probe(self, ask: _Ask, size: int) -> dict[str, Any]:
        rows = self._features.example(1)
        await self._lanes.answer(rows, self._features.encode(rows))
        return {"ok": True}

    async def _classify(self, ask: _Ask, size: int) -> dict[str, Any]:
        rows, encoded = await self._read(ask, size)
        answers = await self._lanes.answer(rows, encoded, ask.turn, ask.call)
        data = [_shown(index, answer, ask.top_k) for index, answer in enumerate(answers)]
        return {"object": "list", "data": data, "model": self._spec.model, "usage": self._usage(encoded)}

    async def _embed(self, ask: _Ask, size: int) -> dict[str, Any]:
        rows, encoded = await self._read(ask, size)
        answers = await self._lanes.answer(rows, encoded, ask.turn, ask.call)
        if answers and "embedding" not in answers[0]:
            raise BadRequest("This model makes no embeddings.", code="unsupported_operation", param="model")
        shown: Callable[[list[float]], Any] = _base64 if ask.encoding_format == "base64" else lambda vector: vector
        data = [
            {"object": "embedding", "index": index, "embedding": shown(answer["embedding"])}
            for index, answer in enumerate(answers)
        ]
        return {"object": "list", "data": data, "model": self._spec.model, "usage": self._usage(encoded)}

    async def _explain(self, ask: _Ask, size: int) -> dict[str, Any]:
        from tollway.serve.engines.rows import explaining  # lazy: most replicas are never asked why

        rows, _ = await self._read(ask, size)
        loop = asyncio.get_running_loop()
        predictor = explaining.InBackground(self._features, self._lanes)
        notes = await loop.run_in_executor(
            self._explainer, explaining.explained, predictor, rows, ask.method, ask.target, ask.samples
        )
        data = [{"object": "explanation", "index": index} | note for index, note in enumerate(notes)]
        usage = {"prompt_tokens": 0, "total_tokens": 0, "explanations": len(rows)}
        return {"object": "list", "data": data, "model": self._spec.model, "usage": usage}

    async def _rerank(self, ask: _Ask, size: int) -> dict[str, Any]:
        ask.input = doors.pairs(ask.query, ask.documents)
        rows, encoded = await self._read(ask, size)
        answers = await self._lanes.answer(rows, encoded, ask.turn, ask.call)
        return doors.ranked(answers, self._features.labels) | {"usage": self._usage(encoded)}

    async def _moderate(self, ask: _Ask, size: int) -> dict[str, Any]:
        rows, encoded = await self._read(ask, size)
        answers = await self._lanes.answer(rows, encoded, ask.turn, ask.call)
        texts = [str(next(iter(row.values()), "")) for row in rows]
        loop = asyncio.get_running_loop()
        judged = await loop.run_in_executor(self._reader, doors.judged, answers, texts)
        return judged | {"usage": self._usage(encoded)}

    async def _draw(self, ask: _Ask, size: int) -> dict[str, Any]:
        ask.input = doors.seeds(ask.n, ask.seed, ask.prompt)
        rows, encoded = await self._read(ask, size)
        answers = await self._lanes.answer(rows, encoded, ask.turn, ask.call)
        return doors.pictures(answers) | {"usage": self._usage(encoded)}

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, ask: _Ask, size: int) -> tuple[list[Row], list[Encoded]]:
        """The rows of a call, checked and encoded."""
        rows = [
            self._row(one, index) for index, one in enumerate(ask.input if isinstance(ask.input, list) else [ask.input])
        ]
        if not 1 <= len(rows) <= INPUTS_MAX:
            raise BadRequest(f"Give 1 to {INPUTS_MAX} inputs.", param="input", code="invalid_value")
        self._features.check(rows)
        if size <= _APART_BYTES and self._spec.input != "image":
            return rows, self._features.encode(rows)
        loop = asyncio.get_running_loop()
        return rows, await loop.run_in_executor(self._reader, self._features.encode, rows)

    def _row(self, given: Any, index: int) -> Row:
        """One input: an object with the model's fields, or the value itself where there is only one field."""
        if isinstance(given, Mapping):
            return given
        if isinstance(given, str) and self._single is not None:
            return {self._single: given}
        fields = ", ".join(f"{name} ({kind})" for name, kind in self._features.fields().items())
        raise BadRequest(
            f"Input {index} must be an object with the fields of this model: {fields}.",
            param="input",
            code="invalid_value",
        )

    def _usage(self, encoded: list[Encoded]) -> dict[str, int]:
        if self._spec.input == "text":
            tokens = sum(self._features.length(one) for one in encoded)
            return {"prompt_tokens": tokens, "total_tokens": tokens}
        units = "images" if self._spec.input == "image" else "rows"
        return {"prompt_tokens": 0, "total_tokens": 0, units: len(encoded)}


def _single_field(fields: Mapping[str, str], kind: str) -> str | None:
    """The field that a bare text (or picture) means."""
    if kind in fields:
        return kind
    return next(iter(fields)) if len(fields) == 1 else None


def _shown(index: int, answer: dict[str, Any], top_k: int | None) -> dict[str, Any]:
    """One answer, rounded, its scores from the highest down, cut at `top_k`."""
    shown: dict[str, Any] = {"object": "classification", "index": index}
    for name, value in answer.items():
        if name == "scores":
            best = sorted(value.items(), key=lambda item: -item[1])[:top_k]
            shown[name] = {label: round(score, _DIGITS) for label, score in best}
        elif isinstance(value, float):
            shown[name] = round(value, _DIGITS)
        elif isinstance(value, bytes):
            shown[name] = "data:image/png;base64," + base64.b64encode(value).decode("ascii")
        elif isinstance(value, list) and top_k is not None and name == "items":
            shown[name] = value[:top_k]
        else:
            shown[name] = value
    return shown


def _base64(vector: list[float]) -> str:
    import numpy

    return base64.b64encode(numpy.asarray(vector, "<f4").tobytes()).decode("ascii")
