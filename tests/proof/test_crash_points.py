"""The gateway killed at every named crash point, and from outside at any moment: no answered call unbilled or doubled.

What holds, exactly. A call whose answer reached its last byte has one event with the tokens it was told. A call that
was not answered has none, with one exception no single machine can remove: killed between the commit and the sending,
the event exists and the answer does not. Such events are counted here and must each belong to a call in flight at the
kill. A stream that the client left is billed for at least what it received and at most what the engine produced.
"""

import asyncio
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tollway
from tests.proof import books
from tests.proof.house import PAID, GatewayProcess, make_customer, offer_upstream, shop_of, start_gateway
from tests.proof.load import MODEL, Crowd
from tests.proof.upstream import Upstream
from tollway.kit.db import Database
from tollway.kit.settings import Settings
from tollway.sell import ledger
from tollway.sell.catalog import Charge, Terms, UsageLimits

CLIENTS = 12
KILLS = 12
NAMED = sorted(
    {
        name
        for file in Path(tollway.__file__).parent.rglob("*.py")
        if file.name != "crash.py"
        for name in re.findall(r"\bcrashpoint\(\s*\"([^\"]+)\"", file.read_text())
        if not name.startswith(("edge.", "deploy."))  # no call comes by: tests/flows/test_edge_usage.py, test_versions.py
    }
)
POSTING = [name for name in NAMED if name.startswith("posting.")]  # by the minute and at the end, not with a call
POINTS = [name for name in NAMED if name not in POSTING]
BY_INVOICE = Terms(
    overage="invoice",
    charges=(Charge(meter="output_tokens", price_micros=1_700_000, included=100),),
    limits=UsageLimits(concurrency=CLIENTS),
)


@pytest.fixture
def mill() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


class House:
    """A home with two customers, a crowd that calls, and the checks after each crash."""

    def __init__(self, home: Path, mill: Upstream, seed: int) -> None:
        self.home, self.mill, self.random = home, mill, random.Random(seed)
        offer_upstream(home, MODEL, mill.url)
        self.customers = [
            make_customer(home, PAID, 50_000_000, name="prepaid"),
            make_customer(home, BY_INVOICE, name="invoiced"),
        ]
        self.crowd = Crowd(self.customers, seed)
        self.extra = 0

    def start(self, **env: str) -> GatewayProcess:
        return start_gateway(self.home, starter=False, env=env)

    def check(self, where: str) -> None:
        """All promises, on the database as the crash left it."""
        db = Database(Settings(self.home, environment={}).url_of_database)
        try:
            found = self.crowd.problems + books.problems(db, self.customers)
            unmatched, extra = self.crowd.noted.against(db)
            produced = {name: call["tokens"] for name, call in self.mill.calls().items()}
            found += unmatched + self.crowd.noted.of_streams_cut_short(db, produced)
        finally:
            db.close()
        assert not found, f"after {where}: " + "\n".join(found[:20])
        assert extra - self.extra <= CLIENTS, f"after {where}: {extra - self.extra} events nobody was answered for"
        self.extra = extra

    async def nothing_held(self, gateway: GatewayProcess) -> None:
        """What the restarted gateway says is left is what the database says; every concurrency place is free."""
        with shop_of(self.home) as shop:
            known = list(books.events(shop.db).values())
        for customer in self.customers:
            told = (await gateway.get("/v1/key", customer.key)).json
            mine = [row for row in known if row.org_id == customer.org_id]
            assert told["tokens_used"] == sum(sum(books.tokens_of(row)) for row in mine)
            if customer.wallet_micros:
                picos = customer.wallet_micros * 1_000_000 - sum(row.price_picos for row in mine)
                assert told["wallet_micros"] == picos // 1_000_000


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_at_each_crash_point_no_answered_call_is_lost_or_doubled(
    tmp_path: Path, mill: Upstream, seed: int
) -> None:
    assert len(POINTS) >= 13, POINTS
    house = House(tmp_path / "home", mill, seed)
    order = POINTS.copy()
    house.random.shuffle(order)
    for point in order:
        after = 1 if seed == 1 else house.random.randint(2, 40)
        gateway = house.start(TOLLWAY_CRASH_AT=point, TOLLWAY_CRASH_AFTER=str(after))
        await house.nothing_held(gateway)
        async with asyncio.timeout(120):
            await house.crowd.press(gateway, CLIENTS)
        assert await gateway.ended() == -signal.SIGKILL, f"{point} was never reached:\n{gateway.log()}"
        house.check(f"crash at {point} (visit {after})")
    await _one_good_round(house)
    print(f"seed {seed}: {len(order)} crashes, {_figures(house)}")


@pytest.mark.parametrize("point", POSTING)
async def test_killed_while_it_posts_usage_to_the_ledger_no_wallet_wins_or_loses(
    tmp_path: Path, mill: Upstream, point: str
) -> None:
    house = House(tmp_path / "home", mill, 5)
    gateway = house.start(TOLLWAY_CRASH_AT=point)
    await house.crowd.press(gateway, CLIENTS, calls=2)
    assert gateway.stop() == -signal.SIGKILL, f"{point} was never reached:\n{gateway.log()}"
    house.check(f"crash at {point}")
    with shop_of(house.home) as shop, shop.db.read() as conn:
        assert [entry.kind for entry in ledger.entries(conn, house.customers[0].org_id)] == ["accrued", "top_up"]
    gateway = house.start()
    await house.nothing_held(gateway)
    assert gateway.stop() == 0
    house.check("the next end")
    with shop_of(house.home) as shop, shop.db.read() as conn:
        assert [entry.kind for entry in ledger.entries(conn, house.customers[0].org_id)] == ["usage", "top_up"]


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_killed_from_outside_at_any_moment(tmp_path: Path, mill: Upstream) -> None:
    house = House(tmp_path / "home", mill, KILLS)
    for number in range(KILLS):
        gateway = house.start()
        await house.nothing_held(gateway)
        asyncio.get_running_loop().call_later(house.random.uniform(0.05, 1.2), gateway.process.kill)
        await house.crowd.press(gateway, CLIENTS)
        await gateway.ended()
        house.check(f"kill {number + 1}")
    await _one_good_round(house)
    print(f"{KILLS} kills, {_figures(house)}")


async def _one_good_round(house: House) -> None:
    """After all that, a restarted gateway serves as if nothing had been: every client at once, each answered."""
    began = time.monotonic()
    gateway = house.start()
    before = len(house.crowd.noted.answered)
    calm = Crowd(house.customers, 99, leavers=0, failing=0)
    calm.noted = house.crowd.noted
    await calm.press(gateway, CLIENTS, calls=3)
    assert not calm.problems
    assert len(house.crowd.noted.answered) == before + 3 * CLIENTS, time.monotonic() - began
    assert gateway.stop() == 0
    house.check("a calm round")


def _figures(house: House) -> str:
    noted = house.crowd.noted
    waiting = sum(noted.unanswered.values())
    return (
        f"{len(noted.answered)} answered calls all billed once, {waiting} cut off, "
        f"{house.extra} of these committed but not sent, {len(noted.left)} streams left, {noted.refused} refused"
    )


def test_the_points_are_found_in_the_source() -> None:
    """A renamed function must not silently empty the list."""
    assert {"answer.after_hold", "recorder.before_commit", "recorder.after_commit", "answer.before_last_byte"} <= set(
        POINTS
    )
    assert POSTING == ["posting.before_commit", "posting.taken"]
