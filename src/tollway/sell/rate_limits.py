"""Rate limits of the hot path: requests and tokens per minute as sliding windows, and calls at once.

A window remembers what was taken in each of the last sixty seconds, so that no minute, wherever it is laid, holds more
than the limit (a fixed window lets twice the limit pass across its edge). A take can be corrected afterwards, when the
true number of tokens is known.
"""

from collections import deque

from tollway.kit.errors import RateLimited

_SPAN_S = 60
_REQUESTS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")


class Window:
    """A sliding minute with a limit. `now` is monotonic seconds."""

    __slots__ = ("_seconds", "limit", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._seconds: deque[list[int]] = deque()  # [second, taken]

    def left(self, now: float) -> int:
        """How much may still be taken in the minute that ends now."""
        self._forget(now)
        return self.limit - self.total

    def take(self, now: float, amount: int) -> list[int]:
        """Take without asking (ask `left` first). The ticket can be given to `correct`."""
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0])
        ticket = self._seconds[-1]
        ticket[1] += amount
        self.total += amount
        return ticket

    def correct(self, ticket: list[int], by: int) -> None:
        """Add `by` (usually negative) to what was taken, if that second still counts."""
        if self._seconds and ticket[0] >= self._seconds[0][0]:
            ticket[1] += by
            self.total += by

    def wait_s(self, now: float, amount: int) -> float:
        """Seconds until `amount` fits; a whole minute when it never will."""
        self._forget(now)
        missing = self.total + amount - self.limit
        for second, taken in self._seconds:
            if missing <= 0:
                break
            missing -= taken
            if missing <= 0:
                return max(second + _SPAN_S + 1 - now, 0.001)
        return 0.0 if missing <= 0 else float(_SPAN_S)

    def reset_s(self, now: float) -> float:
        """Seconds until the whole limit is free again, as of the last look at what is left."""
        return self._seconds[-1][0] + _SPAN_S + 1 - now if self._seconds else 0.0

    def _forget(self, now: float) -> None:
        edge = int(now) - _SPAN_S
        while self._seconds and self._seconds[0][0] < edge:
            self.total -= self._seconds.popleft()[1]


class Gate:
    """The three limits of one holder (an organization or a key); None means no limit."""

    __slots__ = ("concurrency", "rpm", "running", "tpm")

    def __init__(self, rpm: int | None, tpm: int | None, concurrency: int | None) -> None:
        self.rpm = Window(rpm) if rpm is not None else None
        self.tpm = Window(tpm) if tpm is not None else None
        self.concurrency = concurrency
        self.running = 0

    def count(self, now: float) -> None:
        """A request was made that came to nothing."""
        if self.rpm is not None:
            self.rpm.take(now, 1)

    def take(self, now: float, tokens: int) -> "tuple[Gate, list[int] | None]":
        """A call of so many tokens begins (ask `refusal` first). Its ticket is for `correct`; `running` falls with it."""
        self.running += 1
        if self.rpm is not None:
            self.rpm.take(now, 1)
        return self, self.tpm.take(now, tokens) if self.tpm is not None else None

    def correct(self, ticket: list[int] | None, by: int) -> None:
        """The call took other than it was thought to."""
        if self.tpm is not None and ticket is not None:
            self.tpm.correct(ticket, by)

    def adopt(self, rpm: int | None, tpm: int | None, concurrency: int | None) -> None:
        """Take on new limits and keep what was already taken under the old ones."""
        self.rpm = _resized(self.rpm, rpm)
        self.tpm = _resized(self.tpm, tpm)
        self.concurrency = concurrency

    def refusal(self, now: float, tokens: int) -> tuple[str, float] | None:
        """What stands in the way of a call of so many tokens and for how many seconds; None when nothing does."""
        if self.concurrency is not None and self.running >= self.concurrency:
            return f"{self.concurrency} calls at once", 1.0
        if self.rpm is not None and self.rpm.left(now) < 1:
            return f"{self.rpm.limit} requests per minute", self.rpm.wait_s(now, 1)
        if self.tpm is not None and self.tpm.left(now) < tokens:
            return f"{self.tpm.limit} tokens per minute", self.tpm.wait_s(now, tokens)
        return None


def rate_headers(now: float, gate: Gate, own: Gate | None) -> list[tuple[bytes, bytes]]:
    """`x-ratelimit-*` of an organization's gate, or of its key's own where that is the narrower."""
    headers: list[tuple[bytes, bytes]] = []
    for names, window, other in (
        (_REQUESTS, gate.rpm, None if own is None else own.rpm),
        (_TOKENS, gate.tpm, None if own is None else own.tpm),
    ):
        tightest = window
        if other is not None and (window is None or other.left(now) <= window.left(now)):
            tightest = other
        if tightest is not None:
            left = tightest.left(now)
            headers += (
                (names[0], b"%d" % tightest.limit),
                (names[1], b"%d" % (left if left > 0 else 0)),
                (names[2], b"%.3fs" % tightest.reset_s(now)),
            )
    return headers


def _resized(window: Window | None, limit: int | None) -> Window | None:
    if limit is None:
        return None
    if window is None:
        return Window(limit)
    window.limit = limit
    return window


def rate_limited(gate: Gate, tokens: int, limit: str, wait_s: float) -> RateLimited:
    """The refusal of a call of so many tokens that a limit stands in the way of."""
    if gate.tpm is not None and tokens > gate.tpm.limit:
        return RateLimited(
            f"This call may need {tokens:,} tokens, more than the limit of {limit} ever allows.",
            hint="Shorten the prompt or lower max_tokens.",
            retry_after_s=wait_s,
        )
    return RateLimited(
        f"The limit of {limit} is reached.", hint="Try again after the time in Retry-After.", retry_after_s=wait_s
    )
