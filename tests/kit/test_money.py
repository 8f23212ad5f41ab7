"""Money: exact, half-even once, never a float."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.kit import money
from tollway.kit.money import PICOS, format_picos


@given(st.integers(-(10**16), 10**16))
def test_micros_written_and_read_are_the_same(micros: int) -> None:
    assert money.parse_micros(str(money.to_decimal(micros))) == micros


@given(st.integers(-(10**20), 10**20), st.sampled_from(sorted(money.EXPONENTS)))
def test_rounding_moves_an_amount_by_half_a_minor_unit_at_most(picos: int, currency: str) -> None:
    rounded = money.round_to_minor(picos, currency)
    unit = Decimal(1).scaleb(6 - money.EXPONENTS[currency])
    assert rounded % int(unit) == 0
    assert abs(Decimal(rounded) - Decimal(picos) / money.PICOS_PER_MICRO) <= unit / 2


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("10.005", "USD", "10.00"),
        ("10.015", "USD", "10.02"),
        ("0.5", "JPY", "0"),
        ("1.5", "JPY", "2"),
        ("1.0005", "KWD", "1.000"),
    ],
)
def test_halves_go_to_the_even_neighbour(amount: str, currency: str, rounded: str) -> None:
    assert money.round_to_minor(money.parse_micros(amount) * money.PICOS_PER_MICRO, currency) == money.parse_micros(
        rounded
    )


@pytest.mark.parametrize("text", ["", "abc", "NaN", "Infinity", "1e400", "0.0000001", "1,5", "９９999999999999999999"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"amount|decimals"):
        money.parse_micros(text)


def test_amounts_are_shown_with_their_currency() -> None:
    assert money.format_micros(12_500_000, "USD") == "$12.50"
    assert money.format_micros(-1_234_567_890_000, "EUR") == "-€1,234,567.89"
    assert money.format_micros(1_500, "USD") == "$0.0015"
    assert money.format_micros(120_000_000, "JPY") == "JP¥120"


@given(st.integers(min_value=0, max_value=10**18))
def test_picos_for_programs_are_exact_and_end_without_zeros(picos: int) -> None:
    shown = format_picos(picos)
    assert Decimal(shown) == Decimal(picos) / PICOS
    assert "." not in shown or shown[-1] not in "0."
