"""Leases: whatever several gateways do, and however they die, nobody gets more than there is and nothing is lost for good.

Real gateways' memories (SharedAccess, Leasing, Recorder) on one real PostgreSQL, driven by hypothesis: calls, settlements,
crashes, gateways that are cut off and come back, gateways that stop in order, money paid in. The clock stands still.
"""

import asyncio
import contextlib
import time
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tollway.flows.leasing import LEASE_S, Leasing
from tollway.kit.clock import ManualClock
from tollway.kit.db import Database
from tollway.kit.errors import PaymentRequired, TollwayError, Unavailable
from tollway.kit.ids import new_code
from tollway.kit.money import PICOS_PER_MICRO
from tollway.sell import accounts, api_keys, catalog, leases, ledger, tables
from tollway.sell.access import Caller, Grant
from tollway.sell.book import read_book
from tollway.sell.demand import Demand
from tollway.sell.metering import Committed, Recorder, UsageEvent
from tollway.sell.shared_access import SharedAccess

MILLION = 1_000_000
INCLUDED, CAP, CONCURRENCY, RPM = 25, 150, 4, 500
FIRST = 70  # micros in the wallet: small beside what calls cost, so that its end comes often
TERMS = catalog.Terms(
    charges=(
        catalog.Charge(meter="input_tokens", price_micros=2_500_000, included=INCLUDED),
        catalog.Charge(meter="output_tokens", price_micros=400_000),  # below a micro: the carry has work
    ),
    limits=catalog.UsageLimits(monthly_tokens=CAP, concurrency=CONCURRENCY, rpm=RPM),
)


class House:
    """One gateway: its memory, its recorder, its lock."""

    def __init__(self, world: "World") -> None:
        self.world, self.calls = world, list[Grant]()
        self.access = SharedAccess(world.clock, world.pepper)
        self.leasing = Leasing(world.db, world.clock, self.access, wait_s=0)
        self.lock: sa.Connection | None = world.db.engine.connect()
        self._hold()
        self.recorder = Recorder(world.db, world.clock, self._committed, self.leasing.draw)

    async def open(self) -> None:
        await self.leasing.open(self.recorder, listen=False)
        await self.refresh()

    async def refresh(self) -> None:
        await self.recorder.run(lambda conn: read_book(conn, self.world.clock.now_ms()), self.access.adopt)

    def caller(self) -> Caller:
        return self.access.identify(self.world.key)

    def cut_off(self) -> None:
        if self.lock is not None:
            self.lock.invalidate()
            self.lock.close()
            self.lock = None
            until = time.monotonic() + 60  # PostgreSQL ends a session in its own time; until then it holds its locks
            while self.world.news.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [self.session]).fetchone():
                assert time.monotonic() < until
                time.sleep(0.002)

    def _hold(self) -> None:
        assert self.lock is not None
        self.session = self.lock.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
        self.lock.execute(sa.select(sa.func.pg_advisory_lock(self.leasing.me.lock)))
        self.lock.commit()

    def _committed(self, wallets: list[Committed]) -> None:
        for one in wallets:
            self.access.committed(one.org_id, one.currency, one.wallet_picos, one.settled_picos)


RARELY = st.sampled_from([None, None, 0, 1, 2])
"""Which gateway it happens to; often to none."""


