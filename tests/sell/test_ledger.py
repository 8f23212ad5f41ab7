"""The ledger: balanced or refused, once per cause, balances that are sums. On both databases."""

import tempfile
import threading

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tollway.kit.db import Database, metadata
from tollway.kit.errors import BadRequest
from tollway.kit.money import PICOS_PER_MICRO
from tollway.sell import ledger, revision, tables
from tollway.sell.ledger import Leg

NOW = 1_767_225_600_000


def test_a_top_up_is_spendable_and_stands_in_cash(db: Database) -> None:
    with db.write() as conn:
        assert ledger.top_up(conn, NOW, "org_a", "USD", 5_000_000, "bank:1", memo="wire")
    with db.read() as conn:
        assert ledger.wallet_micros(conn, "org_a", "USD") == 5_000_000
        assert ledger.wallet_micros(conn, "org_a", "EUR") == 0
        assert ledger.wallet_picos(conn) == {("org_a", "USD"): 5_000_000 * PICOS_PER_MICRO}
        assert ledger.balance(conn, "cash", "", "USD") == 5_000_000
        assert ledger.audit(conn) == []


def test_a_grant_is_an_expense_and_not_cash(db: Database) -> None:
    with db.write() as conn:
        ledger.grant(conn, NOW, "org_a", "USD", 1_000_000, "welcome:org_a")
        assert ledger.balance(conn, "cash", "", "USD") == 0
        assert ledger.balance(conn, "grants", "", "USD") == 1_000_000
        assert ledger.wallet_micros(conn, "org_a", "USD") == 1_000_000


def test_the_same_cause_moves_money_once(db: Database) -> None:
    with db.write() as conn:
        assert ledger.top_up(conn, NOW, "org_a", "USD", 5, "bank:1") is not None
    with db.write() as conn:
        assert ledger.top_up(conn, NOW + 1, "org_a", "USD", 5, "bank:1") is None
        assert ledger.grant(conn, NOW + 1, "org_b", "USD", 7, "bank:1") is None
        assert ledger.wallet_micros(conn, "org_a", "USD") == 5
        assert len(ledger.entries(conn)) == 2


def test_two_reporters_of_one_cause_at_the_same_time_move_money_once(db: Database) -> None:
    results: list[str | None] = []
    barrier = threading.Barrier(4)

    def report() -> None:
        barrier.wait()
        with db.write() as conn:
            results.append(ledger.top_up(conn, NOW, "org_a", "USD", 5, "bank:1"))

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result is not None for result in results) == 1 and len(results) == 4
    with db.read() as conn:
        assert ledger.wallet_micros(conn, "org_a", "USD") == 5
        assert ledger.audit(conn) == []


