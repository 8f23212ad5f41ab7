"""Rating: exact, the same in any order and any portions, and never above what was held for it."""

from collections.abc import Mapping
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.sell import rating
from tollway.sell.catalog import COUNTED, METERS, Charge, Terms

MODELS = ("small", "large", "other", "small#batch", "other#batch")
Event = tuple[str, dict[str, int]]


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    """Any sensible price list: some meters priced for one model, some for all, some not at all."""
    places = draw(st.lists(st.tuples(st.sampled_from(METERS), st.sampled_from(("small", "large", "*"))), unique=True))
    charges = tuple(
        Charge(meter=meter, model=model, price_micros=draw(st.integers(0, 10**8)), included=draw(st.integers(0, 3000)))
        for meter, model in places
    )
    return Terms(charges=charges, batch_percent=draw(st.integers(0, 100)))


quantities = st.fixed_dictionaries({meter: st.integers(0, 2000) for meter in METERS})
events = st.lists(st.tuples(st.sampled_from(MODELS), quantities), max_size=12)


def plain_price(price_list: Terms, history: list[Event]) -> int:
    """The slow and obvious reference: one unit after the other, each free or paid."""
    used: dict[int, int] = {}
    picos = 0
    for sold, amounts in history:
        model, batch = sold.removesuffix("#batch"), sold.endswith("#batch")
        for meter, amount in amounts.items():
            names = [(meter, model), (meter, "*")]
            if meter == "cached_tokens":
                names += [("input_tokens", model), ("input_tokens", "*")]
            places = {(charge.meter, charge.model): index for index, charge in enumerate(price_list.charges)}
            index = next((places[name] for name in names if name in places), None)
            if index is None:
                continue
            if batch:  # nothing is free, everything is cheaper
                picos += amount * (price_list.charges[index].price_micros * price_list.batch_percent // 100)
                continue
            for _ in range(amount):
                used[index] = used.get(index, 0) + 1
                picos += (
                    price_list.charges[index].price_micros if used[index] > price_list.charges[index].included else 0
                )
    return picos


def one_by_one(price_list: Terms, history: list[Event]) -> tuple[int, dict[int, int]]:
    """As the gateway does it: each event after what came before it."""
    used: dict[int, int] = {}
    total = 0
    for model, amounts in history:
        picos, units = rating.rate(price_list, used, model, amounts)
        assert picos >= 0
        total += picos
        for index, amount in units.items():
            used[index] = used.get(index, 0) + amount
    return total, used


def period_total(price_list: Terms, history: list[Event], used: Mapping[int, int] | None = None) -> int:
    return sum(line.picos for line in rating.rate_period(price_list, history, used))


# -- examples ----------------------------------------------------------------------------------------------------------

STARTER = Terms(
    charges=(
        Charge(meter="input_tokens", price_micros=150_000, included=1_000),
        Charge(meter="output_tokens", price_micros=600_000),
        Charge(meter="output_tokens", model="large", price_micros=2_400_000),
        Charge(meter="requests", price_micros=1_000_000_000),
    )
)


def test_a_price_per_million_is_exact_in_picos() -> None:
    # 3 output tokens at 0.60 per 1M = 0.0000018 = 1,800,000 picos
    assert rating.rate(STARTER, {}, "small", {"output_tokens": 3}) == (1_800_000, {1: 3})


def test_the_models_own_price_wins() -> None:
    assert rating.rate(STARTER, {}, "large", {"output_tokens": 1}) == (2_400_000, {2: 1})
    found = rating.charge_for(STARTER, "output_tokens", "large")
    assert found is not None and found[0] == 2
    assert rating.charge_for(STARTER, "requests", "large") == (3, STARTER.charges[3])


def test_included_units_go_first_and_once() -> None:
    assert rating.rate(STARTER, {}, "small", {"input_tokens": 1_000}) == (0, {0: 1_000})
    assert rating.rate(STARTER, {0: 400}, "small", {"input_tokens": 1_000}) == (400 * 150_000, {0: 1_000})
    assert rating.rate(STARTER, {0: 5_000}, "small", {"input_tokens": 2}) == (2 * 150_000, {0: 2})


def test_cached_tokens_without_a_price_count_as_input() -> None:
    assert rating.rate(STARTER, {}, "small", {"input_tokens": 600, "cached_tokens": 600}) == (200 * 150_000, {0: 1_200})


def test_what_has_no_price_is_free() -> None:
    assert rating.rate(Terms(), {}, "small", {"input_tokens": 10**9}) == (0, {})
    assert rating.bound(Terms(), {}, "small", 10**9, 10**9) == (0, {})
    assert rating.rate_period(Terms(), [("small", {"requests": 1})]) == []


def test_the_bound_counts_one_request_and_all_tokens() -> None:
    picos, units = rating.bound(STARTER, {0: 1_000}, "small", 100, 50)
    assert picos == 100 * 150_000 + 50 * 600_000 + 1_000_000_000
    assert units == {0: 100, 1: 50, 3: 1}


def test_two_calls_may_share_the_last_free_units_and_exposure_knows() -> None:
    """The first call expects the free units, the second settles first and gets them: the sum of bounds is too small."""
    price_list = Terms(charges=(Charge(meter="output_tokens", price_micros=1, included=100),))
    first, held = rating.bound(price_list, {}, "m", 0, 100)
    second, more = rating.bound(price_list, held, "m", 0, 100)
    assert (first, second) == (0, 100)
    settled, used = rating.rate(price_list, {}, "m", {"output_tokens": 100})  # the second call
    assert settled == 0
    late, _ = rating.rate(price_list, used, "m", {"output_tokens": 100})  # the first call
    assert late == 100 > first
    assert rating.exposure(price_list, {}, {0: held[0] + more[0]}) == 100
    assert rating.exposure(price_list, used, held) == 100


# -- properties --------------------------------------------------------------------------------------------------------


@given(terms(), events)
@settings(max_examples=60)
def test_it_agrees_with_counting_unit_by_unit(price_list: Terms, history: list[Event]) -> None:
    few = [(model, {meter: amount // 40 for meter, amount in amounts.items()}) for model, amounts in history]
    price_list = Terms(charges=tuple(_cheaper(charge) for charge in price_list.charges))
    assert one_by_one(price_list, few)[0] == plain_price(price_list, few)


def _cheaper(charge: Charge) -> Charge:
    return Charge(
        meter=charge.meter, model=charge.model, price_micros=charge.price_micros, included=charge.included // 40
    )


@given(terms(), events, st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_change_the_period(
    price_list: Terms, history: list[Event], random: object
) -> None:
    shuffled = list(history)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    expected = period_total(price_list, history)
    assert one_by_one(price_list, shuffled)[0] == one_by_one(price_list, history)[0] == expected
    assert rating.rate_period(price_list, shuffled) == rating.rate_period(price_list, history)


@given(terms(), events, st.lists(st.integers(0, 12), max_size=4))
def test_the_portions_do_not_change_the_period(price_list: Terms, history: list[Event], cuts: list[int]) -> None:
    """Any partition of a period, each part rated after the ones before, costs what the whole costs."""
    edges = [0, *sorted(min(cut, len(history)) for cut in cuts), len(history)]
    total, used = 0, {}
    for start, end in pairwise(edges):
        part = history[start:end]
        total += period_total(price_list, part, used)
        for line in rating.rate_period(price_list, part):
            used[line.index] = used.get(line.index, 0) + line.quantity
    assert total == period_total(price_list, history)


@given(terms(), st.sampled_from(MODELS), quantities, st.data())
def test_one_event_in_two_halves_costs_the_same(
    price_list: Terms, model: str, amounts: dict[str, int], data: st.DataObject
) -> None:
    first = {meter: data.draw(st.integers(0, amount)) for meter, amount in amounts.items()}
    second = {meter: amounts[meter] - first[meter] for meter in amounts}
    assert one_by_one(price_list, [(model, first), (model, second)]) == one_by_one(price_list, [(model, amounts)])


@given(terms(), events)
def test_more_use_never_costs_less(price_list: Terms, history: list[Event]) -> None:
    totals = [period_total(price_list, history[:count]) for count in range(len(history) + 1)]
    assert totals == sorted(totals)


@given(terms(), st.sampled_from(MODELS), st.dictionaries(st.integers(0, 11), st.integers(0, 4000)), st.data())
def test_no_call_costs_more_than_its_bound(
    price_list: Terms, model: str, used: dict[int, int], data: st.DataObject
) -> None:
    most_in, most_out = data.draw(st.integers(0, 3000)), data.draw(st.integers(0, 3000))
    counted = data.draw(st.dictionaries(st.sampled_from(COUNTED), st.integers(1, 500), max_size=1))
    held, units = rating.bound(price_list, used, model, most_in, most_out, counted)
    cached = data.draw(st.integers(0, most_in))
    fresh = data.draw(st.integers(0, most_in - cached))
    actual = {
        "input_tokens": fresh,
        "cached_tokens": cached,
        "output_tokens": data.draw(st.integers(0, most_out)),
        "requests": 1,
    } | {meter: data.draw(st.integers(0, amount)) for meter, amount in counted.items()}
    assert rating.rate(price_list, used, model, actual)[0] <= held <= rating.exposure(price_list, used, units)


@given(terms(), st.data())
@settings(max_examples=200)
def test_whoever_settles_first_nothing_passes_the_exposure(price_list: Terms, data: st.DataObject) -> None:
    """Calls are admitted against a wallet by `exposure` and settle in any order; the wallet never goes below zero."""
    wallet = start = data.draw(st.integers(0, 10**12))
    used: dict[int, int] = {}
    held: dict[int, int] = {}
    running: list[tuple[str, int, int, dict[str, int], dict[int, int]]] = []
    for _ in range(data.draw(st.integers(1, 14))):
        if running and data.draw(st.booleans()):
            model, most_in, most_out, counted, units = running.pop(data.draw(st.integers(0, len(running) - 1)))
            cached = data.draw(st.integers(0, most_in))
            actual = {
                "input_tokens": most_in - cached,
                "cached_tokens": cached,
                "output_tokens": data.draw(st.integers(0, most_out)),
                "requests": 1,
            } | counted
            picos, taken = rating.rate(price_list, used, model, actual)
            wallet -= picos
            for index, amount in units.items():
                held[index] -= amount
            for index, amount in taken.items():
                used[index] = used.get(index, 0) + amount
            assert wallet >= 0
            assert rating.exposure(price_list, used, held) <= wallet
        else:
            model, most_in, most_out = data.draw(st.tuples(st.sampled_from(MODELS), *(st.integers(0, 2000),) * 2))
            busy = {index: used.get(index, 0) + held.get(index, 0) for index in range(len(price_list.charges))}
            counted = data.draw(st.dictionaries(st.sampled_from(COUNTED), st.integers(1, 500), max_size=1))
            units = rating.bound(price_list, busy, model, most_in, most_out, counted)[1]
            more = {index: held.get(index, 0) + units.get(index, 0) for index in held.keys() | units.keys()}
            if rating.exposure(price_list, used, more) <= wallet:
                held = more
                running.append((model, most_in, most_out, counted, units))
    assert start - wallet >= 0


def test_a_fine_tuned_model_costs_what_its_base_does_unless_it_has_a_price() -> None:
    name = "ft:small:acme:shop:1"
    price_list = Terms(
        charges=(
            Charge(meter="output_tokens", price_micros=1_000_000),
            Charge(meter="output_tokens", model="small", price_micros=2_000_000),
        )
    )
    assert rating.rate(price_list, {}, name, {"output_tokens": 5})[0] == 10_000_000
    assert rating.rate(price_list, {}, "ft:large:acme:shop:1", {"output_tokens": 5})[0] == 5_000_000
    own = Terms(charges=(*price_list.charges, Charge(meter="output_tokens", model=name, price_micros=3_000_000)))
    assert rating.rate(own, {}, name, {"output_tokens": 5})[0] == 15_000_000


def test_what_is_not_used_is_not_held() -> None:
    price_list = Terms(charges=(Charge(meter="images", price_micros=10**9), Charge(meter="rows", price_micros=10**9)))
    assert rating.bound(price_list, {}, "m", 10, 0) == (0, {})
    assert rating.bound(price_list, {}, "m", 10, 0, {"images": 3}) == (3 * 10**9, {0: 3})
