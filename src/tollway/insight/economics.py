"""Does it make money: what each model and organization cost, earned and left over. For the console and the CLI.

The machine's price by the hour is the only figure typed in; everything else was measured. Each hour of the machine is
shared out over the replicas alive in it, by the time they were alive; each replica's share is split into busy, failed,
shadow and idle; busy time goes to the calls that had it. The books close: attributed + idle + failed + shadow =
hardware, to the micro (fractions are exact until the end, then rounded by largest remainder). What making the models cost
is spread over their life (`insight.training`) and stands beside the hardware, and so does what answers cost that upstreams
gave (`insight.bought`): margin = revenue - hardware - training - bought.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa

from tollway.insight import bought, training
from tollway.kit.errors import BadRequest
from tollway.kit.money import PICOS_PER_MICRO, parse_micros
from tollway.sell import accounts, catalog
from tollway.sell import tables as sold
from tollway.serve import tables as served

CORE_MICROS_PER_HOUR: Final = 58_000
_SOURCE: Final = (
    "cloud list price of a 2-vCPU Zen 4 instance, about 0.116 USD an hour, AWS m7a.large, us-east-1, on demand"
)
_HOUR_MS: Final = 3_600_000
_HOUR_US: Final = 3_600_000_000
# Only for the default price in a shop that sells in another currency; rounded on purpose, and said so in the source.
_PER_DOLLAR: Final = {
    "USD": "1", "EUR": "0.9", "GBP": "0.8", "CNY": "7.1", "HKD": "7.8", "SGD": "1.3",
    "CHF": "0.8", "JPY": "150", "KRW": "1400", "KWD": "0.3",
}  # fmt: skip
Key = TypeVar("Key")


class MachinePrice(msgspec.Struct, frozen=True):
    """What an hour of this machine costs, and how we know."""

    micros_per_hour: int
    currency: str
    source: str
    cores: int = 0  # how many it stands for, when it is the cloud list price


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What something used, cost and earned. Cost is busy engine time at the machine's price, or what an upstream charges;
    idle is not in it."""

    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    busy_us: int
    cost_micros: int
    revenue_micros: int
    margin_micros: int
    margin_share: float | None  # of revenue; None without revenue


class UnitCost(msgspec.Struct, frozen=True):
    """What a thousand of a meter's units cost: rows, images, explanations …"""

    meter: str
    units: int
    cost_micros: int
    cost_per_1k_micros: int


class ModelRow(Share, frozen=True, kw_only=True):
    """One version of one model. Unit costs are None where no such token was used. The margin has paid the training too."""

    model: str
    version: str
    input_cost_per_1m_tokens_micros: int | None  # prefill time over the tokens that were not cached
    output_cost_per_1m_tokens_micros: int | None  # decode time over the tokens generated
    total_cost_per_1m_tokens_micros: int | None  # all busy time over all tokens, cached ones too
    unit_costs: list[UnitCost]  # busy time, by what was counted
    training_micros: int  # of its making, the part that belongs to this time
    bought_micros: int  # of its cost, what an upstream charges


class OrganizationRow(Share, frozen=True, kw_only=True):
    """One organization; the one without id and name is busy time whose calls are not recorded (yet)."""

    org_id: str
    name: str


class Idle(msgspec.Struct, frozen=True):
    """Time in which replicas waited for work, and its cost."""

    idle_us: int
    cost_micros: int


class Failed(msgspec.Struct, frozen=True):
    """Time spent on calls that were not billed, and its cost."""

    failed_us: int
    cost_micros: int


class Shadow(msgspec.Struct, frozen=True):
    """Time spent on copies of calls that a shadow version answered for comparison, and its cost: the operator's own."""

    shadow_us: int
    cost_micros: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The books of a stretch of whole hours. attributed + idle + failed + shadow = hardware."""

    from_ms: int
    to_ms: int
    price: MachinePrice
    rows: list[ModelRow]
    organizations: list[OrganizationRow]
    idle: Idle
    failed: Failed
    shadow: Shadow
    hardware_micros: int
    attributed_micros: int
    training_micros: int  # what making the models costs this time, spread over their life
    bought_micros: int  # what upstreams charge
    revenue_micros: int  # from usage, in the price's currency
    margin_micros: int  # revenue - hardware - training - bought: idle and failed time are paid from it too
    loaded_cost_per_1m_tokens_micros: int | None  # hardware, idle included, and training, over all tokens
    other_currencies: dict[str, int]  # revenue (micros) that is not in the price's currency and not counted above


class _Hours(msgspec.Struct):
    """One replica's time and exact cost, summed over the hours."""

    busy_us: int = 0
    failed_us: int = 0
    idle_us: int = 0
    shadow_us: int = 0
    busy: Fraction = Fraction(0)
    failed: Fraction = Fraction(0)
    idle: Fraction = Fraction(0)
    shadow: Fraction = Fraction(0)


