"""Trying out an engine on this machine, as it would be served: its own process, its own socket, real calls.

    async with running(engine) as place:
        speed = await language(place, callers=8)         tokens a second, first token, memory
        texts = await writes(place)                      what it writes, to be held against another's
        speed = await rows(place, examples, callers=8)   calls a second

Every measurement ends when its time is over, whatever came until then: an engine that collapses on this machine (two
spinning threads on two busy cores write two tokens a second) must not hold up the others.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from tollway.kit.clock import SystemClock
from tollway.kit.errors import Unavailable
from tollway.serve.engines import Engine
from tollway.serve.replica import Pace, Replica
from tollway.serve.wire import Pool, WireError

LIMIT_S: Final = 20.0
_READY_S: Final = 120.0
_WRITTEN: Final = 24  # tokens after each prompt
_SIDE_BY_SIDE: Final = 8
PROMPTS: Final = (
    "The capital of France is", "Water boils at", "The three primary colours are", "To bake bread you need",
    "A good friend is someone who", "The sun rises in", "Photosynthesis is the process by which", "In winter, many birds",
    "The fastest way to learn a language is", "A triangle has", "The internet was", "My favourite season is",
    "When the train arrived, she", "The first thing to do after a fire is", "Rivers flow into", "Music can help people",
    "The old man looked at the sea and", "A computer program is", "Bees are important because", "In the year 1969,",
    "The best way to cook rice is", "My grandmother always said", "Volcanoes form when", "The library was quiet until",
    "To solve an equation you", "The heart pumps", "Once upon a time there was a", "Plants grow towards", "The moon is",
    "After the rain stopped, the children", "Gold is valuable because", "The price of a product depends on",
)  # fmt: skip
_TOKENS: Final = re.compile(rb'"completion_tokens":(\d+)')
_STORY: Final = "Story {}: write a long and detailed tale about a brave turtle going from the river to the old town."


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: tokens (or calls) a second of all callers together, and the slowest caller's first token."""

    per_second: float
    first_ms: float = 0.0
    memory_bytes: int = 0


class Place(msgspec.Struct):
    """A running replica and a way to it."""

    replica: Replica
    pool: Pool
    prefix: str
    model: str

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """One call. Raises Unavailable for anything but an answer."""
        try:
            reply = await self.pool.post(self.prefix + path, msgspec.json.encode({"model": self.model} | body))
        except WireError as error:
            raise Unavailable(f"The engine stopped: {error}.", code="engine_failed") from error
        if reply.status != 200:
            raise Unavailable(f"The engine answered with status {reply.status}.", code="engine_failed")
        return msgspec.json.decode(reply.body)


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Place]:
    """The engine's replica, gone afterwards. Raises Unavailable when it does not start."""
    replica = Replica(engine, SystemClock(), name=f"trial of {engine.model}", pace=Pace(ready_within_s=_READY_S))
    try:
        await replica.start()
        address = replica.address
        pool = Pool(address.url, address.key)
        try:
            yield Place(replica, pool, address.prefix, engine.model)
        finally:
            pool.close()
    finally:
        await replica.stop()