def test_writers_at_the_same_time_lose_nothing(db: Database) -> None:
    def spend(org: str) -> None:
        for number in range(10):
            with db.write() as conn:
                legs = [Leg("wallet", org, "USD", 3), Leg("revenue_usage", "", "USD", -3)]
                ledger.post(conn, NOW, "usage", f"usage:{org}:{number}", legs)

    threads = [threading.Thread(target=spend, args=(f"org_{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.read() as conn:
        assert ledger.balance(conn, "revenue_usage", "", "USD") == -120
        assert ledger.audit(conn) == []


@pytest.mark.parametrize(
    ("legs", "why"),
    [
        ([Leg("cash", "", "USD", 5), Leg("wallet", "o", "USD", -4)], "off by 1"),
        ([Leg("cash", "", "USD", 5), Leg("wallet", "o", "EUR", -5)], "off by"),
        ([Leg("kash", "", "USD", 5), Leg("wallet", "o", "USD", -5)], "no account"),
        ([Leg("cash", "", "USD", 5), Leg("wallet", "", "USD", -5)], "needs organization"),
        ([Leg("cash", "o", "USD", 5), Leg("wallet", "o", "USD", -5)], "has no organization"),
    ],
)
def test_what_does_not_balance_is_refused_and_leaves_nothing(sqlite_db: Database, legs: list[Leg], why: str) -> None:
    with pytest.raises(ValueError, match=why), sqlite_db.write() as conn:
        ledger.post(conn, NOW, "correction", "c", legs)
    with sqlite_db.read() as conn:
        assert ledger.entries(conn) == []


def test_nothing_to_move_is_no_transaction(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        assert ledger.post(conn, NOW, "usage", "c", [Leg("cash", "", "USD", 0), Leg("wallet", "o", "USD", 0)]) is None
        assert conn.execute(sa.select(sa.func.count()).select_from(tables.ledger_transaction)).scalar() == 0


@pytest.mark.parametrize(("micros", "currency"), [(0, "USD"), (-1, "USD"), (10**16, "USD"), (1, "XXX")])
def test_a_top_up_of_nonsense_is_a_bad_request(sqlite_db: Database, micros: int, currency: str) -> None:
    with pytest.raises(BadRequest), sqlite_db.write() as conn:
        ledger.top_up(conn, NOW, "o", currency, micros, "c")


def test_a_top_up_tells_the_gateways_and_a_repeated_one_does_not(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        ledger.top_up(conn, NOW, "o", "USD", 1, "c")
        first = revision.current(conn)
        ledger.top_up(conn, NOW, "o", "USD", 1, "c")
        assert (first, revision.current(conn)) == (1, 1)


def test_entries_come_newest_first_and_can_be_narrowed(db: Database) -> None:
    with db.write() as conn:
        for number in range(3):
            ledger.top_up(conn, NOW + number, f"org_{number % 2}", "USD", 10 + number, f"bank:{number}", memo="wire")
        found = ledger.entries(conn)
        assert [entry.at_ms for entry in found] == [NOW + 2] * 2 + [NOW + 1] * 2 + [NOW] * 2
        assert {entry.memo for entry in found} == {"wire"}
        assert [entry.amount_micros for entry in ledger.entries(conn, "org_0")] == [-12, -10]
        assert [entry.amount_micros for entry in ledger.entries(conn, limit=1, account="cash")] == [12]


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        ("UPDATE ledger_entry SET amount_micros = amount_micros + 1 WHERE account = 'cash'", "is off by 1 micros"),
        ("UPDATE ledger_balance SET amount_micros = 9 WHERE account = 'wallet'", "its entries sum to"),
        ("DELETE FROM ledger_entry", "has no entries"),
        ("DELETE FROM ledger_balance WHERE account = 'cash'", "not to zero"),
    ],
)
def test_the_audit_finds_every_kind_of_harm(db: Database, harm: str, found: str) -> None:
    with db.write() as conn:
        ledger.top_up(conn, NOW, "org_a", "USD", 5, "bank:1")
        conn.execute(sa.text(harm))
        assert any(found in problem for problem in ledger.audit(conn))


_CAUSES = st.sampled_from([f"cause:{n}" for n in range(12)])
_ORGS = st.sampled_from(["org_a", "org_b"])
_CURRENCIES = st.sampled_from(["USD", "JPY"])


class Books(RuleBasedStateMachine):
    """Any mixture of movements, repeats and refused ones, against a dictionary that knows what should be there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.db = Database(f"{self.folder.name}/books.db")
        metadata.create_all(self.db.engine)
        self.seen: set[str] = set()
        self.wallets: dict[tuple[str, str], int] = {}
        self.entries = 0

    @rule(cause=_CAUSES, org=_ORGS, currency=_CURRENCIES, micros=st.integers(1, 10**9), given=st.booleans())
    def fill(self, cause: str, org: str, currency: str, micros: int, given: bool) -> None:
        with self.db.write() as conn:
            moved = (ledger.grant if given else ledger.top_up)(conn, NOW, org, currency, micros, cause)
        self._expect(moved, cause, org, currency, micros)

    @rule(cause=_CAUSES, org=_ORGS, currency=_CURRENCIES, micros=st.integers(1, 10**9))
    def use(self, cause: str, org: str, currency: str, micros: int) -> None:
        legs = [Leg("wallet", org, currency, micros), Leg("revenue_usage", "", currency, -micros)]
        with self.db.write() as conn:
            moved = ledger.post(conn, NOW, "usage", cause, legs)
        self._expect(moved, cause, org, currency, -micros)

    @rule(cause=_CAUSES, micros=st.integers(1, 10**9), off=st.integers(1, 9))
    def unbalanced(self, cause: str, micros: int, off: int) -> None:
        legs = [Leg("cash", "", "USD", micros), Leg("wallet", "org_a", "USD", off - micros)]
        with pytest.raises(ValueError), self.db.write() as conn:
            ledger.post(conn, NOW, "correction", cause, legs)

    @rule(cause=_CAUSES, org=_ORGS, micros=st.integers(1, 10**9))
    def rolled_back(self, cause: str, org: str, micros: int) -> None:
        with pytest.raises(KeyError), self.db.write() as conn:
            ledger.top_up(conn, NOW, org, "USD", micros, cause)
            raise KeyError

    def _expect(self, moved: str | None, cause: str, org: str, currency: str, micros: int) -> None:
        assert (moved is None) == (cause in self.seen)
        if moved is not None:
            self.seen.add(cause)
            self.entries += 2
            self.wallets[org, currency] = self.wallets.get((org, currency), 0) + micros

    @invariant()
    def closes(self) -> None:
        with self.db.read() as conn:
            assert ledger.audit(conn) == []
            assert len(ledger.entries(conn)) == self.entries
            for (org, currency), micros in self.wallets.items():
                assert ledger.wallet_micros(conn, org, currency) == micros
            for currency in ("USD", "JPY"):
                assert sum(leg.amount_micros for leg in ledger.balances(conn, currency)) == 0

    def teardown(self) -> None:
        self.db.close()
        self.folder.cleanup()


Books.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestBooks = Books.TestCase
