"""Copies of calls for a version that answers nobody: made after the answer, compared, counted, thrown away.

    copies.adopt({"reviews": [Target("2", 5)]})    five of a hundred calls to `reviews` go to its version 2 as well
    copies.after(call, raw)                        once the caller has the answer

A copy stands behind every caller: it starts when the answer is out, at a moment when the stable version is idle if one
comes soon, never while anybody waits in line, one at a time; else it is dropped, and counted as dropped. It is billed to
nobody; its engine time has its own line in the books. Nothing of prompt or answer is kept.
"""

import asyncio
import contextlib
import random
import time
from typing import Final, Protocol

import msgspec

from tollway.flows import likeness
from tollway.flows.rollout_verdict import Agreement
from tollway.kit import log
from tollway.kit.errors import TollwayError
from tollway.kit.ids import new_code
from tollway.kit.tasks import Tasks
from tollway.serve import fold
from tollway.serve.fleet import Fleet
from tollway.serve.line import TIERS, Turn
from tollway.serve.requests import ChatRequest, CompletionRequest, EmbeddingRequest, Request
from tollway.serve.run import Run
from tollway.serve.served import Served
from tollway.serve.wire import WireError

_log = log.get("flows.copies")
_AFTER_S: Final = 0.02  # the last byte goes out first
_PATIENCE_S: Final = 2.0  # for a moment when the stable version is idle
_LOOK_EVERY_S: Final = 0.02
_AT_ONCE: Final = 1  # per version
_TEXT_MOST: Final = 200_000


class Target(msgspec.Struct, frozen=True):
    """A version that gets copies of `share` percent of a model's calls."""

    version: str
    share: int


class Answered(Protocol):
    """What there must be of a call (flows.call.Call). `copied_to`: the versions that get a copy, once it is drawn."""

    served: Served
    request: Request
    run: Run
    copied_to: list[Served] | None


class Copies:
    """Makes copies and keeps the counts. Use it from one event loop."""

    def __init__(self, fleet: Fleet, timeout_s: float) -> None:
        self._fleet = fleet
        self._timeout_s = timeout_s
        self._targets: dict[str, list[Target]] = {}
        self._under_way: dict[tuple[str, str], int] = {}
        self._tasks = Tasks()
        self.counts: dict[tuple[str, str], Agreement] = {}  # (model, version), since the gateway started

    def adopt(self, targets: dict[str, list[Target]]) -> None:
        """Exactly these."""
        self._targets = targets

    def listen(self, call: Answered) -> fold.Folded | None:
        """Where a streamed answer's events are folded, should it be copied; None for most."""
        if not self._targets or not self._drawn(call):
            return None
        return fold.Folded() if len(call.run.engine_calls) == 1 else None

    def heard(self, call: Answered, answer: fold.Folded) -> None:
        """A stream that was listened to has ended."""
        text = "".join(answer.text)
        if len(text) <= _TEXT_MOST:
            self._copy(call, self._drawn(call), likeness.text_of(text))

    def after(self, call: Answered, answer: bytes) -> None:
        """A call was answered in one piece: copy it, should its turn have come."""
        if self._targets:
            self._copy(call, self._drawn(call), answer)

    async def close(self) -> None:
        """Stop what is under way."""
        self._tasks.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _drawn(self, call: Answered) -> list[Served]:
        """The versions that get a copy of this call: none, most times. Drawn once for each call."""
        if call.copied_to is None:
            call.copied_to = self._draw(call)
        return call.copied_to

    def _draw(self, call: Answered) -> list[Served]:
        targets = self._targets.get(call.served.name)
        offered = self._fleet.offered(call.served.name) if targets else None
        if not targets or offered is None or call.served is not offered.stable:
            return []
        drawn = {one.version for one in targets if random.random() * 100 < one.share}  # noqa: S311
        return [served for served in offered.live if served.model.version in drawn and served.ready]

    def _copy(self, call: Answered, drawn: list[Served], answer: bytes) -> None:
        for served in drawn:
            place = (served.name, served.model.version)
            if self._under_way.get(place, 0) >= _AT_ONCE:
                self._count(place).dropped += 1
                continue
            self._under_way[place] = self._under_way.get(place, 0) + 1
            self._tasks.begin(self._made(served, place, call, answer))

    async def _made(self, served: Served, place: tuple[str, str], call: Answered, answer: bytes) -> None:
        """One copy, from beginning to end."""
        try:
            await asyncio.sleep(_AFTER_S)
            if not await _quiet(call.served, served):
                self._count(place).dropped += 1
                return
            other = await self._answered(served, _whole(call.request))
            found = likeness.compare(answer, other) if other is not None else None
            if found is not None:
                count = self._count(place)
                count.compared += 1
                count.likeness += found[1]
                count.agreed += likeness.alike(*found)
        finally:
            self._under_way[place] -= 1

    async def _answered(self, served: Served, request: Request) -> bytes | None:
        """The version's own answer; None when it failed, which its own figures tell."""
        run: Run | None = None
        turn = Turn("", time.monotonic() + self._timeout_s, TIERS.index("batch"))
        try:
            async with asyncio.timeout(self._timeout_s):
                request.refuse_unsupported(served.caps)
                size = served.size_at_once(request) or await served.size(request)
                run = Run(served, request, size, "", new_code(), 0, turn)
                return await run.answer()
        except (TollwayError, TimeoutError, WireError) as error:
            _log.info("copy failed", model=served.name, version=served.model.version, error=str(error)[:200])
            return None
        finally:
            for tally in run.tallies if run is not None else ():
                if tally.time is not None:
                    tally.time.book_shadow(tally.prefill_us + tally.decode_us)

    def _count(self, place: tuple[str, str]) -> Agreement:
        return self.counts.setdefault(place, Agreement())


async def _quiet(stable: Served, served: Served) -> bool:
    """Wait for a moment when nobody is served. Where none comes, whether at least nobody waits."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while stable.running or stable.line.waiting or served.line.waiting:  # noqa: ASYNC110 - short enough to look
                await asyncio.sleep(_LOOK_EVERY_S)
            return True
    return not stable.line.waiting and not served.line.waiting


def _whole(request: Request) -> Request:
    """The same request, answered in one piece and in numbers."""
    if isinstance(request, ChatRequest | CompletionRequest) and request.stream:
        return msgspec.structs.replace(request, stream=False, stream_options=None)
    if isinstance(request, EmbeddingRequest):
        return msgspec.structs.replace(request, encoding_format="float")
    return request
