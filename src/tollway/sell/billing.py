"""Invoices: draft -> finalised -> paid, or void. For the console, the CLI and flows.month_end.

A draft is a pure function of the month's events, the plan version and the subscription's dates: it can be drafted again
at any time and comes out the same to the bit. Finalising drafts once more, freezes, numbers without gaps and books.
From then on nothing changes; `audit` draws every final invoice again and says where the events tell another story.
"""

import re
from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from tollway.kit.clock import from_ms, month_bounds_ms
from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.kit.ids import new_id
from tollway.kit.said import say
from tollway.sell import catalog, ledger, rating, tables
from tollway.sell.accounts import Organization
from tollway.sell.billing_lines import Bill, Invoice, InvoiceLine, bill
from tollway.sell.ledger import Leg

__all__ = [
    "STATUSES",
    "Invoice",
    "InvoiceLine",
    "audit",
    "draft",
    "due_subscriptions",
    "finalise",
    "get_invoice",
    "list_invoices",
    "pay",
    "preview",
    "render_pdf",
    "void",
]
STATUSES = ("draft", "finalised", "paid", "void")
# Calls that began in a month may end in the next: an invoice is final only when none can be missing.
GRACE_MS = 15 * 60 * 1000


def draft(conn: sa.Connection, now_ms: int, subscription_id: str, period: str) -> Invoice:
    """Draft the invoice of a subscription for a month ("2026-01") and keep it, replacing an earlier draft.

    An invoice that is final already is returned as it stands.
    """
    subscription = _lock_subscription(conn, subscription_id)
    bounds = _bounds(period)
    if subscription.started_ms >= bounds[1] or (subscription.ended_ms or bounds[1]) < bounds[0] - GRACE_MS:
        raise BadRequest(
            say("invoice.not_running", "The subscription was not running in {period}.", period=period), param="period"
        )
    stored = _stored(conn, tables.invoice.c.subscription_id == subscription_id, tables.invoice.c.period == period)
    if stored is not None and stored.status != "draft":
        return stored
    plan = catalog.get_plan_version(conn, subscription.plan_version_id)
    made = _bill(conn, plan, subscription, period)
    fresh = Invoice(
        id=stored.id if stored else new_id("inv", now_ms),
        number=None,
        org_id=subscription.org_id,
        subscription_id=subscription_id,
        plan_version_id=plan.id,
        period=period,
        currency=plan.terms.currency,
        status="draft",
        lines=made.lines,
        total_micros=made.total_micros,
        due_micros=made.due_micros,
        created_ms=stored.created_ms if stored else now_ms,
        finalised_ms=None,
        paid_ms=None,
    )
    if fresh != stored:
        row = msgspec.structs.asdict(fresh) | {"lines": msgspec.to_builtins(fresh.lines)}
        table = tables.invoice
        conn.execute(
            table.insert().values(row) if stored is None else table.update().where(table.c.id == fresh.id).values(row)
        )
    return fresh


def preview(conn: sa.Connection, subscription_id: str, period: str) -> Bill:
    """What a draft would say now, without keeping anything: for "so far this month"."""
    _bounds(period)
    subscription = catalog.get_subscription(conn, subscription_id)
    return _bill(conn, catalog.get_plan_version(conn, subscription.plan_version_id), subscription, period)


