"""Slices of what organizations have, so that several gateways on one PostgreSQL agree without asking for each call.

Each gateway takes a slice of a wallet, of included units, of a monthly cap and of the rate limits, spends it from memory
and gives the rest back. A slice is a row here, and what a commit spends leaves it in the commit's own transaction:

    wallet        scope currency                 balance  >= the slices of all gateways
    units         scope subscription:month:charge    pool + slices + free units used = included
    tokens        scope subscription:month           pool + slices + tokens used     = the monthly cap
    rpm, tpm, concurrency   scope key or ""      limit    >= the slices of all gateways

The pool of units and tokens is a row that no gateway owns. A gateway shows that it lives by an advisory lock that its
connection holds; only when its slices' time is over AND nobody holds that lock are they taken back. One that was merely
held up finds no rows left to spend from, and its commit fails (`Fenced`): it can never spend what was taken back.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from tollway.kit.ids import new_id, uuid7_int
from tollway.kit.money import PICOS_PER_MICRO
from tollway.sell import tables

CHANNEL: Final = "tollway_leases"
POOL: Final = ""  # the gateway of what nobody has leased
RATES: Final = ("rpm", "tpm")
_POOLED: Final = ("units", "tokens")
_WINDOW_MS: Final = 62_000  # what was called in a minute counts a minute, and the seconds that it is counted in
_LARGEST: Final = 10**18  # of one slice: the numbers stay far below 64 bits

_lease, _gateway = tables.lease, tables.gateway


class Fenced(Exception):
    """This gateway's slices do not bear what it spent: they were taken back, because it was taken for dead."""


class Presence(msgspec.Struct, frozen=True):
    """A registered gateway: its id, and the number of the lock that shows that it lives."""

    id: str
    lock: int


class Need(msgspec.Struct, frozen=True):
    """What one call lacks: at least so much more of a kind. `limit` is the whole of a rate, or 0."""

    kind: str
    scope: str
    amount: int
    limit: int = 0


class Got(msgspec.Struct, frozen=True):
    """What a gateway was given of what it needs, and whether other gateways have enough of the rest."""

    need: Need
    amount: int
    others: bool

    @property
    def short(self) -> int:
        """How much is missing still."""
        return max(0, self.need.amount - self.amount)


Pools = Callable[[sa.Connection], Mapping[tuple[str, str], int]]
"""What a pool begins with, by (kind, scope): asked once a month for an organization."""


# -- coming and going --------------------------------------------------------------------------------------------------


def presence(now_ms: int) -> Presence:
    """A new gateway's id and lock. Take the lock before `register`."""
    return Presence(new_id("gw", now_ms), uuid7_int(now_ms) & ((1 << 62) - 1))


def register(conn: sa.Connection, now_ms: int, me: Presence, label: str) -> None:
    """Say that a gateway is there. It holds its lock already."""
    row = {"id": me.id, "lock": me.lock, "label": label[:200], "started_ms": now_ms, "seen_ms": now_ms}
    conn.execute(_gateway.insert().values(**row, reclaimed=False))


def beat(conn: sa.Connection, now_ms: int, me: Presence) -> bool:
    """Say that it is still there. Whether it is: it may have been taken for dead, and has nothing any more."""
    mine = sa.and_(_gateway.c.id == me.id, ~_gateway.c.reclaimed)
    return conn.execute(_gateway.update().where(mine).values(seen_ms=now_ms)).rowcount == 1


def retire(conn: sa.Connection, now_ms: int, me: Presence, idle: Mapping[tuple[str, str, str], int]) -> None:
    """A gateway that stops in order gives everything back at once; what of a rate it used in this minute still counts.
    `idle`: what it did not use of rates, by (organization, kind, scope)."""
    for place, amount in sorted(idle.items()):
        left = sa.func.greatest(_lease.c.amount - amount, 0)
        conn.execute(_lease.update().where(*_place(me.id, *place)).values(amount=left))
    conn.execute(_gateway.update().where(_gateway.c.id == me.id).values(seen_ms=now_ms, reclaimed=True))
    _return_all(conn, me.id)
    tell(conn, {"returned": "*"})


def reclaim(conn: sa.Connection, now_ms: int, lease_ms: int) -> list[str]:
    """Take back the slices of gateways whose time is over and whose lock nobody holds. Who they were."""
    late = sa.select(_gateway).where(_gateway.c.seen_ms < now_ms - lease_ms, ~_gateway.c.reclaimed)
    gone = []
    for row in conn.execute(late.order_by(_gateway.c.id).with_for_update(skip_locked=True)).all():
        if not conn.execute(sa.select(sa.func.pg_try_advisory_xact_lock(row.lock))).scalar():
            continue  # held up, but alive
        conn.execute(_gateway.update().where(_gateway.c.id == row.id).values(reclaimed=True))
        _return_all(conn, row.id)
        gone.append(row.id)
    if gone:
        tell(conn, {"returned": "*"})
    over = sa.select(_gateway.c.id).where(_gateway.c.reclaimed, _gateway.c.seen_ms < now_ms - _WINDOW_MS)
    for gateway_id in conn.execute(over.with_for_update(skip_locked=True)).scalars().all():
        conn.execute(_lease.delete().where(_lease.c.gateway_id == gateway_id))
        conn.execute(_gateway.delete().where(_gateway.c.id == gateway_id))
    return gone