class _Used(msgspec.Struct):
    """Calls summed."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    prefill_us: int = 0
    decode_us: int = 0
    price_picos: int = 0
    counted: dict[str, tuple[int, int]] = {}  # meter -> (units, engine time)

    def add(self, other: "_Used") -> None:
        for name in self.__struct_fields__:
            if name != "counted":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        for meter, (units, took) in other.counted.items():
            before = self.counted.get(meter, (0, 0))
            self.counted[meter] = (before[0] + units, before[1] + took)

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.cached_tokens + self.output_tokens

    @property
    def quantities(self) -> dict[str, int]:
        named = ("requests", "input_tokens", "cached_tokens", "output_tokens")
        return {name: getattr(self, name) for name in named} | {
            meter: units for meter, (units, _) in self.counted.items() if meter
        }


def machine_price(settings: Any) -> MachinePrice:
    """The configured price of this machine, or cores x a cloud list price; raises BadRequest for one that is none."""
    currency = str(settings.currency)
    if settings.machine_price_per_hour:
        try:
            micros = parse_micros(settings.machine_price_per_hour)
        except ValueError as error:
            raise BadRequest(f"machine_price_per_hour: {error}.", hint="Write it as 0.25.") from error
        if micros < 0:
            raise BadRequest("machine_price_per_hour is below zero.", hint="Write it as 0.25.")
        return MachinePrice(micros, currency, f"machine_price_per_hour ({settings.source('machine_price_per_hour')})")
    cores = os.cpu_count() or 1
    rate = _PER_DOLLAR.get(currency)
    if rate is None:
        raise BadRequest(f"There is no default price in {currency}.", hint="Set machine_price_per_hour.")
    micros = round(Fraction(rate) * cores * CORE_MICROS_PER_HOUR)
    converted = "" if currency == "USD" else f"; taken as {rate} {currency} to the dollar: set machine_price_per_hour"
    return MachinePrice(micros, currency, f"{cores} cores at the {_SOURCE}{converted}", cores)


def of_shop(shop: Any, conn: sa.Connection, from_ms: int, to_ms: int) -> Report:
    """The books of a shop: at its machine's price, with the training of what stands on its shelf."""
    trained = training.of_shelf(shop.store, shop.settings.training_life_days)
    return report(conn, machine_price(shop.settings), from_ms, to_ms, trained)


