"""API keys: `tw_live_` + 32 random base62 characters + 6 of checksum. For sell.access (hot path) and whoever shows keys.

The checksum (CRC32 of everything before it) lets a typo or a random guess be refused without touching the database, and
lets secret scanners tell a real key from noise. 32 base62 characters are 190 bits, so a fast keyed hash is enough at
rest: HMAC-SHA256 with a pepper that lives outside the database. A password hash would cost 10,000 times more a call.
"""

import hmac
import secrets
from typing import Final
from zlib import crc32

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM: Final = 32
_CHECKSUM: Final = 6
_PREFIXES: Final = ("tw_live_", "tw_test_")
_PAIRS: Final = [one + other for one in _ALPHABET for other in _ALPHABET]
LENGTH: Final = len(_PREFIXES[0]) + _RANDOM + _CHECKSUM


def new_key(live: bool = True) -> str:
    """A fresh key. Show it once, store only `digest` and `hint`."""
    body = _PREFIXES[0 if live else 1] + "".join([secrets.choice(_ALPHABET) for _ in range(_RANDOM)])
    return body + _checksum(body)


def well_formed(text: str) -> bool:
    """Whether this can be one of our keys at all: prefix, length and checksum. A microsecond, asks nobody."""
    if len(text) != LENGTH or not text.startswith(_PREFIXES) or not text.isascii():
        return False
    return _checksum(text[:-_CHECKSUM]) == text[-_CHECKSUM:]


def hint(text: str) -> str:
    """What may be shown and stored of a key: `tw_live_ab…wxyz`."""
    return f"{text[:10]}…{text[-4:]}"


def digest(text: str, pepper: bytes) -> str:
    """What is stored instead of the key (64 hexadecimal digits): equal keys give equal digests, nothing leads back."""
    return hmac.digest(pepper, text.encode(), "sha256").hex()


def _checksum(body: str) -> str:
    number, last = divmod(crc32(body.encode()), 62 * 62)
    return _PAIRS[number // (62 * 62)] + _PAIRS[number % (62 * 62)] + _PAIRS[last]