async def language(place: Place, callers: int, tokens: int = 64, limit_s: float = LIMIT_S) -> Speed:
    """Stories for so many callers at once, token by token."""
    began = time.monotonic()
    counts, firsts = [0] * callers, [limit_s] * callers

    async def call(number: int) -> None:
        body = {
            "model": place.model,
            "messages": [{"role": "user", "content": _STORY.format(1000 * callers + number)}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        path = place.prefix + "/chat/completions"
        if not place.replica.caps.chat:
            body["prompt"], path = body.pop("messages")[0]["content"], place.prefix + "/completions"  # type: ignore[index]
        async with place.pool.stream(path, msgspec.json.encode(body)) as answer:
            async for chunk in answer.chunks():
                pieces = chunk.count(b'"finish_reason":null') - chunk.count(b'"content":null')
                if pieces and not counts[number]:
                    firsts[number] = time.monotonic() - began
                told = _TOKENS.search(chunk)
                counts[number] = int(told[1]) if told else counts[number] + pieces

    tasks = [asyncio.ensure_future(call(number)) for number in range(callers)]
    done, late = await asyncio.wait(tasks, timeout=limit_s)
    took = time.monotonic() - began
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    failed = next((task.exception() for task in done if task.exception() is not None), None)
    if failed is not None:
        raise Unavailable(f"The engine stopped: {failed}.", code="engine_failed") from failed
    return Speed(per_second=sum(counts) / took, first_ms=max(firsts) * 1000, memory_bytes=place.replica.rss_bytes)


async def writes(place: Place, limit_s: float = 3 * LIMIT_S) -> list[str]:
    """What it writes greedily after each of the prompts; "" for those that its time was not enough for."""
    places = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def one(prompt: str) -> str:
        body = {"prompt": prompt, "max_tokens": _WRITTEN, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        async with places:
            return str((await place.post("/completions", body))["choices"][0]["text"])

    tasks = [asyncio.ensure_future(one(prompt)) for prompt in PROMPTS]
    await asyncio.wait(tasks, timeout=limit_s)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    return [text if isinstance(text, str) else "" for text in ended]


def agreement(texts: Sequence[str], reference: Sequence[str]) -> float:
    """The share of each reference text that the other begins with, on average over those that were written."""
    pairs = [(text, wanted) for text, wanted in zip(texts, reference, strict=True) if wanted and text]
    shares = [_common(text, wanted) / len(wanted) for text, wanted in pairs]
    return sum(shares) / len(shares) if shares else 0.0


async def rows(place: Place, path: str, examples: Sequence[Any], callers: int, seconds: float = 3.0) -> Speed:
    """Single calls, one example after the other, from so many callers at once."""
    ends = time.monotonic() + seconds
    counts, slowest = [0] * callers, [0.0] * callers

    async def call(number: int) -> None:
        at = number
        while (began := time.monotonic()) < ends:
            await place.post(path, {"input": examples[at % len(examples)]})
            slowest[number] = max(slowest[number], time.monotonic() - began)
            counts[number] += 1
            at += callers

    began = time.monotonic()
    await asyncio.gather(*(call(number) for number in range(callers)))
    took = time.monotonic() - began
    return Speed(per_second=sum(counts) / took, first_ms=max(slowest) * 1000, memory_bytes=place.replica.rss_bytes)


async def answers(place: Place, path: str, examples: Sequence[Any]) -> list[dict[str, Any]]:
    """What it answers to each example."""
    return [(await place.post(path, {"input": one}))["data"][0] for one in examples]


def same_answers(answers: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> float:
    """How near the answers are: the share of equal labels, else the mean likeness of what is in them."""
    likeness = [_alike(one, wanted) for one, wanted in zip(answers, reference, strict=True)]
    return sum(likeness) / len(likeness) if likeness else 0.0


def _alike(one: dict[str, Any], wanted: dict[str, Any]) -> float:
    if "embedding" in wanted:
        a, b = one["embedding"], wanted["embedding"]
        norm = (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
        return float(sum(x * y for x, y in zip(a, b, strict=True)) / norm) if norm else 0.0
    if "detections" in wanted:
        seen, there = (Counter(found["label"] for found in answer["detections"]) for answer in (one, wanted))
        return 2 * (seen & there).total() / (seen.total() + there.total()) if seen or there else 1.0
    for name, value in wanted.items():
        if name in ("index", "object", "scores"):
            continue
        if isinstance(value, float) and isinstance(one.get(name), (int, float)):
            return 1.0 if abs(one[name] - value) <= 0.01 * max(1.0, abs(value)) else 0.0
        return 1.0 if one.get(name) == value else 0.0
    return 1.0


def _common(a: str, b: str) -> int:
    """Characters that both begin with."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