def report(
    conn: sa.Connection, price: MachinePrice, from_ms: int, to_ms: int, trained: Iterable[training.Trained] = ()
) -> Report:
    """The books from the hour of `from_ms` to the end of the hour that `to_ms` lies in (or ends)."""
    from_ms, to_ms = from_ms // _HOUR_MS * _HOUR_MS, -(-to_ms // _HOUR_MS) * _HOUR_MS
    if to_ms <= from_ms:
        raise BadRequest("The report ends before it begins.", param="to")
    hours = _replica_hours(conn, price, from_ms, to_ms)
    used, other = _used(conn, price.currency, from_ms, to_ms)
    exact: dict[tuple[str, ...], Fraction] = {}
    for (model, version), one in hours.items():
        exact["busy", model, version] = one.busy
        exact["failed", model, version] = one.failed
        exact["idle", model, version] = one.idle
        exact["shadow", model, version] = one.shadow
    micros = largest_remainder(exact)
    charged = bought.rates(conn)
    paid = largest_remainder({key: bought.cost(charged[key[0]], one.quantities) for key, one in used.items()
                              if key[1] == bought.VERSION and key[0] in charged})  # fmt: skip
    learnt = largest_remainder(training.charged(trained, price.currency, from_ms, to_ms))
    rows: list[ModelRow] = []
    by_org: dict[str, tuple[_Used, list[int]]] = defaultdict(lambda: (_Used(), [0]))
    for model, version in sorted(hours.keys() | {(model, version) for model, version, _ in used} | learnt.keys()):
        calls = {org: one for (name, kind, org), one in used.items() if (name, kind) == (model, version)}
        cost = micros.get(("busy", model, version), 0)
        busy_us = hours[model, version].busy_us if (model, version) in hours else 0
        there = {org: paid.get((model, version, org), 0) for org in calls}
        making = learnt.get((model, version), 0)
        rows.append(_model_row(model, version, calls.values(), busy_us, cost, making, sum(there.values())))
        for org, part in _over_organizations(calls, cost).items():
            place = by_org[org]
            place[0].add(calls.get(org, _Used()))
            place[1][0] += part + there.get(org, 0)
    names = {one.id: one.name for one in accounts.list_organizations(conn)}
    organizations = [
        OrganizationRow(org_id=org, name=names.get(org, ""), **_share(one, one.prefill_us + one.decode_us, cost[0]))
        for org, (one, cost) in by_org.items()
    ]
    hardware, training_micros, bought_micros = sum(micros.values()), sum(learnt.values()), sum(paid.values())
    revenue = sum(one.price_picos for one in used.values()) // PICOS_PER_MICRO
    tokens = sum(one.tokens for one in used.values())
    return Report(
        from_ms=from_ms,
        to_ms=to_ms,
        price=price,
        rows=sorted(rows, key=lambda row: (-row.revenue_micros, -row.cost_micros, row.model, row.version)),
        organizations=sorted(organizations, key=lambda row: (-row.revenue_micros, -row.cost_micros, row.org_id)),
        idle=Idle(sum(one.idle_us for one in hours.values()), _sum(micros, "idle")),
        failed=Failed(sum(one.failed_us for one in hours.values()), _sum(micros, "failed")),
        shadow=Shadow(sum(one.shadow_us for one in hours.values()), _sum(micros, "shadow")),
        hardware_micros=hardware,
        attributed_micros=_sum(micros, "busy"),
        training_micros=training_micros,
        bought_micros=bought_micros,
        revenue_micros=revenue,
        margin_micros=revenue - hardware - training_micros - bought_micros,
        loaded_cost_per_1m_tokens_micros=_per_million(Fraction(hardware + training_micros + bought_micros), tokens),
        other_currencies=other,
    )


