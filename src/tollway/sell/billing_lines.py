"""The lines of an invoice, worked out from terms, dates and sums of use. Pure: no SQL, no clock. For billing and pdf.

A line is rounded once, half-even, to the currency's minor unit, and says how it came about. A flat fee is prorated by
UTC days over the whole month: a day belongs to the subscription that runs when the day ends, so the shares of a month
always sum to one, whatever was cancelled or changed in it.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from fractions import Fraction

import msgspec

from tollway.kit.clock import from_ms, month_bounds_ms
from tollway.kit.money import EXPONENTS, format_micros, round_to_minor
from tollway.sell import rating
from tollway.sell.catalog import PRICED_SINGLY, PlanVersion, Subscription, Terms


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an invoice. For use: `quantity` units of `meter`, of which `free` cost nothing. For a flat fee
    (`meter` is None): `quantity` days of the `period_days` of the month."""

    description: str
    meter: str | None
    model: str | None  # None: all models without a price of their own
    quantity: int
    unit: str  # what price_micros is for: "1M tokens", "month", "request", "1k requests", "1M images" …
    price_micros: int
    included: int  # free units a month
    free: int  # of this quantity
    amount_micros: int
    formula: str
    plan: str = ""  # flat fees: the plan's title
    period_days: int = 0


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """What one subscription costs in one month. Lines and amounts change while it is a draft and never after."""

    id: str
    number: str | None
    org_id: str
    subscription_id: str
    plan_version_id: str
    period: str
    currency: str
    status: str  # draft | finalised | paid | void
    lines: tuple[InvoiceLine, ...]
    total_micros: int
    due_micros: int
    created_ms: int
    finalised_ms: int | None
    paid_ms: int | None

    @property
    def paid_from_wallet_micros(self) -> int:
        """What the wallet already paid of the total, call by call."""
        return self.total_micros - self.due_micros


class Bill(msgspec.Struct, frozen=True):
    """What a month comes to, before it has a place in the books. Usage is paid by wallet, invoice, or partly each."""

    lines: tuple[InvoiceLine, ...]
    flat_micros: int
    usage_micros: int  # the usage lines' amounts
    wallet_micros: int  # whole micros the wallet paid for them, call by call
    usage_due_micros: int  # what it did not pay; below zero when it paid too much

    @property
    def total_micros(self) -> int:
        """The sum of the lines."""
        return self.flat_micros + self.usage_micros

    @property
    def due_micros(self) -> int:
        """What is left to pay; never below zero."""
        return max(0, self.flat_micros + self.usage_due_micros)

    @property
    def refund_micros(self) -> int:
        """What goes back to the wallet because it paid too much."""
        return max(0, -(self.flat_micros + self.usage_due_micros))

    @property
    def rounding_micros(self) -> int:
        """Debit of the account "rounding": the lines are in minor units, the wallet paid to the micro."""
        return self.usage_micros - self.wallet_micros - self.usage_due_micros


def days_of(subscription: Subscription, period: str) -> tuple[int, int]:
    """How many days of the month belong to the subscription, and how many the month has."""
    start_ms, end_ms = month_bounds_ms(period)
    first, after = _day(start_ms), _day(end_ms)
    begun = max(first, _day(subscription.started_ms))
    ended = after if subscription.ended_ms is None else min(after, _day(subscription.ended_ms))
    return max(0, (ended - begun).days), (after - first).days


def bill(
    plan: PlanVersion,
    subscription: Subscription,
    period: str,
    use: Iterable[tuple[str, Mapping[str, int]]],
    used_before: Mapping[int, int],
    wallet_picos: int,
) -> Bill:
    """A month's bill: `use` is (model, quantities), summed as one likes; `used_before` what an earlier subscription to
    the same plan version took of the free units; `wallet_picos` what the wallet paid for this use."""
    terms = plan.terms
    flat = _flat_line(plan, *days_of(subscription, period))
    rated = rating.rate_period(terms, use, used_before)
    lines = tuple(_usage_line(terms, one) for one in rated)
    usage_micros = sum(line.amount_micros for line in lines)
    paid = wallet_picos if terms.overage == "wallet" else 0
    unpaid = round_to_minor(sum(one.picos for one in rated) - paid, terms.currency)
    return Bill(
        lines=(flat, *lines) if flat else lines,
        flat_micros=flat.amount_micros if flat else 0,
        usage_micros=usage_micros,
        wallet_micros=paid // 1_000_000,
        usage_due_micros=unpaid if terms.overage == "wallet" else usage_micros,
    )


def _flat_line(plan: PlanVersion, days: int, period_days: int) -> InvoiceLine | None:
    fee, currency = plan.terms.flat_fee_micros, plan.terms.currency
    if not fee or not days:
        return None
    quantum = 10 ** (6 - EXPONENTS[currency])
    amount = round(Fraction(fee * days, period_days * quantum)) * quantum  # exact; half-even like every line
    shown = format_micros(fee, currency)
    share = f"{days} / {period_days} × {shown} = {format_micros(amount, currency)}"
    return InvoiceLine(
        description=f"{plan.title}, {days} of {period_days} days" if days < period_days else plan.title,
        meter=None,
        model=None,
        quantity=days,
        unit="month",
        price_micros=fee,
        included=0,
        free=0,
        amount_micros=amount,
        formula=share if days < period_days else f"1 × {shown} = {format_micros(amount, currency)}",
        plan=plan.title,
        period_days=period_days,
    )


_NAMES = {
    "input_tokens": "Input tokens",
    "cached_tokens": "Cached input tokens",
    "output_tokens": "Output tokens",
    "requests": "Requests",
    "images": "Images",
    "rows": "Table rows",
    "explanations": "Explanations",
    "audio_seconds": "Seconds of audio",
    "characters": "Characters spoken",
    "training_tokens": "Training tokens",
}


def _usage_line(terms: Terms, rated: rating.Rated) -> InvoiceLine:
    charge, currency = rated.charge, terms.currency
    unit, size = _unit(charge.meter, charge.price_micros)
    price = charge.price_micros * size // 1_000_000
    amount = round_to_minor(rated.picos, currency)
    count = f"({rated.quantity:,} - {rated.free:,})" if rated.free else f"{rated.quantity:,}"
    per = f" / {size:,}" if size > 1 else ""
    return InvoiceLine(
        description=_NAMES[charge.meter]
        + ("" if charge.model == "*" else f", {charge.model}")
        + (", batch" if rated.batch else ""),
        meter=charge.meter,
        model=None if charge.model == "*" else charge.model,
        quantity=rated.quantity,
        unit=unit,
        price_micros=price,
        included=charge.included,
        free=rated.free,
        amount_micros=amount,
        formula=f"{count}{per} × {format_micros(price, currency)} = {format_micros(amount, currency)}",
    )


def _unit(meter: str, price_micros: int) -> tuple[str, int]:
    """The unit a price is shown for, and its size: the smallest in which the price is a whole number of micros."""
    if meter not in PRICED_SINGLY:
        return "1M tokens", 1_000_000
    if price_micros % 1_000_000 == 0:
        return meter.removesuffix("s"), 1
    if price_micros % 1_000 == 0:
        return f"1k {meter}", 1_000
    return f"1M {meter}", 1_000_000


def _day(moment_ms: int) -> date:
    return from_ms(moment_ms).date()
