"""Do the books close? Everything that must hold between events, rollup, ledger and wallets, whatever happened before.

problems(db, customers)         -> what is wrong, in words; empty when nothing is
unmatched(db, answered, lost)   -> answered calls without their one event, events that nobody waited for
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from tests.proof.house import Answer, Customer
from tollway.kit.db import Database
from tollway.kit.money import PICOS_PER_MICRO
from tollway.sell import catalog, ledger, rating, tables

_SUMS = ("input_tokens", "cached_tokens", "output_tokens", "price_picos", "prefill_us", "decode_us")
Tokens = tuple[int, int, int]  # fresh input, cached input, output


def problems(db: Database, customers: Iterable[Customer]) -> list[str]:
    """All that is wrong with the books."""
    with db.read() as conn:
        found = [f"ledger: {problem}" for problem in ledger.audit(conn)]
        found += _twice(conn) + _rollup_off(conn)
        for customer in customers:
            found += _wallet_off(conn, customer) + _price_off(conn, customer)
    return found


def _twice(conn: sa.Connection) -> list[str]:
    event = tables.usage_event.c
    query = sa.select(event.request_id, sa.func.count()).group_by(event.request_id).having(sa.func.count() > 1)
    return [f"request {row[0]} has {row[1]} events" for row in conn.execute(query)]


def _rollup_off(conn: sa.Connection) -> list[str]:
    event, daily = tables.usage_event.c, tables.usage_daily.c
    where = ("org_id", "key_id", "model", "plan_version_id")
    by_event = sa.select(*(event[n] for n in where), sa.func.count(), *(sa.func.sum(event[n]) for n in _SUMS))
    by_day = sa.select(*(daily[n] for n in where), *(sa.func.sum(daily[n]) for n in ("requests", *_SUMS)))
    from_events = {
        tuple(r[:4]): tuple(map(int, r[4:])) for r in conn.execute(by_event.group_by(*(event[n] for n in where)))
    }
    from_days = {
        tuple(r[:4]): tuple(map(int, r[4:])) for r in conn.execute(by_day.group_by(*(daily[n] for n in where)))
    }
    places = from_events.keys() | from_days.keys()
    return [
        f"rollup of {place} is {from_days.get(place)}, its events are {from_events.get(place)}"
        for place in sorted(places)
        if from_events.get(place) != from_days.get(place)
    ]


def _wallet_off(conn: sa.Connection, customer: Customer) -> list[str]:
    if not customer.wallet_micros:
        return []
    spent = _spent_picos(conn, customer)
    wallet = (customer.org_id, customer.currency)
    left = ledger.wallet_picos(conn, customer.org_id).get(wallet, 0)
    accrued = tables.accrued_usage.c
    waiting = conn.execute(sa.select(accrued.picos).where(accrued.org_id == customer.org_id)).scalar() or 0
    posted = -ledger.balance(conn, "wallet", *wallet) - customer.wallet_micros
    found = []
    if left != customer.wallet_micros * PICOS_PER_MICRO - spent:
        found.append(
            f"wallet of {customer.name}: {left} picos left ({posted} micros posted, {waiting} picos accrued); "
            f"paid in {customer.wallet_micros} micros, used {spent} picos"
        )
    if left < 0:
        found.append(f"wallet of {customer.name} is overdrawn: {left} picos")
    if waiting < 0:
        found.append(f"{waiting} picos accrued by {customer.name}")
    return found


def _price_off(conn: sa.Connection, customer: Customer) -> list[str]:
    """The sum of prices, taken call by call in whatever order, is what rating the whole period gives."""
    event = tables.usage_event
    rows = conn.execute(sa.select(event).where(event.c.org_id == customer.org_id)).all()
    if not rows:
        return []
    terms = catalog.get_plan_version(conn, rows[0].plan_version_id).terms
    names = ("input_tokens", "cached_tokens", "output_tokens")
    used = [
        (catalog.sold_as(row.model, row.tier), {name: row._mapping[name] for name in names} | {"requests": 1})
        for row in rows
    ]
    whole, parts = sum(rated.picos for rated in rating.rate_period(terms, used)), sum(row.price_picos for row in rows)
    return [] if whole == parts else [f"prices of {customer.name} sum to {parts} picos, the period is rated {whole}"]


def _spent_picos(conn: sa.Connection, customer: Customer) -> int:
    event = tables.usage_event.c
    return int(
        conn.execute(sa.select(sa.func.sum(event.price_picos)).where(event.org_id == customer.org_id)).scalar() or 0
    )


def events(db: Database) -> dict[str, sa.Row[tuple[object, ...]]]:
    """Request id -> event."""
    with db.read() as conn:
        return {str(row.request_id): row for row in conn.execute(sa.select(tables.usage_event))}


def tokens_of(row: sa.Row[tuple[object, ...]]) -> Tokens:
    """The tokens an event bills."""
    return (row.input_tokens, row.cached_tokens, row.output_tokens)


def tokens_stated(answer: Answer) -> Tokens:
    """The tokens an answer says it used."""
    usage = answer.usage
    assert usage is not None, answer
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return (usage["prompt_tokens"] - cached, cached, usage.get("completion_tokens", 0))


@dataclass
class Noted:
    """What the clients know: each answered call's bill by request id; what each unanswered call was to cost."""

    answered: dict[str, Tokens] = field(default_factory=dict)
    unanswered: Counter[Tokens] = field(default_factory=Counter)
    left: dict[str, str] = field(default_factory=dict)  # request id -> the call's name, of streams a client left
    late: dict[str, str] = field(default_factory=dict)  # the same, of streams stopped as too slow
    refused: int = 0
    told: dict[str, str] = field(default_factory=dict)  # request id -> the error that its caller was told

    def against(self, db: Database) -> tuple[list[str], int]:
        """(problems, events of calls whose answer never arrived). Such an event is no problem as long as a client was
        waiting for a call of just this size: a commit and the sending of an answer are two steps, and a crash can
        fall between them. It is counted, so that it is seen."""
        found, known = [], events(db)
        for request_id, tokens in self.answered.items():
            row = known.pop(request_id, None)
            if row is None:
                found.append(f"{request_id} was answered and has no event")
            elif tokens_of(row) != tokens or row.status != "ok":
                found.append(f"{request_id} was answered as {tokens}, its event says {row.status} {tokens_of(row)}")
        found += [f"{one} was told that it is billed, and has no event" for one in self.late if one not in known]
        waiting = self.unanswered.copy()
        extra = 0
        for request_id, row in known.items():
            if request_id in self.left or request_id in self.late:
                continue
            extra += 1
            waiting[tokens_of(row)] -= 1
            if waiting[tokens_of(row)] < 0:
                told = self.told.get(request_id, "nothing")
                found.append(
                    f"{request_id} is billed {row.status} {tokens_of(row)}, nobody waited for such a call; told: {told}"
                )
        return found, extra

    def of_streams_cut_short(self, db: Database, produced: Mapping[str, int]) -> list[str]:
        """What was left, or stopped because it took too long, is billed for something and for no more than the engine
        `produced` (call's name -> tokens)."""
        known = events(db)
        return [
            f"{name} was cut short; billed {known[request_id].output_tokens}, produced {produced[name]}"
            for request_id, name in (self.left | self.late).items()
            if request_id in known and not 0 < known[request_id].output_tokens <= produced[name]
        ]
