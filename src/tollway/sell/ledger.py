"""The truth about money: balanced, immutable transactions between named accounts. For billing, metering and the flows.

Debits are positive, credits negative, and the legs of a transaction sum to zero in each currency. What caused a
transaction is its key: the same cause moves money once, however often it is reported. Balances are sums of entries;
`ledger_balance` keeps them at hand and `audit` proves that they agree. Usage reaches a wallet in two steps: `accrue` with
every commit of events, in one row of its own, and `post_accrued` about once a minute; what can be spent is always both.

    account               whose         grows by    meaning
    cash                  operator      debit       money received
    wallet                organization  credit      prepaid, not used yet: we owe it, so -5 means 5 to spend
    receivable            organization  debit       invoiced and not yet paid
    revenue_usage         operator      credit      earned by usage
    revenue_subscription  operator      credit      earned by flat fees
    grants                operator      debit       credit given away
    rounding              operator      either      what rounding to the minor unit won or lost
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tollway.kit.crash import crashpoint
from tollway.kit.db import BulkInsert, Prepared, adds
from tollway.kit.errors import BadRequest
from tollway.kit.ids import new_id
from tollway.kit.money import EXPONENTS, PICOS_PER_MICRO
from tollway.kit.said import say
from tollway.sell import revision, tables

OF_ORGANIZATION = frozenset({"wallet", "receivable"})
WalletId = tuple[str, str]  # organization, currency
OF_OPERATOR = frozenset({"cash", "revenue_usage", "revenue_subscription", "grants", "rounding"})


class Leg(msgspec.Struct, frozen=True):
    """One side of a transaction. `org_id` is "" for the operator's own accounts."""

    account: str
    org_id: str
    currency: str
    amount_micros: int


class Entry(msgspec.Struct, frozen=True):
    """A leg in the books, with the transaction it belongs to."""

    transaction_id: str
    at_ms: int
    kind: str
    cause: str
    memo: str
    account: str
    org_id: str
    currency: str
    amount_micros: int


def post(conn: sa.Connection, now_ms: int, kind: str, cause: str, legs: Sequence[Leg], memo: str = "") -> str | None:
    """Move money once. Returns the transaction's id, or None when this cause moved it before or nothing is to move.

    Legs that do not balance, or name an account that does not exist, are a bug of the caller: ValueError.
    """
    moving = [leg for leg in legs if leg.amount_micros]
    _check(cause, moving)
    if not moving:
        return None
    transaction_id = new_id("tx", now_ms)
    return transaction_id if _move(conn, transaction_id, now_ms, kind, cause, moving, memo) else None


def accrue(conn: sa.Connection, now_ms: int, owed: Mapping[WalletId, int]) -> dict[WalletId, int]:
    """Usage is paid from wallets (picos): durable with the transaction, in the ledger with the next `post_accrued`. Returns
    what each wallet has left to spend, in picos. Wallets are locked in order, so that two writers never wait for each other.
    """
    if not owed:
        return {}
    statements = _statements(conn.dialect)
    rows = [(*wallet, picos, now_ms) for wallet, picos in sorted(owed.items())]
    accrued = {(row[0], row[1]): int(row[2]) for row in statements.accrue.run(conn, rows).fetchall()}
    return {
        (org_id, currency): -balance(conn, "wallet", org_id, currency) * PICOS_PER_MICRO - picos
        for (org_id, currency), picos in accrued.items()
    }


