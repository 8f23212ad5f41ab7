"""What use costs: a pure function of terms, what was used before, and what is used now. No SQL, no clock, no floats.

A price is micros per 1,000,000 units, so `units x price` is exact in picos and nothing is rounded here. Every charge
is free up to its included units and linear after them, so the sum over any sequence of calls depends only on the total:
in whatever order and portions use arrives, the period costs the same. The hot path calls `rate` and `bound` on every
request; what they need of the terms is worked out once for each (terms, model) and kept (about a microsecond a call).

A batch (`catalog.sold_as(model, "batch")`) has charges of its own, behind those of the terms: at `batch_percent` of the
price, without free units. So the sum over any sequence of calls still depends only on the totals.

A call's cached tokens are input the engine had already seen. A plan that names no price for them charges them as input.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from tollway.sell.catalog import COUNTED, METERS, Charge, Terms, base_of, tier_of

Used = dict[int, int]  # charge index -> units used in the period
_Step = tuple[str, int, int, int]  # meter, charge index, price, included


class Rated(msgspec.Struct, frozen=True):
    """One charge over a whole period: what was used, what of it was free, what the rest costs (not yet rounded)."""

    index: int
    charge: Charge
    quantity: int
    free: int
    billable: int
    picos: int
    batch: bool = False


def charge_at(terms: Terms, index: int) -> Charge:
    """The charge with a place in the terms; behind them stand the same ones as a batch pays them."""
    count = len(terms.charges)
    return terms.charges[index] if index < count else _batch_charges(terms)[index - count]


@lru_cache(maxsize=1024)
def _batch_charges(terms: Terms) -> tuple[Charge, ...]:
    return tuple(
        msgspec.structs.replace(one, price_micros=one.price_micros * terms.batch_percent // 100, included=0)
        for one in terms.charges
    )


def charge_for(terms: Terms, meter: str, model: str) -> tuple[int, Charge] | None:
    """The charge that a model's use of a meter falls under, with its place in the terms; None: it is free.

    The model's own charge wins over its base's, and that over "*"; cached tokens without any charge fall under that of
    input tokens.
    """
    model, tier = tier_of(model)
    wanted_models = dict.fromkeys((model, base_of(model), "*"))
    names = (meter, "input_tokens") if meter == "cached_tokens" else (meter,)
    for name in names:
        for wanted in wanted_models:
            for index, charge in enumerate(terms.charges):
                if charge.meter == name and charge.model == wanted:
                    place = index + len(terms.charges) if tier else index
                    return place, charge_at(terms, place)
    return None


def rate(terms: Terms, used: Mapping[int, int], model: str, quantities: Mapping[str, int]) -> tuple[int, Used]:
    """The price in picos of these quantities (meter -> units) after `used`, and the units they add to each charge."""
    picos = 0
    units: Used = {}
    for meter, index, price, included in _steps(terms, model):
        amount = quantities.get(meter, 0)
        if amount:
            more = units.get(index, 0)
            before = used.get(index, 0) + more
            units[index] = more + amount
            picos += price * (amount if before >= included else _beyond(included, before, amount))
    return picos, units


def bound(
    terms: Terms,
    used_plus_held: Mapping[int, int],
    model: str,
    input_tokens_max: int,
    output_tokens_max: int,
    counted: Mapping[str, int] | None = None,
) -> tuple[int, Used]:
    """The most that one request of at most so many tokens can cost (picos), and the units to hold for it. `counted` is
    what it uses of the meters that are not tokens.

    Any part of the input may turn out to be cached. The price is convex in that part, so one of the two ends is the
    most. The units to hold cover both pools, unless input without free units is the dearer one at any time.
    """
    inputs, cached, rest = _pools(terms, model)
    picos = 0
    units: Used = {}
    if inputs is not None:
        index, price, included = inputs
        units[index] = input_tokens_max
        picos = price * _beyond(included, used_plus_held.get(index, 0), input_tokens_max)
    if cached is not None and cached != inputs:
        index, price, included = cached
        if inputs is None or inputs[2] > 0 or price > inputs[1]:
            units[index] = input_tokens_max
        picos = max(picos, price * _beyond(included, used_plus_held.get(index, 0), input_tokens_max))
    for meter, index, price, included in rest:
        if meter == "output_tokens":
            amount = output_tokens_max
        else:
            amount = 1 if meter == "requests" else (counted or {}).get(meter, 0)
            if not amount:
                continue
        units[index] = amount
        picos += price * _beyond(included, used_plus_held.get(index, 0), amount)
    return picos, units


def exposure(
    terms: Terms, used: Mapping[int, int], held: Mapping[int, int], more: Mapping[int, int] | None = None
) -> int:
    """The most (picos) that everything in flight (and `more` units besides) can still cost, whichever call settles first.

    `held` is the sum of the units that `bound` gave for the calls in flight. This is the figure to compare with a
    wallet. The sum of the calls' own bounds is not: two calls share the last free units, the first to arrive expects
    them, the first to settle gets them.
    """
    picos, prices = 0, _prices(terms)
    for index, amount in held.items():
        if more is not None and index in more:
            amount += more[index]
        price, included = prices[index]
        before = used.get(index, 0)
        picos += price * (amount if before >= included else _beyond(included, before, amount))
    if more is not None:
        for index, amount in more.items():
            if index not in held:
                price, included = prices[index]
                picos += price * _beyond(included, used.get(index, 0), amount)
    return picos


def rate_period(
    terms: Terms, events: Iterable[tuple[str, Mapping[str, int]]], used: Mapping[int, int] | None = None
) -> list[Rated]:
    """A whole period at once: (model, quantities) of its events, or of any sums of them, to one line a charge in use.

    `used` is what an earlier subscription to the same plan version already took of the period's free units.
    """
    sums: Used = {}
    for model, quantities in events:
        for meter, index, _, _ in _steps(terms, model):
            amount = quantities.get(meter, 0)
            if amount:
                sums[index] = sums.get(index, 0) + amount
    lines = []
    for index in sorted(sums):
        charge = charge_at(terms, index)
        billable = _beyond(charge.included, (used or {}).get(index, 0), sums[index])
        lines.append(
            Rated(
                index,
                charge,
                sums[index],
                sums[index] - billable,
                billable,
                charge.price_micros * billable,
                index >= len(terms.charges),
            )
        )
    return lines


@lru_cache(maxsize=1024)
def _prices(terms: Terms) -> tuple[tuple[int, int], ...]:
    """(price, included) of every charge by its place, those of batches behind the others."""
    return tuple((charge.price_micros, charge.included) for charge in (*terms.charges, *_batch_charges(terms)))


def _beyond(included: int, before: int, amount: int) -> int:
    """How many of `amount` more units are not free, `before` having been used."""
    left = included - before
    return amount if left <= 0 else max(0, amount - left)


@lru_cache(maxsize=4096)
def _steps(terms: Terms, model: str) -> tuple[_Step, ...]:
    """The meters that cost something for this model."""
    found = ((meter, charge_for(terms, meter, model)) for meter in METERS)
    return tuple((meter, one[0], one[1].price_micros, one[1].included) for meter, one in found if one is not None)


_Pool = tuple[int, int, int]  # charge index, price, included


@lru_cache(maxsize=4096)
def _pools(terms: Terms, model: str) -> tuple[_Pool | None, _Pool | None, tuple[_Step, ...]]:
    """The same, taken apart for `bound`: the input's pool, the cached one, and what is left."""
    by_meter = {meter: (index, price, included) for meter, index, price, included in _steps(terms, model)}
    rest = tuple((meter, *by_meter[meter]) for meter in ("output_tokens", "requests", *COUNTED) if meter in by_meter)
    return by_meter.get("input_tokens"), by_meter.get("cached_tokens"), rest