class World(RuleBasedStateMachine):
    """An organization, and up to three gateways that sell to it."""

    db: Database
    pepper = b"pepper for tests, 32 bytes long."

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.loop = ManualClock(), asyncio.new_event_loop()
        self.houses: list[House] = []
        with self.db.write() as conn:
            leases.forget(conn)
            name = f"org{conn.execute(sa.select(sa.func.count()).select_from(tables.organization)).scalar()}"
            self.org = accounts.create_organization(conn, 0, name).id
            plan = catalog.create_plan(conn, 0, name, "Basic", TERMS)
            catalog.subscribe(conn, 0, self.org, plan.id)
            self.key = api_keys.issue_key(conn, 0, self.pepper, self.org, "k").secret
            ledger.top_up(conn, 0, self.org, "USD", FIRST, f"first:{name}")
        self.paid_in, self.tops = FIRST, 0
        self.news = psycopg.connect(
            self.db.url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
        )
        self.news.execute(f"LISTEN {leases.CHANNEL}")

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    # -- what happens ------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.houses) < 3)
    @rule()
    def gateway_opens(self) -> None:
        async def opened() -> House:
            house = House(self)
            await house.open()
            return house

        self.houses.append(self.run(opened()))

    @precondition(lambda self: self.houses)
    @rule(which=st.integers(0, 2), input_=st.integers(0, 30), output=st.integers(0, 60))
    def call_begins(self, which: int, input_: int, output: int) -> None:
        house = self.houses[which % len(self.houses)]
        with contextlib.suppress(TollwayError):
            house.calls.append(self.run(house.leasing.admit(house.caller(), Demand("m", input_, output))))

    @precondition(lambda self: any(house.calls for house in self.houses))
    @rule(which=st.integers(0, 20), input_=st.integers(0, 30), output=st.integers(0, 60), fails=st.booleans())
    def call_ends(self, which: int, input_: int, output: int, fails: bool) -> None:
        open_ = [(house, grant) for house in self.houses for grant in house.calls]
        house, grant = open_[which % len(open_)]
        house.calls.remove(grant)
        if fails:
            house.access.release(grant)
            return
        input_, output = min(input_, grant.units.get(0, 0)), min(output, grant.units.get(1, 0))
        event = _event(self, grant, input_=input_, output=output)
        event.price_picos = house.access.settle(grant, event.quantities())

        def lost() -> None:
            house.access.unsettle(grant, event.quantities(), event.price_picos)

        try:
            self.run(self._kept(house, event, lost, grant))
        except Unavailable:  # a gateway that was taken for dead cannot spend; any other one can spend what it admitted
            assert house.lock is None, "a call that was admitted could not be recorded"

    async def _kept(self, house: House, event: Any, lost: Any, grant: Grant) -> None:
        await house.recorder.record(event, "USD", lost, grant.draws)

    @precondition(lambda self: self.houses)
    @rule(which=st.integers(0, 2), input_=st.integers(0, 30), output=st.integers(0, 60))
    def call_is_made(self, which: int, input_: int, output: int) -> None:
        """From beginning to end, using all it may."""
        house = self.houses[which % len(self.houses)]
        before = len(house.calls)
        self.call_begins(which, input_, output)
        if len(house.calls) > before:
            others = sum(len(one.calls) for one in self.houses[: self.houses.index(house) + 1])
            self.call_ends(others - 1, input_, output, fails=False)
            self.news_arrive()

    @precondition(lambda self: self.houses)
    @rule(which=RARELY)
    def gateway_crashes(self, which: int | None) -> None:
        if which is None:
            return
        house = self.houses.pop(which % len(self.houses))
        house.cut_off()
        self.run(house.recorder.close())

    @precondition(lambda self: self.houses)
    @rule(which=RARELY)
    def gateway_is_cut_off(self, which: int | None) -> None:
        """Its connection breaks, and nobody hears of it; but it goes on with what it has."""
        if which is None:
            return
        self.houses[which % len(self.houses)].cut_off()

    @precondition(lambda self: self.houses)
    @rule(which=RARELY)
    def gateway_stops(self, which: int | None) -> None:
        if which is None:
            return
        house = self.houses.pop(which % len(self.houses))
        for grant in house.calls:
            house.access.release(grant)
        self.run(house.leasing.close())
        self.run(house.recorder.close())
        house.cut_off()

    @precondition(lambda self: self.houses)
    @rule(which=st.integers(0, 2), seconds=st.sampled_from([1.0, LEASE_S + 1, 70.0]))
    def time_passes(self, which: int, seconds: float) -> None:
        self.clock.advance(seconds=seconds)
        self.run(self.houses[which % len(self.houses)].leasing.beat())
        self.news_arrive()

    @rule()
    def news_arrive(self) -> None:
        payloads = [notice.payload for notice in self.news.notifies(timeout=0)]

        async def heard() -> None:
            for house in self.houses:
                for payload in payloads:
                    house.leasing.hear(payload)
                while giving := list(house.leasing._giving):
                    await asyncio.gather(*giving, return_exceptions=True)

        self.run(heard())

    @precondition(lambda self: self.houses and self.tops < 3)
    @rule(micros=st.integers(1, 40))
    def money_comes_in(self, micros: int) -> None:
        self.tops += 1
        self.paid_in += micros
        with self.db.write() as conn:
            ledger.top_up(conn, 0, self.org, "USD", micros, f"{self.org}:{self.tops}")
        for house in self.houses:
            self.run(house.refresh())

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_overspent(self) -> None:
        leased, used = self._leased(), self._used()
        has = self.paid_in * PICOS_PER_MICRO - used["picos"]
        assert has >= 0, "the wallet was overspent"
        assert has == self._wallet(), "the ledger says something else"
        assert leased.get("wallet", 0) <= has, "more is leased than there is"
        if leased.get("units") is not None:  # somebody asked for free units, so the pool was opened
            assert leased["units"] + used["free"] == INCLUDED, "free units appeared or vanished"
        if leased.get("tokens") is not None:
            assert leased["tokens"] + used["tokens"] == CAP, "tokens of the cap appeared or vanished"
        assert leased.get("concurrency", 0) <= CONCURRENCY
        assert leased.get("rpm", 0) <= RPM

    def teardown(self) -> None:
        """All gateways die; one that comes after their time has everything that was not spent."""
        while self.houses:
            self.gateway_crashes(0)
        self.clock.advance(seconds=LEASE_S + 65)  # rates count for a minute more
        self.gateway_opens()
        self.run(self.houses[0].leasing.beat())
        leased, used = self._leased(), self._used()
        assert leased.get("wallet", 0) == 0, "the wallet is leased to the dead"
        rest = self.paid_in * PICOS_PER_MICRO - used["picos"]
        outputs = min(rest // 400_000, CAP - used["tokens"])
        if outputs > 0:
            self.houses[0].access.release(
                self.run(self.houses[0].leasing.admit(self.houses[0].caller(), Demand("m", 0, outputs)))
            )
        self.gateway_stops(0)
        with self.db.read() as conn:
            assert ledger.audit(conn) == []
        self.news.close()
        self.loop.close()

    def nothing_is_leased_beyond_the_wallet(self, paid_in: int) -> None:
        assert self._leased().get("wallet", 0) <= paid_in * PICOS_PER_MICRO - self._used()["picos"]

    def _leased(self) -> dict[str, int]:
        lease = tables.lease.c
        query = sa.select(lease.kind, sa.func.sum(lease.amount)).where(lease.org_id == self.org).group_by(lease.kind)
        with self.db.read() as conn:
            return {row[0]: int(row[1]) for row in conn.execute(query)}

    def _used(self) -> dict[str, int]:
        event = tables.usage_event.c
        sums = [
            sa.func.coalesce(sa.func.sum(event[name]), 0) for name in ("input_tokens", "output_tokens", "price_picos")
        ]
        with self.db.read() as conn:
            inputs, outputs, picos = (
                int(one) for one in conn.execute(sa.select(*sums).where(event.org_id == self.org)).one()
            )
        paid = (picos - outputs * 400_000) // 2_500_000
        return {"free": inputs - paid, "tokens": inputs + outputs, "picos": picos}

    def _wallet(self) -> int:
        with self.db.read() as conn:
            return ledger.wallet_picos(conn, self.org)[self.org, "USD"]


def test_gateways_that_die_and_come_back_never_overspend(postgres_db: Database) -> None:
    class Here(World):
        db = postgres_db

    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Here, settings=settings(max_examples=15, stateful_step_count=60, deadline=None, suppress_health_check=checks)
    )


