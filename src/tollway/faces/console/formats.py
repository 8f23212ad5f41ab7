"""Numbers, money and dates as a reader of English or 简体中文 expects them; all times are shown in UTC.

Money comes in as integer micros or picos and is never turned into a float: every digit shown is exact or rounded half-even.
"""

from datetime import date as Day
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Final

from tollway.kit.clock import from_ms
from tollway.kit.money import EXPONENTS, MICROS, PICOS_PER_MICRO, to_decimal

_SIGNS: Final = {
    "en": {"USD": "$", "EUR": "€", "GBP": "£", "CNY": "CN¥", "HKD": "HK$", "JPY": "¥", "KRW": "₩", "SGD": "S$"},
    "zh": {"USD": "US$", "EUR": "€", "GBP": "£", "CNY": "¥", "HKD": "HK$", "JPY": "JP¥", "KRW": "₩", "SGD": "S$"},
}
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STEPS: Final = {
    "en": ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")),
    "zh": ((10**12, "万亿"), (10**8, "亿"), (10**4, "万")),
}
NONE: Final = "–"


class Locale:
    """Formats for one language; templates know it as `fmt`."""

    def __init__(self, lang: str) -> None:
        self.lang = lang

    def number(self, value: int | None) -> str:
        """`1,234,567`."""
        return NONE if value is None else f"{value:,}"

    def compact(self, value: int | None) -> str:
        """`1.23M` or `123万`: three digits that matter; the full number belongs into the title."""
        if value is None:
            return NONE
        for size, suffix in _STEPS[self.lang]:
            if abs(value) >= size:
                return _three_digits(Decimal(value) / size) + suffix
        return f"{value:,}"

    def money(self, micros: int | None, currency: str) -> str:
        """Rounded for reading: the minor unit from one unit of currency on, more decimals below it."""
        if micros is None:
            return NONE
        exponent = EXPONENTS.get(currency, 2)
        if micros and abs(micros) < MICROS:
            exponent = max(exponent, 2 if abs(micros) >= MICROS // 10 else 4 if abs(micros) >= MICROS // 1000 else 6)
        return self._signed(to_decimal(micros), exponent, currency)

    def exact(self, micros: int | None, currency: str) -> str:
        """Every digit there is, for prices and ledgers; never fewer than the minor unit."""
        if micros is None:
            return NONE
        return self._exact(to_decimal(micros), currency)

    def picos(self, picos: int | None, currency: str) -> str:
        """The price of calls, rounded for reading."""
        if picos is None:
            return NONE
        return self.money(round_div(picos, PICOS_PER_MICRO), currency)

    def picos_exact(self, picos: int, currency: str) -> str:
        """The price of one call with every digit."""
        return self._exact(Decimal(picos) / (MICROS * PICOS_PER_MICRO), currency)

    def percent(self, share: float | Decimal | Fraction | None, decimals: int = 1) -> str:
        """`41.3%` of a share such as 0.413; a loss beyond ten times the income is only said to be that."""
        if share is None:
            return NONE
        if share < -10:
            return "< -1,000%"
        value = Decimal(share.numerator) / share.denominator if isinstance(share, Fraction) else Decimal(share)
        return f"{(value * 100).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN):,}%"

    def duration(self, micros: int | None) -> str:
        """Microseconds as `0 s`, `840 µs`, `12.4 ms`, `3.21 s`, `2 h 05 min`."""
        if micros is None:
            return NONE
        if micros < 1000:
            return f"{micros} µs" if micros else "0 s"
        if micros < 1_000_000:
            return f"{_three_digits(Decimal(micros) / 1000)} ms"
        if micros < 120_000_000:
            return f"{_three_digits(Decimal(micros) / 1_000_000)} s"
        minutes = micros // 60_000_000
        hours, minutes = divmod(minutes, 60)
        if self.lang == "zh":
            return f"{hours:,} 小时 {minutes:02d} 分" if hours else f"{minutes} 分钟"
        return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min"

    def size(self, size_bytes: int | None) -> str:
        """Bytes as `144 MB` (decimal units)."""
        if size_bytes is None:
            return NONE
        for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
            if size_bytes >= unit:
                return f"{_three_digits(Decimal(size_bytes) / unit)} {name}"
        return f"{size_bytes} B"

    def date(self, moment_ms: int | None) -> str:
        """`22 Nov 2026` or `2026年11月22日`."""
        return NONE if moment_ms is None else self._day(from_ms(moment_ms).date())

    def time(self, moment_ms: int | None) -> str:
        """`22 Nov 2026, 14:05`."""
        if moment_ms is None:
            return NONE
        separator = ", " if self.lang == "en" else " "
        return f"{self.date(moment_ms)}{separator}{from_ms(moment_ms):%H:%M}"

    def moment(self, moment_ms: int | None) -> str:
        """With seconds, for single events."""
        return NONE if moment_ms is None else f"{self.time(moment_ms)}:{from_ms(moment_ms):%S}"

    def day(self, text: str) -> str:
        """A stored day (`2026-11-22`) for people."""
        return self._day(Day.fromisoformat(text))

    def month(self, text: str) -> str:
        """A billing period (`2026-11`) as `Nov 2026` or `2026年11月`."""
        year, month = text.split("-")
        return f"{year}年{int(month)}月" if self.lang == "zh" else f"{_MONTHS[int(month) - 1]} {year}"

    def _day(self, day: Day) -> str:
        if self.lang == "zh":
            return f"{day.year}年{day.month}月{day.day}日"
        return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"

    def _sign(self, currency: str) -> str:
        return _SIGNS[self.lang].get(currency, f"{currency} ")

    def _signed(self, amount: Decimal, decimals: int, currency: str) -> str:
        shown = abs(amount).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN)
        return ("-" if amount < 0 and shown else "") + f"{self._sign(currency)}{shown:,}"

    def _exact(self, amount: Decimal, currency: str) -> str:
        whole, _, fraction = f"{abs(amount):,.12f}".partition(".")
        kept = max(EXPONENTS.get(currency, 2), len(fraction.rstrip("0")))
        digits = whole + (f".{fraction[:kept]}" if kept else "")
        return ("-" if amount < 0 else "") + self._sign(currency) + digits


def round_div(value: int, by: int) -> int:
    """Integer division rounded half-even."""
    whole, rest = divmod(value, by)
    return whole + (1 if 2 * rest > by or (2 * rest == by and whole & 1) else 0)


def _three_digits(value: Decimal) -> str:
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN):,}"
    return text.rstrip("0").rstrip(".") if "." in text else text
