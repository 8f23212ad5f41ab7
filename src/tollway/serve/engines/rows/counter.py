"""What the replica answers: classifications, embeddings, explanations, in OpenAI's manner, with what they used."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from tollway.inference import Encoded, answers
from tollway.kit.errors import BadRequest, NotFound
from tollway.serve.engines.rows import Spec, doors
from tollway.serve.engines.rows.lanes import Lanes, Recalled
from tollway.serve.engines.rows.rack import Row, Turn

_APART_BYTES: Final = 16 * 1024  # reading more than this is done beside the event loop
_LEFT_S: Final = 1.0  # a lane is at its batch for this long, and nobody asks: who did has left
_EXPLAINED_S: Final = 300.0  # the longest that one call is looked into, where nobody says until when they wait
_DIGITS: Final = 6
INPUTS_MAX: Final = 256


class _Ask(msgspec.Struct):
    """A body; the gateway has checked it, this only finds its parts."""

    input: Any = None
    model: str = ""
    top_k: int | None = None
    threshold: float | None = None
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
        self._spec, self.lanes = spec, lanes
        self.calls = self._asked = 0
        self.on_call: Callable[[], None] | None = None  # told of the next call, once it is here
        self._features = lanes.features
        self._reader = ThreadPoolExecutor(1, "reader")
        self._explainer = ThreadPoolExecutor(1, "explainer")
        self._beside: Any = None

    async def __call__(self, method: str, path: str, body: bytes) -> bytes:
        if method == "GET" and path == "/health":
            return msgspec.json.encode({"status": "ok"} | self.lanes.told())
        answer = {
            "/v1/classify": self._classify,
            "/v1/detect": self._detect,
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
        self.calls += 1
        if self.on_call is not None:
            self.on_call()
        try:
            ask = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"The body is not valid: {str(error)[:200]}.", code="invalid_json") from None
        self._asked += 1
        try:
            return msgspec.json.encode(await answer(ask, len(body)))
        except Recalled as left:
            return msgspec.json.encode(self._until_left(left, ask))
        finally:
            self._asked -= 1

    @property
    def running(self) -> bool:
        """Whether anything is computed: for who asked, or for who has left."""
        return self._asked > 0 or self.lanes.at_work()[0] > _LEFT_S

    def take(self, lanes: Lanes) -> None:
        """Other lanes from now on, at a moment when nothing runs; what was counted goes on being counted."""
        before, self.lanes = self.lanes, lanes
        lanes.figures = before.figures
        before.close()

    async def _recall(self, ask: _Ask, size: int) -> dict[str, Any]:
        return {"recalled": self.lanes.recall(ask.call)}

    def _until_left(self, left: Recalled, ask: _Ask) -> dict[str, Any]:
        """What was done for a caller who left: that much is owed. Nothing, where rows are paid for as a whole."""
        rows = ask.input if isinstance(ask.input, list) else [ask.input]
        if not left.done or (self._spec.input != "text" and len(left.done) < len(rows)):
            error = BadRequest("The caller left before the call began.", code="left")
            error.status = 499
            raise error
        done = answers.rows_of([rows[place] for place in left.done], self._features, self._spec.input)
        encoded = self._features.encode(done)
        return {"object": "list", "data": [], "model": self._spec.model, "usage": self._usage(encoded)}

    async def _probe(self, ask: _Ask, size: int) -> dict[str, Any]:
        rows = self._features.example(1)
        await self.lanes.answer(rows, self._features.encode(rows))
        return {"ok": True}

    async def _classify(self, ask: _Ask, size: int) -> dict[str, Any]:
        rows, encoded = await self._read(ask, size)
        found = await self.lanes.answer(rows, encoded, ask.turn, ask.call)
        data = [answers.classified(index, answer, ask.top_k) for index, answer in enumerate(found)]
        usage = answers.usage_of(self._features, encoded, self._spec.input, found)
        return {"object": "list", "data": data, "model": self._spec.model, "usage": usage}

    async def _detect(self, ask: _Ask, size: int) -> dict[str, Any]:
        rows, encoded = await self._read(ask, size)
        found = await self.lanes.answer(rows, encoded, ask.turn, ask.call)
        data = [
            answers.detected(index, answer, self._features, ask.threshold, ask.top_k)
            for index, answer in enumerate(found)
        ]
        return {"object": "list", "data": data, "model": self._spec.model, "usage": self._usage(encoded)}

    async def _embed(self, ask: _Ask, size: int) -> dict[str, Any]:
        rows, encoded = await self._read(ask, size)
        found = await self.lanes.answer(rows, encoded, ask.turn, ask.call)
        data = [answers.embedded(index, answer, ask.encoding_format) for index, answer in enumerate(found)]
        return {"object": "list", "data": data, "model": self._spec.model, "usage": self._usage(encoded)}

    async def _explain(self, ask: _Ask, size: int) -> dict[str, Any]:
        from tollway.serve.engines.rows import beside, explaining  # lazy: most replicas are never asked why

        rows, _ = await self._read(ask, size)
        loop = asyncio.get_running_loop()
        if self._beside is None:
            self._beside = beside.Beside(Path(self._spec.folder), self._spec.cores)
        until = time.monotonic() + (ask.turn.left_ms / 1000 if ask.turn.left_ms > 0 else _EXPLAINED_S)
        predictor = explaining.InBackground(self._features, self.lanes, until, call_id=ask.call)
        notes = await loop.run_in_executor(
            self._explainer,
            explaining.explained,
            predictor,
            self._beside,
            rows,
            ask.method,
            ask.target,
            ask.samples,
            until,
        )
        data = [{"object": "explanation", "index": index} | note for index, note in enumerate(notes)]
        usage = {"prompt_tokens": 0, "total_tokens": 0, "explanations": len(rows)}
        return {"object": "list", "data": data, "model": self._spec.model, "usage": usage}

    async def _rerank(self, ask: _Ask, size: int) -> dict[str, Any]:
        ask.input = doors.pairs(ask.query, ask.documents)
        rows, encoded = await self._read(ask, size)
        found = await self.lanes.answer(rows, encoded, ask.turn, ask.call)
        return doors.ranked(found, self._features.labels) | {"usage": self._usage(encoded)}

    async def _moderate(self, ask: _Ask, size: int) -> dict[str, Any]:
        rows, encoded = await self._read(ask, size)
        found = await self.lanes.answer(rows, encoded, ask.turn, ask.call)
        read = self._features.characters_most  # what is beyond was not judged, and is not paid for
        texts = [str(next(iter(row.values()), ""))[:read] for row in rows]
        loop = asyncio.get_running_loop()
        judged = await loop.run_in_executor(self._reader, doors.judged, found, texts)
        return judged | {"usage": self._usage(encoded)}

    async def _draw(self, ask: _Ask, size: int) -> dict[str, Any]:
        ask.input = doors.seeds(ask.n, ask.seed, ask.prompt)
        rows, encoded = await self._read(ask, size)
        found = await self.lanes.answer(rows, encoded, ask.turn, ask.call)
        return doors.pictures(found) | {"usage": self._usage(encoded)}

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, ask: _Ask, size: int) -> tuple[list[Row], list[Encoded]]:
        """The rows of a call, checked and encoded."""
        rows = answers.rows_of(ask.input, self._features, self._spec.input)
        self._features.check(rows)
        if size <= _APART_BYTES and self._spec.input != "image":
            return rows, self._features.encode(rows)
        loop = asyncio.get_running_loop()
        return rows, await loop.run_in_executor(self._reader, self._features.encode, rows)

    def _usage(self, encoded: list[Encoded]) -> dict[str, int]:
        return answers.usage_of(self._features, encoded, self._spec.input)
