"""Numbers, money and dates per language; exact where exactness is promised."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.faces.console.charts import sparkline
from tollway.faces.console.formats import Locale, round_div

EN, ZH = Locale("en"), Locale("zh")


@pytest.mark.parametrize(
    ("value", "english", "chinese"),
    [
        (0, "0", "0"),
        (999, "999", "999"),
        (1234, "1.23K", "1,234"),
        (12_345, "12.3K", "1.23万"),
        (250_000_000, "250M", "2.5亿"),
        (-4200, "-4.2K", "-4,200"),
        (None, "–", "–"),
    ],
)
def test_compact_numbers(value, english, chinese):
    assert (EN.compact(value), ZH.compact(value)) == (english, chinese)


@pytest.mark.parametrize(
    ("micros", "currency", "english", "chinese"),
    [
        (12_500_000, "USD", "$12.50", "US$12.50"),
        (-12_500_000, "USD", "-$12.50", "-US$12.50"),
        (1_234_567_890, "CNY", "CN¥1,234.57", "¥1,234.57"),
        (5_000_000, "JPY", "¥5", "JP¥5"),
        (3_400, "USD", "$0.0034", "US$0.0034"),
        (21, "USD", "$0.000021", "US$0.000021"),
        (0, "USD", "$0.00", "US$0.00"),
    ],
)
def test_money(micros, currency, english, chinese):
    assert (EN.money(micros, currency), ZH.money(micros, currency)) == (english, chinese)


def test_exact_money_keeps_every_digit():
    assert EN.exact(150_000, "USD") == "$0.15"
    assert EN.exact(1_234_567, "USD") == "$1.234567"
    assert EN.picos_exact(12_345_678, "USD") == "$0.000012345678"


def test_dates_are_utc_and_local_in_form():
    moment = 1_795_358_040_000
    assert EN.time(moment) == "22 Nov 2026, 14:34"
    assert ZH.time(moment) == "2026年11月22日 14:34"
    assert (EN.month("2026-01"), ZH.month("2026-01")) == ("Jan 2026", "2026年1月")


@pytest.mark.parametrize(
    ("micros", "shown"),
    [(7, "7 µs"), (12_400, "12.4 ms"), (3_210_000, "3.21 s"), (7_500_000_000, "2 h 05 min"), (None, "–")],
)
def test_durations(micros, shown):
    assert EN.duration(micros) == shown


@given(st.integers(-(10**18), 10**18), st.integers(1, 10**9))
def test_round_div_is_half_even(value, by):
    whole = round_div(value, by)
    assert abs(2 * (value - whole * by)) <= by
    assert abs(2 * (value - whole * by)) != by or whole % 2 == 0


@given(st.integers(-(10**13), 10**13))
def test_exact_money_can_be_read_back(micros):
    text = EN.exact(micros, "USD").replace("$", "").replace(",", "")
    whole, _, fraction = text.lstrip("-").partition(".")
    assert int(whole) * 10**6 + int(fraction.ljust(6, "0")) == abs(micros)


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.413, "41.3%"), (Fraction(1, 3), "33.3%"), (-0.5, "-50.0%"), (-27.8, "< -1,000%"), (None, "–")],
)
def test_shares(share, shown):
    assert EN.percent(share) == shown


def test_a_sparkline_of_losses_hangs_from_zero():
    path = sparkline([0, -4, -2])
    assert path["line"] == "M0.0,2.0L60.0,26.0L120.0,14.0"
    assert path["area"].endswith("L120,2.0L0,2.0Z")
    assert sparkline([7])["line"] == ""
