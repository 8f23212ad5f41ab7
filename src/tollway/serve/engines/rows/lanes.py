"""Lanes: the threads that run the model, fed with batches of like length from the racks (`rack.py`).

A free lane takes the next batch at once and leaves their share to other free lanes; it never waits for a batch to fill. A
row that finds everything idle runs wide, on all cores, where that is faster. Rows of one call may run in several batches, and
of several calls in one; each call is answered when its last row is. What is late or was left is dropped before it costs
anything; what had begun is told, so that it can be paid for.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from tollway.inference import Encoded, Predictor
from tollway.kit.errors import Unavailable
from tollway.serve.engines.rows import SLOTS
from tollway.serve.engines.rows.cost import Cost
from tollway.serve.engines.rows.lone import Lone
from tollway.serve.engines.rows.rack import Answers, Call, Piece, Racks, Row, Shape, Turn

BACKGROUND: Final = Turn(tier=3)
_NICE: Final = 1  # lanes give way to what reads, answers and watches
_SEEN: Final = 192  # lengths from which it is told which batches are best ...
_LOOK_AGAIN_S: Final = 4.0  # ... and how often
_TRIFLE_S: Final = 0.0001  # a row; to bring a call here and its answer back takes the two processes half a millisecond
_QUICK_S: Final = 0.0005
_FEW, _SHORT = 8, 32  # rows, and their length, by which a model is told to be quick
_SLOTS_QUICK, _SLOTS_SORTED = 32, 20
SWITCH_S: Final = 0.0005
"""For `sys.setswitchinterval`, beside an event loop: a lane that is through must not leave its core idle while the loop reads
what came in."""


class Plan(msgspec.Struct, frozen=True):
    """How a model runs here: found by `calibration.py`."""

    lanes: int = 1
    threads: int = 1
    shape: Shape = Shape()
    wide_spins: bool = False
    lone: Lone = msgspec.field(default_factory=Lone)
    cost: Cost = msgspec.field(default_factory=Cost)
    disturbed: float = 0.0  # the share of the cores that others held while it was measured

    @property
    def row_s(self) -> float:
        """What a short row of a small batch costs its lane, about; 0: not known."""
        return (self.cost.seconds(_FEW, _SHORT) + self.cost.turn) / _FEW

    @property
    def slots(self) -> int:
        """Calls that are worth having here at once. Where rows cost something, many: batches of like length are made of them.
        Where they cost nothing, more than keep the lanes busy are only in each other's way."""
        return max(_SLOTS_QUICK, 2 * self.lanes) if 0 < self.row_s < _TRIFLE_S else SLOTS

    @property
    def slots_sorted(self) -> int:
        """The same while it matters whose they are. Where rows cost much they wait here too, and are taken by weight; a model
        that is as quick as what brings its calls has done them before anybody is sorted. Those wait in the line in front of
        it: what that costs is smaller batches."""
        return min(self.slots, max(_SLOTS_SORTED, 2 * self.lanes)) if 0 < self.row_s < _QUICK_S else self.slots


class Figures(msgspec.Struct):
    """What the lanes did since they began."""

    rows: int = 0
    batches: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    busy_s: float = 0.0
    late_rows: int = 0
    left_rows: int = 0


class Recalled(Exception):
    """The caller left. `done`: the places of the rows that had begun, and were finished."""

    def __init__(self, done: list[int]) -> None:
        super().__init__("the caller left")
        self.done = done