async def test_work_that_is_owed_is_billed_beyond_the_slices(postgres_db: Database) -> None:
    """A job that another gateway began: it was done, so it is owed, whatever is left to lease. Nobody gets more after it."""

    class Here(World):
        db = postgres_db

    world = await asyncio.to_thread(Here)
    house = House(world)
    await house.open()
    key_id = house.caller().key.id
    grant = house.access.hold_again(key_id, Demand("m"))
    assert grant is not None
    house.access.release(await house.leasing.admit(house.caller(), Demand("m", 0, 10)))  # it has a slice
    event = _event(world, grant, output=1000)
    event.price_picos = house.access.settle(grant, event.quantities())
    await house.recorder.record(event, "USD", None, grant.draws)
    assert world._wallet() == FIRST * PICOS_PER_MICRO - 1000 * 400_000
    with pytest.raises(PaymentRequired):
        await house.leasing.admit(house.caller(), Demand("m", 0, 1))
    with postgres_db.write() as conn:
        ledger.top_up(conn, 0, world.org, "USD", 400, "more")
    await house.refresh()
    await house.leasing.beat()
    house.access.release(await house.leasing.admit(house.caller(), Demand("m", 0, 1)))
    world.nothing_is_leased_beyond_the_wallet(FIRST + 400)
    await house.leasing.close()
    await house.recorder.close()
    house.cut_off()


def _event(world: World, grant: Grant, *, input_: int = 0, output: int = 0) -> UsageEvent:
    call = new_code()
    return UsageEvent(
        f"evt_{call}", f"req_{call}", world.org, "key_1", grant.subscription_id, grant.plan.id, "m", "1", "chat",
        "ok", world.clock.now_ms(), input_, 0, output, 0, 0, 0, None, 0, False,
    )  # fmt: skip


async def test_a_gateway_that_was_taken_for_dead_cannot_spend(postgres_db: Database) -> None:
    """Cut off and held up with a call in the engine: its slices went to another one, so its commit fails. Then it is a new one."""

    class Here(World):
        db = postgres_db

    world = await asyncio.to_thread(Here)
    late, other = House(world), House(world)
    await late.open()
    await other.open()
    grant = await late.leasing.admit(late.caller(), Demand("m", 0, 100))  # 40 of 70 micros
    world.clock.advance(seconds=LEASE_S + 1)
    await other.leasing.beat()
    assert world._leased()["wallet"] > 0, "its lock was held: it was merely late"
    late.cut_off()
    async with asyncio.timeout(60):
        while world._leased().get("wallet", 0):  # the server notices when it does
            await asyncio.sleep(0.05)
            await other.leasing.beat()
    assert world._leased().get("wallet", 0) == 0, "its time was over and its lock free"
    taken = await other.leasing.admit(other.caller(), Demand("m", 0, 150))
    event = _event(world, grant, output=100)
    event.price_picos = late.access.settle(grant, event.quantities())
    with pytest.raises(Unavailable):
        await late.recorder.record(
            event, "USD", lambda: late.access.unsettle(grant, event.quantities(), event.price_picos), grant.draws
        )
    assert world._used()["picos"] == 0, "it spent what another one has"
    other.access.release(taken)
    await late.leasing.beat()
    await other.leasing.close()
    world.clock.advance(seconds=65)  # what both called in the last minute is over
    await late.leasing.beat()
    late.access.release(await late.leasing.admit(late.caller(), Demand("m", 0, 150)))
    for house in (late, other):
        await house.recorder.close()
        house.cut_off()
