"""The real engine's process killed under load, and clients that leave: what stops, what comes back, what is billed.

A stream that had begun cannot be begun again behind its reader's back: it ends with an error event and costs nothing.
Everything else that was in the engine is run a second time, and its caller notices only the wait.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.proof import books
from tests.proof.house import (
    Answer,
    Customer,
    GatewayProcess,
    chat,
    make_customer,
    offer_upstream,
    shop_of,
    start_gateway,
)
from tests.proof.upstream import Upstream, prompt
from tollway.flows import release
from tollway.forge.convert import starter
from tollway.sell.catalog import Charge, Terms

CHAT = starter.SMOLLM2.name
LONG = "Write a long story about a toll road in the mountains and the people who travel on it."
TERMS = Terms(
    charges=(Charge(meter="output_tokens", price_micros=2_300_000), Charge(meter="input_tokens", price_micros=700_000))
)
TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def engine_house(home: Path) -> Iterator[tuple[GatewayProcess, Customer]]:
    """A gateway that serves SmolLM2 alone."""
    with shop_of(home) as shop:
        starter.import_smollm2(shop.store)
        release.deploy(shop, CHAT)
    customer = make_customer(home, TERMS, 100_000_000)
    patient = {"TOLLWAY_CALL_TIMEOUT_S": "3600", "TOLLWAY_QUEUE_TIMEOUT_S": "3600"}  # no call is refused for a slow machine
    gateway = start_gateway(home, starter=False, env=patient)
    try:
        yield gateway, customer
    finally:
        gateway.kill()


def replica_pid(gateway: GatewayProcess) -> int | None:
    """The engine's process, found from outside."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) != gateway.process.pid:
                    continue
                if b"llama_cpp" in (entry / "cmdline").read_bytes():
                    return int(entry.name)
            except (OSError, IndexError):
                continue
    return None


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def ready_again(gateway: GatewayProcess, lost: int) -> float:
    """When the gateway, having noticed the loss, is ready again."""
    async with asyncio.timeout(300):
        while replica_pid(gateway) in (None, lost) or (await gateway.get("/readyz")).status != 200:
            await asyncio.sleep(0.01)
    return time.monotonic()


def check_bills(home: Path, customer: Customer, answers: list[Answer]) -> None:
    """Each answered call is billed as it says, nothing else is."""
    noted = books.Noted({a.request_id: books.tokens_stated(a) for a in answers if a.answered})
    with shop_of(home) as shop:
        found, extra = noted.against(shop.db)
        assert found + books.problems(shop.db, [customer]) == []
    assert extra == 0


async def event_of(home: Path, request_id: str) -> sa.Row[tuple[object, ...]]:
    """The event of a call that was left: it is in the books when the gateway has noticed."""
    async with asyncio.timeout(180):
        with shop_of(home) as shop:
            while request_id not in (known := books.events(shop.db)):
                await asyncio.sleep(0.05)
    return known[request_id]


@pytest.mark.engine
@pytest.mark.slow
async def test_a_killed_replica_comes_back_and_only_begun_streams_are_lost(tmp_path: Path) -> None:
    with engine_house(tmp_path) as (gateway, customer):
        streams = [chat(LONG, stream=True, max_tokens=600, temperature=0, seed=n) for n in range(3)]
        wholes = [chat(LONG, max_tokens=24, seed=n) for n in range(3)]
        begun = asyncio.Event()

        def noticed(answer: Answer) -> bool:
            if len(answer.events) > 1:
                begun.set()
            return False  # nobody leaves

        calls = [asyncio.create_task(gateway.ask(customer.key, body, leave_when=noticed)) for body in streams]
        calls += [asyncio.create_task(gateway.ask(customer.key, body)) for body in wholes]
        async with asyncio.timeout(300):
            await begun.wait()  # at least one reader has something that cannot be taken back
        late = [
            chat(LONG, stream=True, max_tokens=24, seed=n) for n in range(8)
        ]  # more than there are slots: some wait
        calls += [asyncio.create_task(gateway.ask(customer.key, body)) for body in late]
        await asyncio.sleep(0.3)
        first = replica_pid(gateway)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        killed = time.monotonic()
        back_s = await ready_again(gateway, first) - killed
        answers = await asyncio.gather(*calls)
        hello = await gateway.ask(customer.key, chat("Hello", max_tokens=1))
        assert hello.answered
        assert replica_pid(gateway) not in (None, first)
        for answer in answers[3:6]:
            assert answer.answered, "a call that had not begun to answer was not run again"
        lost = [answer for answer in answers if not answer.answered]
        assert lost, "the replica was killed when nothing ran"
        for answer in lost:
            assert answer.status == 200
            assert len(answer.events) > 1, "nothing had reached this reader: it should have been run again"
            assert answer.complete
            assert answer.error is not None
            assert answer.error["code"] == "engine_lost"
        check_bills(tmp_path, customer, [*answers, hello])
        print(
            f"back in {back_s:.2f} s; {len(lost)} begun streams lost, {len(answers) - len(lost)} of {len(answers)} answered"
        )


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("kills", [3])
async def test_killed_again_and_again_every_bill_is_right(tmp_path: Path, kills: int) -> None:
    """Random moments; a call may be hit twice and get a 503, or, if nothing else was inside that could have been what the
    engine died of, be refused: then it costs nothing."""
    dice, answers, stop = random.Random(kills), [], asyncio.Event()

    async def client(number: int) -> None:
        while not stop.is_set():
            body = chat(LONG, stream=number % 2 == 0, max_tokens=dice.randint(1, 40))
            answers.append(await gateway.ask(customer.key, body))

    with engine_house(tmp_path) as (gateway, customer):
        clients = [asyncio.create_task(client(number)) for number in range(6)]
        for _ in range(kills):
            await asyncio.sleep(dice.uniform(0.5, 2))
            while (pid := replica_pid(gateway)) is None:
                await asyncio.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(300):
            while sum(answer.answered for answer in answers) < 12:  # it goes on as if nothing had been
                await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*clients)
        for answer in answers:
            assert answer.complete
            assert answer.answered or answer.error is not None
            assert answer.status in (200, 503) or (answer.error or {})["code"] == "request_stops_engine", answer
        check_bills(tmp_path, customer, answers)
        print(
            f"{kills} kills: {sum(a.answered for a in answers)} answered, {sum(not a.answered for a in answers)} failed"
        )