def forget(conn: sa.Connection) -> None:
    """One gateway alone owns everything: no slices."""
    conn.execute(_lease.delete())
    conn.execute(_gateway.delete())


def tell(conn: sa.Connection, news: Mapping[str, Any]) -> None:
    """Tell the other gateways something, when this transaction is committed."""
    conn.execute(sa.select(sa.func.pg_notify(CHANNEL, msgspec.json.encode(news).decode())))


# -- slices ------------------------------------------------------------------------------------------------------------


def take(
    conn: sa.Connection, me: Presence, org_id: str, needs: Sequence[Need], pools: Pools, *, only: bool = False
) -> list[Got]:
    """Lease what is needed and, unless `only`, a share of what is free besides. Others who have more are told of the
    want. Raises Fenced."""
    # One gateway takes at a time for an organization; a row beside it can still refer to it.
    locked = sa.select(tables.organization.c.id).where(tables.organization.c.id == org_id)
    conn.execute(locked.with_for_update(key_share=True))
    alive = sa.select(_gateway.c.id).where(_gateway.c.id == me.id, ~_gateway.c.reclaimed)
    if conn.execute(alive.with_for_update(read=True)).first() is None:
        raise Fenced
    gateways = conn.execute(sa.select(sa.func.count()).select_from(_gateway).where(~_gateway.c.reclaimed)).scalar() or 1
    found = []
    for need in needs:
        free = _free(conn, org_id, need, pools)
        share = -(-need.limit // gateways) if need.limit else free // (2 * gateways)
        amount = min(free, need.amount if only else max(need.amount, share), _LARGEST)
        if amount > 0:
            _move(conn, org_id, need.kind, need.scope, me.id, amount)
        amount = max(amount, 0)
        # What others have of it may be held by their calls; where it is too little anyhow, nobody is bothered.
        others = amount < need.amount <= amount + _others(conn, me, org_id, need)
        found.append(Got(need, amount, others))
        if others:
            want = {"org": org_id, "kind": need.kind, "scope": need.scope, "amount": need.amount - amount}
            tell(conn, {"wanted": want, "by": me.id})
    return found


def give(conn: sa.Connection, me: Presence, org_id: str, kind: str, scope: str, amount: int) -> None:
    """Give back a part of a slice. Raises Fenced."""
    left = _lease.update().where(*_place(me.id, org_id, kind, scope), _lease.c.amount >= amount)
    if conn.execute(left.values(amount=_lease.c.amount - amount)).rowcount != 1:
        raise Fenced
    if kind in _POOLED:
        _add(conn, POOL, org_id, kind, scope, amount)
    tell(conn, {"returned": org_id, "by": me.id})


def draw(conn: sa.Connection, me: Presence, draws: Mapping[tuple[str, str, str], int]) -> None:
    """What a commit spends leaves the slices, by (organization, kind, scope). Raises Fenced; nothing is spent then."""
    rows = [(*place, amount) for place, amount in sorted(draws.items()) if amount]
    if not rows:
        return
    spent = sa.values(
        sa.column("org_id", sa.Text), sa.column("kind", sa.Text), sa.column("scope", sa.Text),
        sa.column("spent", sa.BigInteger), name="spent",
    ).data(rows)  # fmt: skip
    same = [_lease.c[name] == spent.c[name] for name in ("org_id", "kind", "scope")]
    bears = _lease.c.amount >= spent.c.spent
    update = _lease.update().where(_lease.c.gateway_id == me.id, *same, bears)
    if conn.execute(update.values(amount=_lease.c.amount - spent.c.spent)).rowcount != len(rows):
        raise Fenced


def slices(conn: sa.Connection, me: Presence) -> list[tuple[str, str, str, int]]:
    """What a gateway has leased: (organization, kind, scope, amount)."""
    mine = sa.select(_lease.c.org_id, _lease.c.kind, _lease.c.scope, _lease.c.amount)
    return [tuple(row) for row in conn.execute(mine.where(_lease.c.gateway_id == me.id, _lease.c.amount > 0))]


def overdrawn(conn: sa.Connection) -> dict[tuple[str, str], int]:
    """Wallets that no longer bear their slices, since the operator took money out: (organization, currency) -> picos too
    much."""
    sums = (
        sa.select(_lease.c.org_id, _lease.c.scope, sa.func.sum(_lease.c.amount).label("leased"))
        .where(_lease.c.kind == "wallet")
        .group_by(_lease.c.org_id, _lease.c.scope)
        .subquery()
    )
    has = sa.func.coalesce(_wallet(sums.c.org_id, sums.c.scope), 0)
    query = sa.select(sums.c.org_id, sums.c.scope, (sums.c.leased - has).label("over")).where(sums.c.leased > has)
    return {(row.org_id, row.scope): int(row.over) for row in conn.execute(query) if row.over > 0}


# -- inside ------------------------------------------------------------------------------------------------------------


def _free(conn: sa.Connection, org_id: str, need: Need, pools: Pools) -> int:
    """What nobody has leased. One statement: balance, carry and slices change together in others' commits."""
    if need.kind == "wallet":
        return int(conn.execute(sa.select(_wallet(org_id, need.scope) - _leased(org_id, need))).scalar() or 0)
    if need.kind not in _POOLED:
        return need.limit - int(conn.execute(sa.select(_leased(org_id, need))).scalar() or 0)
    pool = sa.select(_lease.c.amount).where(*_place(POOL, org_id, need.kind, need.scope))
    known = conn.execute(pool.with_for_update()).scalar()
    if known is None:
        known = max(0, pools(conn).get((need.kind, need.scope), 0))
        _add(conn, POOL, org_id, need.kind, need.scope, known)
    return int(known)


def _move(conn: sa.Connection, org_id: str, kind: str, scope: str, gateway_id: str, amount: int) -> None:
    if kind in _POOLED:
        _add(conn, POOL, org_id, kind, scope, -amount)
    _add(conn, gateway_id, org_id, kind, scope, amount)


def _add(conn: sa.Connection, gateway_id: str, org_id: str, kind: str, scope: str, amount: int) -> None:
    place = {"gateway_id": gateway_id, "org_id": org_id, "kind": kind, "scope": scope}
    if amount < 0:
        conn.execute(
            _lease.update().where(*_place(gateway_id, org_id, kind, scope)).values(amount=_lease.c.amount + amount)
        )
        return
    upsert = insert(_lease).values(**place, amount=amount)
    more = {"amount": _lease.c.amount + upsert.excluded.amount}
    conn.execute(upsert.on_conflict_do_update(index_elements=list(place), set_=more))


def _return_all(conn: sa.Connection, gateway_id: str) -> None:
    """Rates stay until their minute is over; the rest is free from now on."""
    mine = sa.and_(_lease.c.gateway_id == gateway_id, _lease.c.kind.not_in(RATES))
    rows = conn.execute(sa.delete(_lease).where(mine).returning(_lease)).all()
    for row in sorted(rows, key=lambda row: (row.org_id, row.kind, row.scope)):
        if row.kind in _POOLED and row.amount:
            _add(conn, POOL, row.org_id, row.kind, row.scope, row.amount)


def _others(conn: sa.Connection, me: Presence, org_id: str, need: Need) -> int:
    theirs = (_lease.c.org_id == org_id, _lease.c.kind == need.kind, _lease.c.scope == need.scope)
    query = sa.select(sa.func.coalesce(sa.func.sum(_lease.c.amount), 0)).where(*theirs)
    return int(conn.execute(query.where(_lease.c.gateway_id.not_in((me.id, POOL)))).scalar() or 0)


def _place(gateway_id: str, org_id: str, kind: str, scope: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _lease.c.gateway_id == gateway_id, _lease.c.org_id == org_id, _lease.c.kind == kind, _lease.c.scope == scope,
    )  # fmt: skip


def _leased(org_id: str, need: Need) -> sa.ScalarSelect[Any]:
    place = (_lease.c.org_id == org_id, _lease.c.kind == need.kind, _lease.c.scope == need.scope)
    return sa.select(sa.func.coalesce(sa.func.sum(_lease.c.amount), 0)).where(*place).scalar_subquery()


def _wallet(org_id: Any, currency: Any) -> Any:
    """What a wallet has, in picos: its balance less what usage has accrued."""
    balance, accrued = tables.ledger_balance.c, tables.accrued_usage.c
    has = sa.select(-balance.amount_micros).where(
        balance.account == "wallet", balance.org_id == org_id, balance.currency == currency
    )
    used = sa.select(accrued.picos).where(accrued.org_id == org_id, accrued.currency == currency)
    numeric = sa.cast(sa.func.coalesce(has.scalar_subquery(), 0), sa.Numeric)
    return numeric * PICOS_PER_MICRO - sa.func.coalesce(used.scalar_subquery(), 0)
