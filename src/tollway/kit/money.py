"""Money as integers: micros (1e-6 of the currency's unit) in the ledger, picos (1e-12) while a call is rated.

A price is micros per million units of a meter, so `units x price` is an exact number of picos and nothing is
rounded until money moves. Amounts on an invoice line are rounded once, half-even, to the currency's minor unit.
Minor-unit exponents are ISO 4217's.
"""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final

MICROS: Final = 1_000_000
PICOS_PER_MICRO: Final = 1_000_000
PICOS: Final = MICROS * PICOS_PER_MICRO

EXPONENTS: Final = {"USD": 2, "EUR": 2, "GBP": 2, "CNY": 2, "HKD": 2, "SGD": 2, "CHF": 2, "JPY": 0, "KRW": 0, "KWD": 3}
_SIGNS: Final = {"USD": "$", "EUR": "€", "GBP": "£", "CNY": "¥", "HKD": "HK$", "JPY": "JP¥"}


def parse_micros(text: str) -> int:
    """`"12.5"` -> 12_500_000. Raises ValueError for anything that is not a finite number of at most six decimals."""
    try:
        amount = Decimal(text.strip())
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not an amount of money") from error
    if not amount.is_finite():
        raise ValueError(f"{text!r} is not a finite amount")
    micros = amount * MICROS
    if micros != micros.to_integral_value():
        raise ValueError(f"{text!r} has more than six decimals")
    if abs(micros) > 10**17:
        raise ValueError(f"{text!r} is too large an amount")
    return int(micros)


def to_decimal(micros: int) -> Decimal:
    """Micros as an exact Decimal in the currency's unit."""
    return Decimal(micros) / MICROS


def round_to_minor(picos: int, currency: str) -> int:
    """Picos rounded half-even to the currency's minor unit, returned in micros. The one place where an invoice rounds."""
    quantum = Decimal(1).scaleb(-EXPONENTS[currency])
    amount = (Decimal(picos) / (MICROS * PICOS_PER_MICRO)).quantize(quantum, rounding=ROUND_HALF_EVEN)
    return int(amount * MICROS)


def format_picos(picos: int) -> str:
    """Exactly, for programs: `0.0000123`, without a currency and without zeros at the end. `picos` >= 0."""
    whole, part = divmod(picos, PICOS)
    return f"{whole}.{part:012d}".rstrip("0") if part else str(whole)


def format_micros(micros: int, currency: str) -> str:
    """For people: `$12.50`; keeps up to six decimals where the amount has them, never fewer than the minor unit."""
    exponent = EXPONENTS[currency]
    digits = f"{abs(to_decimal(micros)):,.6f}"
    whole, _, fraction = digits.partition(".")
    kept = max(exponent, len(fraction.rstrip("0")))
    shown = whole + (f".{fraction[:kept]}" if kept else "")
    return ("-" if micros < 0 else "") + _SIGNS.get(currency, f"{currency} ") + shown
