"""Lanes: the threads that run the model, each with one thread of the engine, fed with batches of like length.

Rows of all calls wait in one queue. A free lane takes the oldest row and those nearest to it in length, as many as fit the
token budget, and leaves their share to other free lanes; it never waits for a batch to fill. A single row that finds
everything idle runs wide: on all cores at once. Work in the background (explanations) runs when nothing else waits.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tollway.inference import Encoded, Predictor
from tollway.kit.errors import Unavailable

_WINDOW: Final = 256  # rows looked at for a batch
_ROWS_MAX: Final = 64

Row = Mapping[str, Any]
Answers = list[dict[str, Any]]


class Order:
    """The rows of one call, and their answers as they come."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.answers: Answers = [{}] * len(rows)
        self.left = len(rows)
        self.cancelled = False
        self.error: Exception | None = None
        self.done = threading.Event()
        self.told: Any = None  # called once, from a lane's thread

    def finish(self) -> None:
        """All answers are there, or an error is."""
        self.done.set()
        if self.told is not None:
            self.told()


class _Piece:
    """One row in the queue."""

    __slots__ = ("encoded", "length", "order", "place")

    def __init__(self, order: Order, place: int, encoded: Encoded, length: int) -> None:
        self.order, self.place, self.encoded, self.length = order, place, encoded, length


class Lanes:
    """`answer` from the event loop, `answer_blocking` from a thread; answers come in the order of the rows."""

    def __init__(self, predictor: Predictor, wide: Predictor | None, lanes: int, budget: int) -> None:
        self._predictor = predictor
        self._wide = wide
        self._budget = budget
        self._queue: deque[_Piece] = deque()
        self._background: deque[_Piece] = deque()
        self._free = threading.Condition()
        self._idle = 0
        self._began: dict[int, float] = {}  # lane -> when its batch began
        self.rows = self.batches = 0
        for number in range(lanes):
            threading.Thread(target=self._work, args=(number,), name=f"lane {number}", daemon=True).start()

    async def answer(self, rows: Sequence[Row], encoded: Sequence[Encoded]) -> Answers:
        """Run rows; leaving drops those that have not begun."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        order = Order(rows)
        order.told = lambda: loop.call_soon_threadsafe(_wake, future)
        self._put(order, encoded, self._queue)
        try:
            await future
        except asyncio.CancelledError:
            order.cancelled = True
            raise
        return _taken(order)

    def answer_blocking(self, rows: Sequence[Row]) -> Answers:
        """Run rows in the background."""
        order = Order(rows)
        self._put(order, self._predictor.features.encode(rows), self._background)
        order.done.wait()
        return _taken(order)

    def stuck_s(self) -> float:
        """How long the slowest lane has been at its batch."""
        now = time.monotonic()
        return max((now - began for began in list(self._began.values())), default=0.0)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _put(self, order: Order, encoded: Sequence[Encoded], queue: deque[_Piece]) -> None:
        if not encoded:
            order.finish()
            return
        length = self._predictor.features.length
        pieces = [_Piece(order, place, one, max(1, length(one))) for place, one in enumerate(encoded)]
        with self._free:
            queue.extend(pieces)
            self._free.notify(min(len(pieces), max(1, self._idle)))

    def _work(self, number: int) -> None:
        while True:
            with self._free:
                self._idle += 1
                while not self._queue and not self._background:
                    self._free.wait()
                batch = self._pick(self._queue or self._background)
                self._idle -= 1
                if not batch:
                    continue
                wide = self._wide if len(batch) == 1 and not self._queue and not self._began else None
                self._began[number] = time.monotonic()
            try:
                self._run(batch, wide or self._predictor)
            finally:
                with self._free:
                    del self._began[number]

    def _pick(self, queue: deque[_Piece]) -> list[_Piece]:
        """The oldest row and its nearest in length; what was cancelled falls out."""
        window: list[_Piece] = []
        while queue and len(window) < _WINDOW:
            piece = queue.popleft()
            if not piece.order.cancelled and piece.order.error is None:
                window.append(piece)
        if not window:
            return []
        share = -(-len(window) // max(1, self._idle))  # the others that are free want something too
        anchor = window[0].length
        batch: list[_Piece] = []
        longest = anchor
        for piece in sorted(window, key=lambda piece: abs(piece.length - anchor)):
            longest = max(longest, piece.length)
            if batch and (longest * (len(batch) + 1) > self._budget or len(batch) >= min(share, _ROWS_MAX)):
                break
            batch.append(piece)
        taken = set(map(id, batch))
        queue.extendleft(piece for piece in reversed(window) if id(piece) not in taken)
        return batch

    def _run(self, batch: list[_Piece], predictor: Predictor) -> None:
        features = predictor.features
        encoded = [piece.encoded for piece in batch]
        rows = [piece.order.rows[piece.place] for piece in batch]
        try:
            outputs = features.generate(predictor.run, features.collate(encoded))
            answers = features.decode(outputs, rows, encoded)
        except Exception as error:  # noqa: BLE001 - told to each call that it belongs to; the lane lives on
            for order in {piece.order for piece in batch}:
                if order.error is None:
                    order.error = error
                    order.finish()
            return
        finished = []
        with self._free:
            self.rows, self.batches = self.rows + len(batch), self.batches + 1
            for piece, answer in zip(batch, answers, strict=True):
                piece.order.answers[piece.place] = answer
                piece.order.left -= 1
                if piece.order.left == 0 and piece.order.error is None:
                    finished.append(piece.order)
        for order in finished:
            order.finish()


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _taken(order: Order) -> Answers:
    if order.error is None:
        return order.answers
    if isinstance(order.error, MemoryError):
        raise Unavailable("The model ran out of memory for this input.", code="engine_failed") from order.error
    raise order.error