def post_accrued(conn: sa.Connection, now_ms: int, most: int) -> int:
    """Move what usage has accrued into the ledger: whole micros from the wallet to revenue, one transaction a wallet. What
    is below a micro stays. Returns for how many wallets; fewer than `most`: nothing waits any more."""
    accrued = tables.accrued_usage
    waiting = sa.select(accrued).where(accrued.c.picos >= PICOS_PER_MICRO).limit(most)
    rows = conn.execute(waiting.order_by(accrued.c.org_id, accrued.c.currency).with_for_update()).all()
    if not rows:
        return 0
    statements = _statements(conn.dialect)
    of_wallet = (accrued.c.org_id == sa.bindparam("org"), accrued.c.currency == sa.bindparam("in_currency"))
    rests = [{"org": row.org_id, "in_currency": row.currency, "rest": row.picos % PICOS_PER_MICRO} for row in rows]
    conn.execute(accrued.update().where(*of_wallet).values(picos=sa.bindparam("rest")), rests)
    crashpoint("posting.taken")
    heads, entries, legs = [], [], []
    for row in rows:
        transaction_id, micros = new_id("tx", now_ms), row.picos // PICOS_PER_MICRO
        pair = [Leg("wallet", row.org_id, row.currency, micros), Leg("revenue_usage", "", row.currency, -micros)]
        heads.append((transaction_id, f"usage:{transaction_id}", "usage", "", row.at_ms))
        entries += _rows(transaction_id, pair)
        legs += pair
    statements.open_transaction.run(conn, heads)
    statements.add_entries.run(conn, entries)
    statements.move_balances.run(conn, [(*place, amount) for place, amount in sorted(_sums(legs).items())])
    return len(rows)


def _move(
    conn: sa.Connection, transaction_id: str, now_ms: int, kind: str, cause: str, legs: Sequence[Leg], memo: str
) -> bool:
    """Write a checked transaction. False when its cause is known."""
    statements = _statements(conn.dialect)
    opened = statements.open_transaction.run(conn, [(transaction_id, cause, kind, memo[:400], now_ms)])
    if opened.fetchone() is None:  # not rowcount: PostgreSQL does not tell it here
        return False
    statements.add_entries.run(conn, _rows(transaction_id, legs))
    moves = [(*place, amount) for place, amount in sorted(_sums(legs).items())]  # two writers lock in one order
    statements.move_balances.run(conn, moves)
    return True


def _rows(transaction_id: str, legs: Sequence[Leg]) -> list[tuple[Any, ...]]:
    return [
        (transaction_id, line, leg.account, leg.org_id, leg.currency, leg.amount_micros)
        for line, leg in enumerate(legs)
    ]


def balance(conn: sa.Connection, account: str, org_id: str, currency: str) -> int:
    """The balance in micros, debit positive; 0 where nothing ever moved."""
    return int(
        _statements(conn.dialect).balance.value(conn, {"of": account, "org": org_id, "in_currency": currency}) or 0
    )


def wallet_micros(conn: sa.Connection, org_id: str, currency: str) -> int:
    """What the organization has to spend."""
    return micros_of(wallet_picos(conn, org_id).get((org_id, currency), 0))


def wallet_picos(conn: sa.Connection, org_id: str | None = None) -> dict[WalletId, int]:
    """What wallets have to spend, to the pico: balances less what usage accrued. One statement: what is posted meanwhile is
    never seen on both sides, or on neither."""
    kept, accrued = tables.ledger_balance.c, tables.accrued_usage.c
    zero = sa.literal(0, sa.BigInteger)
    paid_in = sa.select(kept.org_id, kept.currency, kept.amount_micros, zero.label("picos")).where(
        kept.account == "wallet"
    )
    used = sa.select(accrued.org_id, accrued.currency, zero, accrued.picos)
    if org_id is not None:
        paid_in, used = paid_in.where(kept.org_id == org_id), used.where(accrued.org_id == org_id)
    both = sa.union_all(paid_in, used).subquery().c
    query = sa.select(both.org_id, both.currency, sa.func.sum(both.amount_micros), sa.func.sum(both.picos))
    rows = conn.execute(query.group_by(both.org_id, both.currency))
    return {(row[0], row[1]): -int(row[2]) * PICOS_PER_MICRO - int(row[3]) for row in rows}


def filled(conn: sa.Connection) -> list[WalletId]:
    """The wallets that ever had money in them; others may have none but use that accrued."""
    kept = tables.ledger_balance.c
    rows = conn.execute(sa.select(kept.org_id, kept.currency).where(kept.account == "wallet"))
    return [(row.org_id, row.currency) for row in rows]