def finalise(conn: sa.Connection, now_ms: int, invoice_id: str) -> Invoice:
    """Draft once more, freeze, number and book. Raises Conflict while calls of the month may still arrive.

    An invoice with nothing left to pay is paid at once. Final already: returned as it stands.
    """
    known = get_invoice(conn, invoice_id)
    if known.status == "void":
        raise Conflict(
            say("invoice.is_void", "The invoice {number} is void.", number=known.number or known.id),
            hint=say("invoice.stays_void", "A void invoice stays void."),
        )
    if known.status != "draft":
        return known
    subscription = _lock_subscription(conn, known.subscription_id)
    over_ms = min(_bounds(known.period)[1], subscription.ended_ms or _bounds(known.period)[1]) + GRACE_MS
    if now_ms < over_ms:
        raise Conflict(
            say(
                "invoice.not_over",
                "The period {period} of this invoice is not over: calls may still be added to it.",
                period=known.period,
            ),
            code="period_not_over",
            hint=say("invoice.after", "Finalise it after {moment} UTC.", moment=f"{from_ms(over_ms):%Y-%m-%d %H:%M}"),
        )
    current = draft(conn, now_ms, known.subscription_id, known.period)
    if current.status != "draft":  # another process was faster, while we waited for the lock
        return current
    plan = catalog.get_plan_version(conn, subscription.plan_version_id)
    made = _bill(conn, plan, subscription, known.period)
    number = _next_number(conn, now_ms)
    legs = [
        Leg("receivable", current.org_id, current.currency, made.due_micros),
        Leg("wallet", current.org_id, current.currency, -made.refund_micros),
        Leg("revenue_subscription", "", current.currency, -made.flat_micros),
        Leg("revenue_usage", "", current.currency, made.wallet_micros - made.usage_micros),
        Leg("rounding", "", current.currency, made.rounding_micros),
    ]
    ledger.post(conn, now_ms, "invoice", f"invoice:{current.id}", legs, memo=number)
    settled = current.due_micros == 0
    changes = {
        "number": number,
        "status": "paid" if settled else "finalised",
        "finalised_ms": now_ms,
        "paid_ms": now_ms if settled else None,
    }
    return _change(conn, current, changes)


def pay(conn: sa.Connection, now_ms: int, invoice_id: str, cause: str) -> Invoice:
    """The invoice's due amount came in, says `cause` (a bank reference). The same cause again changes nothing."""
    known = _lock_invoice(conn, invoice_id)
    if known.status == "paid":
        if known.due_micros and not _paid_by(conn, known, cause):
            raise Conflict(
                say("invoice.paid_already", "The invoice {number} is paid already.", number=known.number),
                hint=say("invoice.book_top_up", "Book the money as a top-up of the wallet."),
            )
        return known
    if known.status != "finalised":
        raise Conflict(
            say(
                "invoice.not_payable",
                "This invoice is {status}: only a finalised one can be paid.",
                status=known.status,
            ),
            hint=say("invoice.finalise_first", "Finalise it first."),
        )
    if not cause.strip():
        raise BadRequest("A payment needs a reference.", param="cause")
    legs = [
        Leg("cash", "", known.currency, known.due_micros),
        Leg("receivable", known.org_id, known.currency, -known.due_micros),
    ]
    ledger.post(conn, now_ms, "payment", f"payment:{known.id}", legs, memo=cause)
    return _change(conn, known, {"status": "paid", "paid_ms": now_ms})


def void(conn: sa.Connection, now_ms: int, invoice_id: str) -> Invoice:
    """Take a finalised, unpaid invoice back: its booking is reversed, its number stays used. Void already: no change.

    What the wallet paid call by call stays paid; only what the invoice itself booked is undone.
    """
    known = _lock_invoice(conn, invoice_id)
    if known.status == "void":
        return known
    if known.status != "finalised":
        hint = (
            say("invoice.draft_again", "A draft follows its events; draft it again.")
            if known.status == "draft"
            else say("invoice.needs_credit", "A paid invoice needs a credit.")
        )
        raise Conflict(
            say(
                "invoice.not_voidable",
                "This invoice is {status}: only a finalised, unpaid one can be voided.",
                status=known.status,
            ),
            hint=hint,
        )
    entry, head = tables.ledger_entry.c, tables.ledger_transaction.c
    query = (
        sa.select(entry.account, entry.org_id, entry.currency, entry.amount_micros)
        .join(tables.ledger_transaction, head.id == entry.transaction_id)
        .where(head.cause == f"invoice:{known.id}")
        .order_by(entry.line)
    )
    legs = [Leg(row.account, row.org_id, row.currency, -row.amount_micros) for row in conn.execute(query)]
    ledger.post(conn, now_ms, "correction", f"void:{known.id}", legs, memo=known.number or "")
    return _change(conn, known, {"status": "void"})


