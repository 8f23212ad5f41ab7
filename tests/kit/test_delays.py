"""Delays: each fires once after its time, unless cancelled; thousands share one timer of the loop."""

import asyncio
import time
from typing import Any

import pytest

from tollway.kit.delays import Delays


async def until_fired(fired: list[Any], count: int) -> None:
    async with asyncio.timeout(60):
        while len(fired) < count:
            await asyncio.sleep(0.01)


async def test_each_fires_once_in_order_and_not_before_its_time() -> None:
    delays, fired = Delays(0.05), list[tuple[int, float]]()
    began = time.monotonic()
    for number in range(3):
        delays.start(lambda number=number: fired.append((number, time.monotonic() - began)))
        await asyncio.sleep(0.02)
    await until_fired(fired, 3)
    assert [number for number, _ in fired] == [0, 1, 2]
    assert all(after >= 0.05 + 0.02 * number - 0.002 for number, after in fired)


async def test_a_cancelled_one_never_fires_and_the_others_do() -> None:
    delays, fired = Delays(0.03), list[int]()
    tickets = [delays.start(lambda number=number: fired.append(number)) for number in range(10)]
    for ticket in tickets[::2]:
        delays.cancel(ticket)
        delays.cancel(ticket)  # twice is once
    await until_fired(fired, 5)
    assert fired == [1, 3, 5, 7, 9]
    delays.cancel(tickets[1])  # too late is no error
    delays.start(lambda: fired.append(99))
    await until_fired(fired, 6)
    assert fired[-1] == 99, "it begins anew after a pause"


async def test_one_that_fails_does_not_stop_those_behind_it() -> None:
    loop, delays, fired = asyncio.get_running_loop(), Delays(0.02), list[int]()
    loop.set_exception_handler(lambda *_: None)

    def fail() -> None:
        raise ValueError

    delays.start(fail)
    delays.start(lambda: fired.append(1))
    await until_fired(fired, 1)
    assert fired == [1]


async def test_the_loop_has_one_timer_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, delays = asyncio.get_running_loop(), Delays(0.05)
    timers, call_later = [], loop.call_later

    def counted(delay: float, *more: Any, **how: Any) -> asyncio.TimerHandle:
        timers.append(delay)
        return call_later(delay, *more, **how)

    monkeypatch.setattr(loop, "call_later", counted)
    for _ in range(1000):
        delays.cancel(delays.start(lambda: None))
    assert len(timers) == 1
