"""Checksums and ranges that tell a real identifier from a number that only looks like one."""

import ipaddress
from datetime import date
from typing import Final

_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_PROVINCES: Final = frozenset(
    f"{first}{second}"
    for first, seconds in {
        1: "12345",
        2: "123",
        3: "1234567",
        4: "123456",
        5: "01234",
        6: "12345",
        7: "1",
        8: "123",
    }.items()
    for second in seconds
)


def chinese_id(digits: str) -> bool:
    """GB 11643: province, date of birth, and the last character (ISO 7064 MOD 11-2)."""
    if len(digits) != 18 or digits[:2] not in _PROVINCES or not _day(digits[6:14]):
        return False
    total = sum(int(one) * weight for one, weight in zip(digits[:17], _WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == digits[17].upper()


def old_chinese_id(digits: str) -> bool:
    """The 15-digit form: no check digit, so it counts only where somebody calls it an identity card."""
    return len(digits) == 15 and digits[:2] in _PROVINCES and _day("19" + digits[6:12])


def _day(text: str) -> bool:
    try:
        born = date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return False
    return 1900 <= born.year <= 2100


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1 annex B."""
    total = 0
    for place, one in enumerate(reversed(digits)):
        value = int(one) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def card_issuer(digits: str) -> str:
    """The network of a card number by its first digits and length, or nothing."""
    length, two, four = len(digits), int(digits[:2]), int(digits[:4])
    if two == 62 and 16 <= length <= 19:
        return "unionpay"
    if digits[0] == "4" and length in (13, 16, 19):
        return "visa"
    if (51 <= two <= 55 or 2221 <= four <= 2720) and length == 16:
        return "mastercard"
    if two in (34, 37) and length == 15:
        return "amex"
    if 3528 <= four <= 3589 and length == 16:
        return "jcb"
    if two in (36, 38, 39) and length == 14:
        return "diners"
    return "discover" if (four == 6011 or two == 65) and length == 16 else ""


def iban(text: str) -> bool:
    """ISO 13616: letters as numbers, the first four at the end, modulo 97 is 1."""
    turned = text[4:] + text[:4]
    return int("".join(str(int(one, 36)) for one in turned.upper())) % 97 == 1


def ip(text: str) -> bool:
    """An IPv4 or IPv6 address that names a machine (not `::` or `0.0.0.0`)."""
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def social_security(digits: str) -> bool:
    """A US social security number that could have been issued."""
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"