class Lanes:
    """`answer` from the event loop, `answer_blocking` from a thread; answers come in the order of the rows."""

    def __init__(
        self,
        predictors: Sequence[Predictor],
        wide: Predictor | None,
        plan: Plan,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan, self.figures = plan, Figures()
        self.features = predictors[0].features
        self._wide = wide
        self._clock = clock
        self._racks = Racks()
        self._free = threading.Condition()
        self._idle = 0
        self._over = False
        self._began: dict[int, tuple[float, list[Piece]]] = {}  # lane -> when its batch began, and what is in it
        self._called: dict[str, Call] = {}
        self._bell: _Bell | None = None
        self._look_at = clock() + 1.0
        self._seen: list[int] = []  # lengths of the newest rows
        for number in range(plan.lanes):
            predictor = predictors[number % len(predictors)]
            threading.Thread(target=self._work, args=(number, predictor), name=f"lane {number}", daemon=True).start()

    async def answer(
        self, rows: Sequence[Row], encoded: Sequence[Encoded], turn: Turn = Turn(), call_id: str = ""
    ) -> Answers:
        """Run rows; leaving drops those that have not begun. `call_id`: to recall it by. Raises Unavailable (code
        "late") when the time is over, and Recalled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        bell = self._bell
        if bell is None or bell.loop is not loop:
            bell = self._bell = _Bell(loop)
        call = Call(rows, turn, self._clock(), call_id)
        call.told = partial(bell.ring, future)
        if call_id:
            self._called[call_id] = call
        self.put(call, encoded)
        try:
            await future
        except asyncio.CancelledError:
            self.leave(call)
            raise
        finally:
            self._called.pop(call_id, None)
        if call.recalled and call.error is None:
            raise Recalled([place for place, answer in enumerate(call.answers) if answer])
        return _taken(call)

    def recall(self, call_id: str) -> bool:
        """Nobody waits for a call any more: what has begun is finished and told, the rest is dropped."""
        call = self._called.get(call_id)
        if call is None:
            return False
        with self._free:
            if call.recalled:
                return True  # said twice
            call.recalled = True
            dropped = len(call.rows) - call.begun
            call.left -= dropped
            self.figures.left_rows += dropped
            self._racks.drop(call)
            over = call.left == 0
        if over and call.told is not None:
            call.told()
        return True

    def answer_blocking(self, rows: Sequence[Row], turn: Turn = BACKGROUND, call_id: str = "") -> Answers:
        """Run rows, in the background unless the turn says otherwise."""
        done = threading.Event()
        call = Call(rows, turn, self._clock(), call_id)
        call.told = done.set
        self.put(call, self.features.encode(rows))
        done.wait()
        return _taken(call)

    def leave(self, call: Call) -> None:
        """Nobody waits for this call any more: what has not begun never will."""
        with self._free:
            if not call.recalled:  # else they were counted then
                self.figures.left_rows += len(call.rows) - call.begun
            self._racks.drop(call)

    def close(self) -> None:
        """The lanes end when they are through with what they are at; what waits is not answered."""
        with self._free:
            self._over = True
            self._free.notify_all()

    def at_work(self) -> tuple[float, list[str]]:
        """How long the slowest lane has been at its batch (s), and whose rows are in any lane: the ids of those calls. What has
        begun goes on there when its caller has long left."""
        now, batches = self._clock(), list(self._began.values())
        calls = {piece.call.id for _, batch in batches for piece in batch}
        return max((now - began for began, _ in batches), default=0.0), sorted(calls - {""})

    def told(self) -> dict[str, Any]:
        """How it goes, for whoever watches: figures since the beginning, and the plan."""
        plan = self.plan
        shape = {"lanes": plan.lanes, "threads": plan.threads, "budget": plan.shape.budget, "rows_most": plan.shape.rows}
        shape |= {"slots": plan.slots, "slots_sorted": plan.slots_sorted}
        slowest_s, calls = self.at_work()
        now = {"slowest_s": slowest_s, "calls": calls}
        return now | shape | {"disturbed": plan.disturbed, "waiting_rows": self.waiting} | msgspec.structs.asdict(self.figures)

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return self._racks.waiting

    # -- inside ------------------------------------------------------------------------------------------------------

    def put(self, call: Call, encoded: Sequence[Encoded]) -> None:
        """Rows of a call, encoded; its `told` is called when it is over."""
        if not encoded:
            assert call.told is not None
            call.told()
            return
        length = self.features.length
        pieces = [Piece(call, place, one, max(1, length(one))) for place, one in enumerate(encoded)]
        with self._free:
            self._racks.put(pieces)
            if len(self._seen) < _SEEN:
                self._seen += [piece.length for piece in pieces[:_SEEN]]
            self._free.notify(min(len(pieces), max(1, self._idle)))

    def _work(self, number: int, predictor: Predictor) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            with self._free:
                self._idle += 1
                while not self._racks and not self._over:
                    self._free.wait()
                if self._over:
                    return
                alone = not self._began
                share = -(-self._racks.waiting // max(1, self._idle))  # the others that are free want something too
                batch, late = self._racks.pick(self.plan.shape, share, self._clock())
                self._idle -= 1
                self.figures.late_rows += sum(len(call.rows) - call.begun for call in late)
                alone = alone and len(batch) == 1 and not self._racks
                wide = self._wide if alone and self._wide and self.plan.lone.goes_wide(batch[0].length) else None
                if batch:
                    self._began[number] = self._clock(), batch
            for call in late:
                _fail(call, Unavailable("The time for this call was over before it began.", code="late"))
            if not batch:
                continue
            try:
                self._run(batch, wide or predictor, wide=wide is not None, alone=alone and self._wide is not None)
            finally:
                with self._free:
                    del self._began[number]

    def _run(self, batch: list[Piece], predictor: Predictor, *, wide: bool, alone: bool) -> None:
        features = predictor.features
        encoded = [piece.encoded for piece in batch]
        rows = [piece.call.rows[piece.place] for piece in batch]
        began = self._clock()
        try:
            outputs = features.generate(predictor.run, features.collate(encoded))
            took = self._clock() - began
            answers = features.decode(outputs, rows, encoded)
        except Exception as error:  # noqa: BLE001 - told to each call that it belongs to; the lane lives on
            calls = {piece.call for piece in batch}
            if len(calls) > 1:  # one of them is at fault, and the others need not suffer
                for call in calls:
                    self._run([piece for piece in batch if piece.call is call], predictor, wide=wide, alone=alone)
                return
            call = batch[0].call
            with self._free:
                self._racks.drop(call)
            _fail(call, error)
            return
        finished = []
        with self._free:
            for piece, answer in zip(batch, answers, strict=True):
                piece.call.answers[piece.place] = answer
                piece.call.left -= 1
                if piece.call.left == 0 and piece.call.error is None:
                    finished.append(piece.call)
            self._count([piece.length for piece in batch], took, wide=wide, alone=alone)
        for call in finished:
            if call.told is not None:
                call.told()
        if len(self._seen) >= _SEEN and self._clock() > self._look_at:
            self._look_again()

    def _look_again(self) -> None:
        """Is the shape still the best for what comes?"""
        self._look_at = self._clock() + _LOOK_AGAIN_S
        with self._free:
            seen, self._seen = self._seen, []
        self.plan = msgspec.structs.replace(self.plan, shape=self.plan.cost.shape(seen, self.plan.shape))

    def _count(self, lengths: list[int], took: float, *, wide: bool, alone: bool) -> None:
        figures, longest = self.figures, max(lengths)
        figures.rows += len(lengths)
        figures.batches += 1
        figures.tokens += sum(lengths)
        figures.padded_tokens += len(lengths) * longest
        figures.busy_s += took
        if alone and not self._racks and len(self._began) == 1:
            self.plan.lone.learn(longest, wide=wide, seconds=took)
        if not wide:
            self.plan.cost.learn(len(lengths), longest, took)


def _fail(call: Call, error: Exception) -> None:
    if call.error is None:
        call.error = error
        if call.told is not None:
            call.told()


class _Bell:
    """Wakes an event loop once for all calls that a batch ends: they are then answered one right after the other, and whoever
    reads the answers is woken once, too."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._over: deque[asyncio.Future[None]] = deque()
        self._rung = False

    def ring(self, future: "asyncio.Future[None]") -> None:
        """From any thread: what waits for this is to go on."""
        self._over.append(future)
        if not self._rung:  # else the loop has not looked yet, and will find this one as well
            self._rung = True
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._rung = False  # before looking: who rings now is heard again
        while self._over:
            future = self._over.popleft()
            if not future.done():
                future.set_result(None)


def _taken(call: Call) -> Answers:
    if call.error is None:
        return call.answers
    if isinstance(call.error, MemoryError):
        raise Unavailable("The model ran out of memory for this input.", code="engine_failed") from call.error
    raise call.error
