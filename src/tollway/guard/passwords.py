"""Passwords of people: argon2id with the cost OWASP names (19 MiB, two passes). For sell.accounts.

About 50 ms a check, on purpose. Machines use API keys (see guard.keys), which are random and need no slow hash.
"""

import secrets
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from tollway.kit.errors import BadRequest
from tollway.kit.said import say

SHORTEST: Final = 10
LONGEST: Final = 200
_READABLE: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that looks like something else
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# The hash of nothing anybody knows: checked for unknown e-mail addresses, so that an answer takes equally long.
_NOBODY: Final = "$argon2id$v=19$m=19456,t=2,p=1$hSCyV9oM9Eh1OChzoX8ifA$e+ojl8cMe6HFQhPSAOcpBYKFJlNoKHJjCf3dXFrsSdU"


def new_password() -> str:
    """A password for people to copy: four groups of five readable characters, 99 bits."""
    return "-".join("".join(secrets.choice(_READABLE) for _ in range(5)) for _ in range(4))


def hash_password(password: str) -> str:
    """The text to store. Raises BadRequest for a password outside 10 to 200 characters."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise BadRequest(
            say("password.length", "A password needs {least} to {most} characters.", least=SHORTEST, most=LONGEST),
            code="invalid_password",
            param="password",
            hint=say("password.words", "Three or four unrelated words make a good one."),
        )
    return _hasher.hash(password)


def verify_password(password: str, stored: str | None) -> bool:
    """Whether `password` made `stored`. With None (no such person) it takes the same time and says no."""
    try:
        _hasher.verify(stored or _NOBODY, password[:LONGEST])
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None and len(password) <= LONGEST