def list_invoices(conn: sa.Connection, org_id: str | None = None, status: str | None = None) -> list[Invoice]:
    """All invoices (of one organization, of one status), the newest period first."""
    if status is not None and status not in STATUSES:
        raise BadRequest(f"{status!r} is not a status of an invoice.", hint="Use one of " + ", ".join(STATUSES) + ".")
    query = sa.select(tables.invoice).order_by(tables.invoice.c.period.desc(), tables.invoice.c.id.desc())
    if org_id is not None:
        query = query.where(tables.invoice.c.org_id == org_id)
    if status is not None:
        query = query.where(tables.invoice.c.status == status)
    return [_invoice(row) for row in conn.execute(query)]


def get_invoice(conn: sa.Connection, id_or_number: str, org_id: str | None = None) -> Invoice:
    """An invoice by id or number; with `org_id`, only if it is theirs. Raises NotFound."""
    columns = tables.invoice.c
    found = _stored(conn, (columns.id == id_or_number) | (columns.number == id_or_number))
    if found is None or org_id not in (None, found.org_id):
        raise NotFound(
            say("invoice.unknown", "There is no invoice {name!r}.", name=id_or_number),
            code="invoice_not_found",
            hint=say("invoice.list", "`tollway invoice list` shows all."),
        )
    return found


def due_subscriptions(conn: sa.Connection, period: str) -> list[catalog.Subscription]:
    """The subscriptions that ran, or whose last calls may have ended, in a month, oldest first: whom to draft for."""
    start_ms, end_ms = _bounds(period)
    column = tables.subscription.c
    query = (
        sa.select(tables.subscription)
        .where(column.started_ms < end_ms, column.ended_ms.is_(None) | (column.ended_ms >= start_ms - GRACE_MS))
        .order_by(column.started_ms, column.id)
    )
    return [catalog.Subscription(**row._mapping) for row in conn.execute(query)]


def audit(conn: sa.Connection) -> list[str]:
    """Final invoices that their events no longer bear out (a late event, a changed row), in words; or nothing."""
    problems = []
    for known in list_invoices(conn):
        if known.status == "draft":
            continue
        again = preview(conn, known.subscription_id, known.period)
        if (again.lines, again.total_micros, again.due_micros) != (known.lines, known.total_micros, known.due_micros):
            problems.append(
                f"invoice {known.number} says {known.total_micros} micros {known.currency}, "
                f"its events now come to {again.total_micros}"
            )
    return problems


def render_pdf(invoice: Invoice, organization: Organization, seller_name: str, locale: str = "en") -> bytes:
    """The invoice as a PDF, in English or Chinese ("zh"); the same invoice gives the same bytes."""
    from tollway.sell import pdf  # lazy: the PDF library takes 100 ms to import

    return pdf.render(invoice, organization, seller_name, locale)


def _bill(conn: sa.Connection, plan: catalog.PlanVersion, subscription: catalog.Subscription, period: str) -> Bill:
    """Sum the month's events and work out the bill. Sums per model are enough: rating depends on totals alone."""
    start_ms, end_ms = month_bounds_ms(period)
    event = tables.usage_event.c
    query = (
        sa.select(
            event.subscription_id,
            event.model,
            event.tier,
            event.meter,
            sa.func.count().label("requests"),
            *(
                sa.func.sum(event[name]).label(name)
                for name in ("input_tokens", "cached_tokens", "output_tokens", "units")
            ),
            sa.func.sum(event.price_picos).label("price_picos"),
        )
        .where(event.org_id == subscription.org_id, event.at_ms >= start_ms, event.at_ms < end_ms)
        .where(event.plan_version_id == plan.id)
        .group_by(event.subscription_id, event.model, event.tier, event.meter)
        .order_by(event.subscription_id, event.model, event.tier, event.meter)
    )
    if plan.terms.aborted == "free":
        query = query.where(event.status != "aborted")
    mine: list[tuple[str, dict[str, int]]] = []
    earlier: list[tuple[str, dict[str, int]]] = []
    wallet_picos = 0
    before = _earlier_subscriptions(conn, subscription)
    for row in conn.execute(query):
        quantities = {meter: int(row._mapping[meter]) for meter in catalog.METERS if meter not in catalog.COUNTED}
        if row.meter:
            quantities[row.meter] = int(row.units)
        sold = catalog.sold_as(row.model, row.tier)
        if row.subscription_id == subscription.id:
            mine.append((sold, quantities))
            wallet_picos += int(row.price_picos)
        elif row.subscription_id in before:
            earlier.append((sold, quantities))
    used_before = {one.index: one.quantity for one in rating.rate_period(plan.terms, earlier)}
    return bill(plan, subscription, period, mine, used_before, wallet_picos)