def largest_remainder(exact: Mapping[Key, Fraction]) -> dict[Key, int]:
    """Whole numbers as near as can be to the exact parts, whose sum is the exact sum rounded half to even."""
    whole = {key: part.numerator // part.denominator for key, part in exact.items()}
    missing = round(sum(exact.values(), Fraction(0))) - sum(whole.values())
    by_rest = sorted(exact, key=lambda key: (whole[key] - exact[key], str(key)))  # the largest remainder first
    for key in by_rest[:missing]:
        whole[key] += 1
    return whole


def _replica_hours(conn: sa.Connection, price: MachinePrice, from_ms: int, to_ms: int) -> dict[tuple[str, str], _Hours]:
    """Time and exact cost of each model version, and of trainings that buyers ordered. An hour costs as long as the
    longest-lived process was alive in it."""
    table = served.replica_hour
    query = sa.select(table).where(table.c.hour_ms >= from_ms, table.c.hour_ms < to_ms)
    by_hour: dict[int, list[Any]] = defaultdict(list)
    for row in conn.execute(query.order_by(table.c.hour_ms, table.c.model, table.c.model_version)):
        by_hour[row.hour_ms].append(row)
    for job in training.job_rows(conn, from_ms, to_ms):
        by_hour[job.hour_ms].append(job)
    found: dict[tuple[str, str], _Hours] = defaultdict(_Hours)
    for rows in by_hour.values():
        alive = [row.busy_us + row.failed_us + row.idle_us + row.shadow_us for row in rows]
        if not sum(alive):
            continue
        bill = Fraction(price.micros_per_hour * min(_HOUR_US, max(alive)), _HOUR_US)
        per_us = bill / sum(alive)
        for row in rows:
            place = found[row.model, row.model_version]
            for part in ("busy", "failed", "idle", "shadow"):
                took = int(getattr(row, f"{part}_us"))
                setattr(place, f"{part}_us", getattr(place, f"{part}_us") + took)
                setattr(place, part, getattr(place, part) + per_us * took)
    return found


def _used(
    conn: sa.Connection, currency: str, from_ms: int, to_ms: int
) -> tuple[dict[tuple[str, str, str], _Used], dict[str, int]]:
    """Calls per (model, version, organization), and the revenue in currencies other than this one."""
    event = sold.usage_event.c
    names = ("input_tokens", "cached_tokens", "output_tokens", "prefill_us", "decode_us", "price_picos")
    query = (
        sa.select(
            event.model,
            event.model_version,
            event.org_id,
            event.plan_version_id,
            event.meter,
            event.operation,
            sa.func.count().label("requests"),
            sa.func.sum(event.units).label("units"),
            *(sa.func.sum(event[name]).label(name) for name in names),
        )
        .where(event.at_ms >= from_ms, event.at_ms < to_ms)
        .group_by(event.model, event.model_version, event.org_id, event.plan_version_id, event.meter, event.operation)
    )
    plans = catalog.plan_versions(conn)
    used: dict[tuple[str, str, str], _Used] = defaultdict(_Used)
    other: dict[str, int] = defaultdict(int)
    for row in conn.execute(query):
        sums: dict[str, Any] = {name: int(row._mapping[name]) for name in ("requests", *names)}
        one = _Used(**sums)
        one.counted = {row.meter: (int(row.units), one.prefill_us + one.decode_us)}
        plan = plans.get(row.plan_version_id)
        if plan is not None and plan.terms.currency != currency:
            other[plan.terms.currency] += one.price_picos
            one.price_picos = 0
        model = training.trained_as(row.model) if row.operation == "fine-tuning" else row.model
        used[model, row.model_version, row.org_id].add(one)
    return used, {name: picos // PICOS_PER_MICRO for name, picos in sorted(other.items())}


def _model_row(
    model: str, version: str, calls: Iterable[_Used], busy_us: int, cost: int, training_micros: int, paid: int
) -> ModelRow:  # fmt: skip
    one = _Used()
    for call in calls:
        one.add(call)
    engine_us = one.prefill_us + one.decode_us
    prefill = Fraction(cost * one.prefill_us, engine_us) if engine_us else Fraction(0)
    share = _share(one, busy_us, cost + paid, training_micros)
    return ModelRow(
        model=model,
        version=version,
        input_cost_per_1m_tokens_micros=_per_million(prefill, one.input_tokens),
        output_cost_per_1m_tokens_micros=_per_million(cost - prefill if engine_us else Fraction(0), one.output_tokens),
        total_cost_per_1m_tokens_micros=_per_million(Fraction(cost + paid), one.tokens),
        unit_costs=_unit_costs(one, cost + paid),
        training_micros=training_micros,
        bought_micros=paid,
        **share,
    )


def _unit_costs(one: _Used, cost: int) -> list[UnitCost]:
    """A model's cost by what its calls counted, shared out by engine time (by units where an upstream took the time); calls
    that count tokens have theirs above."""
    took = {meter: took for meter, (_, took) in one.counted.items()}
    if cost and not any(took.values()):
        took = {meter: units for meter, (units, _) in one.counted.items() if meter}
    total = sum(took.values())
    if not total:
        return []
    parts = largest_remainder({meter: Fraction(cost * took.get(meter, 0), total) for meter in one.counted})
    return [
        UnitCost(meter, units, parts[meter], round(Fraction(parts[meter] * 1000, units)))
        for meter, (units, _) in sorted(one.counted.items())
        if meter and units
    ]


def _over_organizations(calls: Mapping[str, _Used], cost: int) -> dict[str, int]:
    """A model's cost shared out by engine time, to the micro; busy time without calls belongs to nobody ("")."""
    total = sum(one.prefill_us + one.decode_us for one in calls.values())
    if not total:
        return dict.fromkeys(calls, 0) | ({"": cost} if cost else {})
    return largest_remainder(
        {org: Fraction(cost * (one.prefill_us + one.decode_us), total) for org, one in calls.items()}
    )


def _share(one: _Used, busy_us: int, cost: int, training_micros: int = 0) -> dict[str, Any]:
    revenue = one.price_picos // PICOS_PER_MICRO
    return {
        "requests": one.requests,
        "input_tokens": one.input_tokens,
        "cached_tokens": one.cached_tokens,
        "output_tokens": one.output_tokens,
        "busy_us": busy_us,
        "cost_micros": cost,
        "revenue_micros": revenue,
        "margin_micros": revenue - cost - training_micros,
        "margin_share": round((revenue - cost - training_micros) / revenue, 6) if revenue else None,
    }


def _per_million(cost: Fraction, tokens: int) -> int | None:
    return round(cost * 1_000_000 / tokens) if tokens else None


def _sum(micros: Mapping[tuple[str, ...], int], kind: str) -> int:
    return sum(amount for key, amount in micros.items() if key[0] == kind)
