"""One call in the making: its grant, its engine calls, its tally; opened, run and closed exactly once.

`flows/answer.py` is the story; this is its protagonist. Leaving the `async with` block closes the call whatever happened:

    left normally            the answer is complete             billed, event status "ok"
    the caller went away     the engine was stopped             what was generated is billed (the plan may say "free")
    a stream took too long   the engine was stopped             the same: the caller has it
    anything else            we failed                          nothing is billed, everything held is given back
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import msgspec

from tollway.flows.copies import Copies
from tollway.flows.leasing import Leasing
from tollway.kit.clock import Clock
from tollway.kit.crash import crashpoint
from tollway.kit.delays import Delays
from tollway.kit.errors import RateLimited, Unavailable
from tollway.kit.ids import new_code
from tollway.sell.access import Access, Caller, Grant
from tollway.sell.demand import Demand
from tollway.sell.metering import Recorder, UsageEvent
from tollway.serve.fleet import Fleet
from tollway.serve.line import TIERS, Turn
from tollway.serve.requests import Request
from tollway.serve.run import Run
from tollway.serve.served import Served
from tollway.serve.sizing import Size
from tollway.watch.metrics import Metrics


class Service(msgspec.Struct):
    """The parts of the running shop that a call passes through."""

    clock: Clock
    access: Access
    recorder: Recorder
    fleet: Fleet
    metrics: Metrics
    call_timeout_s: float
    copies: Copies | None = None
    leasing: Leasing | None = None  # one of several gateways
    deadlines: Delays = msgspec.field(default_factory=lambda: Delays(0))

    def __post_init__(self) -> None:
        self.deadlines = Delays(self.call_timeout_s)

    async def admit(self, caller: Caller, demand: Demand) -> Grant:
        """Hold the most a call can take: at once, or, with several gateways, after asking for what is short here."""
        if self.leasing is None:
            return self.access.admit(caller, demand)
        return await self.leasing.admit(caller, demand)


def refuse_suspect(served: Served, caller: Caller, request: Request) -> None:
    """Raise RateLimited for a constrained call of those whose constrained calls were in the engine when it was lost."""
    if not request.constrained:
        return
    wait_s = served.suspects.wait_s(caller.account.org_id, time.monotonic())
    if wait_s > 0:
        raise RateLimited(
            "The engine was lost more than once while it held an answer of this organization to a schema or to tools.",
            code="constrained_calls_paused",
            hint="Calls without response_format and tools go on; simplify the schema.",
            retry_after_s=wait_s,
        )


def turn_of(service: Service, caller: Caller, timeout_s: float | None, tier: str) -> Turn:
    """Whose turn a call is: when it must be over, by its own word, its plan's or the shop's; how urgent, by its plan."""
    account = caller.account
    terms = account.plan.terms if account.plan else None
    wanted_s = timeout_s or (terms.timeout_ms / 1000 if terms else 0) or service.call_timeout_s
    deadline = time.monotonic() + min(wanted_s, service.call_timeout_s)
    if terms is None:
        return Turn(account.org_id, deadline)
    return Turn(account.org_id, deadline, TIERS.index(tier or terms.priority), terms.weight)


class Call:
    """A caller's request with what was set aside for it."""

    def __init__(
        self,
        service: Service,
        served: Served,
        request: Request,
        size: Size,
        grant: Grant,
        call_id: str,
        tier: str = "",
        turn: Turn | None = None,
    ) -> None:
        self.service, self.served, self.request, self.size, self.grant = service, served, request, size, grant
        self.id = call_id
        self.tier = tier
        self.keep: Callable[[UsageEvent], Awaitable[None]] | None = None  # with the event, before it is recorded
        self.at_ms = service.clock.now_ms()
        self.began = time.monotonic()
        self.run = Run(served, request, size, grant.caller.account.org_id, call_id, self.at_ms, turn)
        self._timer: asyncio.TimerHandle | None = None
        self.answered_at: float | None = None  # monotonic, like `began`
        self.recorded_at: float | None = None
        self.price_picos: int | None = None
        self.copied_to: list[Served] | None = None
        self._closed = False
        self._left = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        left_s = self.run.turn.deadline - self.began
        self._deadline = 0
        if left_s < self.service.call_timeout_s - 1.0:  # else it is the common one, which is cheaper to watch
            self._timer = asyncio.get_running_loop().call_later(left_s, self._expire)
        else:
            self._deadline = self.service.deadlines.start(self._expire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.service.deadlines.cancel(self._deadline)
        if self._timer is not None:
            self._timer.cancel()
        self._left = True
        if kind is None:
            await self.close("ok")
        elif self.run.expired and issubclass(kind, asyncio.CancelledError):
            if self._task is not None:
                self._task.uncancel()
            shown = bool(self.request.stream) and self.run.counts()[2] > 0
            await self.close("aborted" if shown else "failed")
            billed = "what was generated is billed" if shown else "nothing was billed"
            raise Unavailable(f"The call took too long and was stopped; {billed}.", code="timeout") from error
        elif issubclass(kind, asyncio.CancelledError | GeneratorExit):
            await self.close("failed" if self.tier else "aborted")  # nobody has the half of a batch's answer
        else:
            await self.close("failed")

    def _expire(self) -> None:
        if self._task is not None and not self._left:
            self.run.expired = True
            self._task.cancel()

    # -- close -------------------------------------------------------------------------------------------------------

    async def close(self, status: str) -> None:
        """Record and settle, or give back. Only the first close counts; it returns when the event is durable."""
        if self._closed:
            return
        self._closed = True
        self.answered_at = time.monotonic()
        counts = self.run.counts()
        generated = status == "ok" or (
            status == "aborted"
            and self.grant.plan.terms.aborted == "bill"
            and (counts[2] > 0 or (not self.request.generates and self.run.answered()))
        )
        for tally in self.run.tallies:
            if tally.time is not None:
                tally.time.book(tally.prefill_us + tally.decode_us, billed=generated)
        self._observe(status, counts)
        if not generated:
            crashpoint("call.before_release")
            self.service.access.release(self.grant)
            return
        crashpoint("call.before_settle")
        event = self._settle(status, counts)
        if self.keep is not None:
            try:
                await self.keep(event)
            except BaseException:
                self._unsettle(event)
                raise
        crashpoint("call.before_record")
        wallet = self.grant.plan.terms.currency if self.grant.wallet else None
        await self.service.recorder.record(event, wallet, lambda: self._unsettle(event), self.grant.draws)
        self.recorded_at = time.monotonic()
        crashpoint("call.after_record")

    def _observe(self, status: str, counts: tuple[int, int, int]) -> None:
        if self.run.retries:
            self.service.metrics.retries.inc(self.run.retries)
        now, first = time.monotonic(), self.run.first_piece_at()
        first_s = None if first is None else first - self.began
        tokens, metrics = (counts[0] + counts[1], counts[2]), self.service.metrics
        metrics.call(self.request.operation, self.request.model, status, now - self.began, first_s, tokens)
        sat_at = self.run.tallies[0].sat_at
        if sat_at:
            metrics.waited(self.request.model, sat_at - self.began)

    def _unsettle(self, event: UsageEvent) -> None:
        """The event could not be kept."""
        self.service.access.unsettle(self.grant, event.quantities(), event.price_picos)

    def _settle(self, status: str, counts: tuple[int, int, int]) -> UsageEvent:
        fresh, cached, output = counts
        grant, account = self.grant, self.grant.caller.account
        used = {"input_tokens": fresh, "cached_tokens": cached, "output_tokens": output, "requests": 1}
        self.price_picos = self.service.access.settle(grant, used | self.run.counted())
        first, (prefill_us, decode_us) = self.run.first_piece_at(), self.run.engine_us()
        return UsageEvent(
            id=f"evt_{self.id}",
            request_id=f"req_{self.id}",
            org_id=account.org_id,
            key_id=grant.caller.key.id,
            subscription_id=grant.subscription_id,
            plan_version_id=grant.plan.id,
            model=self.request.model,
            model_version=self.run.tallies[0].version,
            operation=self.request.operation,
            status=status,
            at_ms=self.at_ms,
            input_tokens=fresh,
            cached_tokens=cached,
            output_tokens=output,
            price_picos=self.price_picos,
            prefill_us=prefill_us,
            decode_us=decode_us,
            first_token_us=round((first - self.began) * 1e6) if first is not None else None,
            duration_us=round((time.monotonic() - self.began) * 1e6),
            streamed=bool(self.request.stream),
            meter=self.size.meter,
            units=self.size.units,
            tier=self.tier,
        )


def new_call_id() -> str:
    """The id of a call: its event is evt_ID, its request req_ID."""
    return new_code()