@pytest.mark.engine
@pytest.mark.slow
async def test_a_client_that_leaves_stops_the_engine_and_pays_for_what_was_made(tmp_path: Path) -> None:
    with engine_house(tmp_path) as (gateway, customer):
        pid = replica_pid(gateway)
        assert pid is not None
        await gateway.ask(customer.key, chat("Hello", max_tokens=1))
        before = cpu_s(pid)
        answer = await gateway.ask(
            customer.key,
            chat(LONG, stream=True, max_tokens=2000, temperature=0),  # a long story: not one that may end after a few words
            leave_when=lambda a: len(a.events) >= 30,
        )
        left = cpu_s(pid)
        assert answer.left
        whole_s = (left - before) / 30 * 2000  # what the engine would work for the rest of the story
        seen = [left, cpu_s(pid)]
        async with asyncio.timeout(300):
            while len(seen) < 3 or seen[-1] - seen[-2] >= 0.1:
                await asyncio.sleep(1)
                seen.append(cpu_s(pid))
        after_s = seen[-1] - left
        assert left - before > 0.05
        assert after_s < 0.2 * whole_s, f"the engine worked for {after_s:.2f} s after the client left, of {whole_s:.1f}"
        row = await event_of(tmp_path, answer.request_id)
        with shop_of(tmp_path) as shop:
            assert books.problems(shop.db, [customer]) == []
        pieces = sum(b'"content":"' in event and b'"content":""' not in event for event in answer.events)
        assert row.status == "aborted"
        # what is generated until the gateway notices is billed too: on a busy machine, more
        assert pieces <= row.output_tokens <= pieces + 400, f"{pieces} pieces came, {row.output_tokens} tokens are billed"
        whole = await gateway.ask(customer.key, chat(LONG, max_tokens=1))
        assert row.input_tokens + row.cached_tokens == sum(books.tokens_stated(whole)[:2]), (
            "the input was counted otherwise"
        )
        print(f"{pieces} pieces received, {row.output_tokens} tokens billed, {after_s:.2f} s CPU after leaving")


async def test_who_leaves_an_upstream_pays_at_most_what_it_made(tmp_path: Path) -> None:
    """Without the engine's own running count the pieces are counted, and only those that carry text."""
    with Upstream() as mill:
        offer_upstream(tmp_path, "mill", mill.url)
        customer = make_customer(tmp_path, TERMS, 1_000_000)
        gateway = start_gateway(tmp_path, starter=False)
        try:
            body = chat(prompt("left", 500, pause_ms=100), "mill", stream=True)
            answer = await gateway.ask(customer.key, body, leave_when=lambda a: len(a.events) >= 11)
            row = await event_of(tmp_path, answer.request_id)
            made, before = mill.calls()["left"], -1
            async with asyncio.timeout(30):  # less than the upstream would go on for
                while made["tokens"] != before:
                    before = made["tokens"]
                    await asyncio.sleep(0.5)
                    made = mill.calls()["left"]
            assert made["finished"] == 0, "the upstream was not told that nobody listens"
            assert row.status == "aborted"
            # the upstream makes one more to find that nobody listens; the opening event, which has no text, is no token
            assert 10 <= row.output_tokens < made["tokens"]
        finally:
            gateway.kill()