def _earlier_subscriptions(conn: sa.Connection, subscription: catalog.Subscription) -> set[str]:
    """Subscriptions of the same organization to the same plan version that began before: they share its free units."""
    column = tables.subscription.c
    query = sa.select(column.id).where(
        column.org_id == subscription.org_id,
        column.plan_version_id == subscription.plan_version_id,
        column.started_ms < subscription.started_ms,
    )
    return {row.id for row in conn.execute(query)}


def _bounds(period: str) -> tuple[int, int]:
    if not re.fullmatch(r"(19|2\d)\d\d-(0[1-9]|1[0-2])", period):
        raise BadRequest(
            say("month.bad", "{period!r} is not a month.", period=period),
            param="period",
            hint=say("month.write", "Write it as 2026-01."),
        )
    return month_bounds_ms(period)


def _lock_subscription(conn: sa.Connection, subscription_id: str) -> catalog.Subscription:
    """Everything that changes a subscription's invoices goes one after the other (on SQLite it does so anyway)."""
    column = tables.subscription.c.id
    conn.execute(sa.select(column).where(column == subscription_id).with_for_update())
    return catalog.get_subscription(conn, subscription_id)


def _lock_invoice(conn: sa.Connection, invoice_id: str) -> Invoice:
    _lock_subscription(conn, get_invoice(conn, invoice_id).subscription_id)
    return get_invoice(conn, invoice_id)


def _next_number(conn: sa.Connection, now_ms: int) -> str:
    """`TW-2026-000001`: a counter per year whose row stays locked until commit, so a rollback leaves no gap."""
    year = from_ms(now_ms).year
    counter, name = tables.revision, f"invoice:{year}"
    conn.execute(ledger.insert_into(conn, counter).values(name=name, value=0).on_conflict_do_nothing())
    conn.execute(counter.update().where(counter.c.name == name).values(value=counter.c.value + 1))
    value = conn.execute(sa.select(counter.c.value).where(counter.c.name == name)).scalar_one()
    return f"TW-{year}-{value:06d}"


def _paid_by(conn: sa.Connection, invoice: Invoice, cause: str) -> bool:
    head = tables.ledger_transaction.c
    memo = conn.execute(sa.select(head.memo).where(head.cause == f"payment:{invoice.id}")).scalar()
    return memo == cause[:400]


def _change(conn: sa.Connection, invoice: Invoice, changes: Mapping[str, object]) -> Invoice:
    conn.execute(tables.invoice.update().where(tables.invoice.c.id == invoice.id).values(changes))
    return get_invoice(conn, invoice.id)


def _stored(conn: sa.Connection, *conditions: sa.ColumnElement[bool]) -> Invoice | None:
    row = conn.execute(sa.select(tables.invoice).where(*conditions)).first()
    return None if row is None else _invoice(row)


def _invoice(row: sa.Row[tuple[object, ...]]) -> Invoice:
    return Invoice(**dict(row._mapping) | {"lines": msgspec.convert(row.lines, tuple[InvoiceLine, ...])})