def micros_of(picos: int) -> int:
    """A wallet as people read it: only whole micros have left it."""
    return -(-picos // PICOS_PER_MICRO)


def balances(conn: sa.Connection, currency: str | None = None) -> list[Leg]:
    """Every balance that is not zero: the trial balance. Its sum is zero in each currency."""
    columns = tables.ledger_balance.c
    query = sa.select(columns.account, columns.org_id, columns.currency, columns.amount_micros).where(
        columns.amount_micros != 0
    )
    if currency is not None:
        query = query.where(columns.currency == currency)
    return [Leg(*row) for row in conn.execute(query.order_by(columns.account, columns.org_id, columns.currency))]


def top_up(
    conn: sa.Connection, now_ms: int, org_id: str, currency: str, micros: int, cause: str, memo: str = ""
) -> str | None:
    """Money came in for a wallet. None when this cause was booked before."""
    return _fill_wallet(conn, now_ms, "top_up", "cash", org_id, currency, micros, cause, memo)


def grant(
    conn: sa.Connection, now_ms: int, org_id: str, currency: str, micros: int, cause: str, memo: str = ""
) -> str | None:
    """Credit given away, spendable like money paid in. None when this cause was booked before."""
    return _fill_wallet(conn, now_ms, "grant", "grants", org_id, currency, micros, cause, memo)


def entries(
    conn: sa.Connection, org_id: str | None = None, limit: int = 100, *, account: str | None = None
) -> list[Entry]:
    """The newest entries (of one organization, of one account), newest first. An organization's begin with what usage has
    accrued and is not posted yet: of kind "accrued", without a transaction."""
    entry, head = tables.ledger_entry.c, tables.ledger_transaction.c
    query = (
        sa.select(
            entry.transaction_id,
            head.at_ms,
            head.kind,
            head.cause,
            head.memo,
            entry.account,
            entry.org_id,
            entry.currency,
            entry.amount_micros,
        )
        .join(tables.ledger_transaction, head.id == entry.transaction_id)
        .order_by(head.at_ms.desc(), head.id.desc(), entry.line)
        .limit(limit)
    )
    if org_id is not None:
        query = query.where(entry.org_id == org_id)
    if account is not None:
        query = query.where(entry.account == account)
    posted = [Entry(*row) for row in conn.execute(query)]
    waiting = _accrued(conn, org_id) if org_id is not None and account in (None, "wallet") else []
    return (waiting + posted)[:limit]


def _accrued(conn: sa.Connection, org_id: str) -> list[Entry]:
    accrued = tables.accrued_usage
    query = sa.select(accrued).where(accrued.c.org_id == org_id, accrued.c.picos >= PICOS_PER_MICRO)
    return [
        Entry("", row.at_ms, "accrued", "", "", "wallet", org_id, row.currency, row.picos // PICOS_PER_MICRO)
        for row in conn.execute(query.order_by(accrued.c.currency))
    ]


def audit(conn: sa.Connection) -> list[str]:
    """Everything that is wrong with the books, in words; empty when they close."""
    entry, kept = tables.ledger_entry.c, tables.ledger_balance.c
    total = sa.func.sum(entry.amount_micros)
    problems = [
        f"transaction {row[0]} is off by {int(row[2])} micros {row[1]}"
        for row in conn.execute(
            sa.select(entry.transaction_id, entry.currency, total)
            .group_by(entry.transaction_id, entry.currency)
            .having(total != 0)
        )
    ]
    problems += [
        f"transaction {row.id} ({row.cause}) has no entries"
        for row in conn.execute(
            sa.select(tables.ledger_transaction).where(
                ~sa.exists().where(entry.transaction_id == tables.ledger_transaction.c.id)
            )
        )
    ]
    key = (entry.account, entry.org_id, entry.currency)
    summed = {tuple(row[:3]): int(row[3]) for row in conn.execute(sa.select(*key, total).group_by(*key))}
    stored = {
        tuple(row[:3]): int(row[3])
        for row in conn.execute(sa.select(kept.account, kept.org_id, kept.currency, kept.amount_micros))
    }
    for place in sorted(summed.keys() | stored.keys()):
        if summed.get(place, 0) != stored.get(place, 0):
            account, org_id, currency = place
            problems.append(
                f"the balance of {account} {org_id or '(operator)'} {currency} is {stored.get(place, 0)}, "
                f"its entries sum to {summed.get(place, 0)}"
            )
    for currency in sorted({place[2] for place in stored}):
        off = sum(amount for place, amount in stored.items() if place[2] == currency)
        if off:
            problems.append(f"all balances in {currency} sum to {off} micros, not to zero")
    return problems


def _check(cause: str, legs: Sequence[Leg]) -> None:
    if not 0 < len(cause) <= 120:
        raise ValueError(f"a cause has 1 to 120 characters, not {len(cause)}")
    off: dict[str, int] = defaultdict(int)
    for leg in legs:
        if leg.account not in OF_ORGANIZATION | OF_OPERATOR:
            raise ValueError(f"there is no account {leg.account!r}")
        if (leg.account in OF_ORGANIZATION) != bool(leg.org_id):
            raise ValueError(f"{leg.account} {'needs' if leg.account in OF_ORGANIZATION else 'has no'} organization")
        off[leg.currency] += leg.amount_micros
    for currency, amount in off.items():
        if amount:
            raise ValueError(f"the legs of {cause!r} are off by {amount} micros {currency}")


def _sums(legs: Sequence[Leg]) -> dict[tuple[str, str, str], int]:
    sums: dict[tuple[str, str, str], int] = defaultdict(int)
    for leg in legs:
        sums[leg.account, leg.org_id, leg.currency] += leg.amount_micros
    return sums


class _Statements(msgspec.Struct, frozen=True):
    """What `accrue`, `post` and `balance` run, compiled once."""

    accrue: BulkInsert  # a row for each wallet, with all that it has accrued
    open_transaction: BulkInsert  # a row unless the cause is known
    add_entries: BulkInsert
    move_balances: BulkInsert
    balance: Prepared


@lru_cache
def _statements(dialect: sa.Dialect) -> _Statements:
    transaction, entry, of = tables.ledger_transaction, tables.ledger_entry, tables.ledger_balance
    key = ("account", "org_id", "currency")
    balance = sa.select(of.c.amount_micros).where(
        of.c.account == sa.bindparam("of"),
        of.c.org_id == sa.bindparam("org"),
        of.c.currency == sa.bindparam("in_currency"),
    )
    accrued = tables.accrued_usage
    added = (
        f"{adds(accrued, ('org_id', 'currency'), ['picos'])}, at_ms = excluded.at_ms RETURNING org_id, currency, picos"
    )
    return _Statements(
        BulkInsert(accrued, dialect, added),
        BulkInsert(transaction, dialect, "ON CONFLICT (cause) DO NOTHING RETURNING id"),
        BulkInsert(entry, dialect),
        BulkInsert(of, dialect, adds(of, key, ["amount_micros"])),
        Prepared(balance, dialect),
    )


def _fill_wallet(
    conn: sa.Connection,
    now_ms: int,
    kind: str,
    source: str,
    org_id: str,
    currency: str,
    micros: int,
    cause: str,
    memo: str,
) -> str | None:
    if micros <= 0 or micros > 10**15:
        raise BadRequest(say("amount.range", "The amount must be above zero and below a billion."), param="amount")
    if currency not in EXPONENTS:
        raise BadRequest(
            say("currency.unknown", "{currency!r} is not a currency we know.", currency=currency),
            param="currency",
            hint=say("use_one_of", "Use one of {these}.", these=", ".join(EXPONENTS)),
        )
    legs = [Leg(source, "", currency, micros), Leg("wallet", org_id, currency, -micros)]
    moved = post(conn, now_ms, kind, cause, legs, memo)
    if moved:
        revision.touch(conn)
    return moved


def insert_into(conn: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT, in this connection's dialect. For the other books kept beside the ledger."""
    return _insert(conn.dialect.name, table)


def _insert(dialect: str, table: sa.Table) -> Any:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
