"""The chain: each entry of a device's log is sealed with the device's key over its own words and the seal before it.

An entry that was changed, left out, repeated or moved breaks every seal after it. Who has the key (the device, the shop) can
write a chain; nobody else can change one. For the device that writes and the shop that checks.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tollway.kit.errors import Conflict

FIELDS: Final = ("n", "at_ms", "operation", "meter", "units")
METERS: Final = {"input_tokens": 10**7, "images": 256, "rows": 256}
"""What a device counts, and the most that one call of it can use."""
OPERATIONS: Final = ("classification", "embedding")


def key_of(secret: bytes, device: str) -> str:
    """A device's key, from the shop's secret: nothing about it need be stored."""
    return hmac.new(secret, f"edge-device:{device}".encode(), hashlib.sha256).hexdigest()


def fingerprint(key: str) -> str:
    """Which key it is, without telling it."""
    return hashlib.sha256(bytes.fromhex(key)).hexdigest()[:16]


def beginning(key: str, device: str, digest: str) -> str:
    """The seal before the first entry: binds the chain to the device and to the model it was given."""
    return _seal(key, {"device": device, "digest": digest})


def sealed(key: str, before: str, entry: Mapping[str, Any]) -> str:
    """The seal of an entry that follows the seal `before`."""
    return _seal(key, {**{name: entry[name] for name in FIELDS}, "before": before})


def check(key: str, before: str, number: int, entries: Sequence[Mapping[str, Any]]) -> None:
    """Raise Conflict unless these entries go on from entry `number` with the seal `before`."""
    for entry in entries:
        number += 1
        problem = _problem(entry, number)
        said = str(entry.get("seal", "")).encode("utf-8", "replace")
        if not problem and not hmac.compare_digest(sealed(key, before, entry).encode("ascii"), said):
            problem = "its seal does not fit its words and the entry before it"
        if problem:
            raise Conflict(
                f"Entry {number} of the usage log cannot be believed: {problem}.",
                code="log_tampered",
                param=f"entries[{number}]",
                hint="Nothing was taken over. Restore the log of this device, or have it exported anew.",
            )
        before = str(entry["seal"])


def _problem(entry: Mapping[str, Any], number: int) -> str:
    if set(entry) != {*FIELDS, "seal"}:
        return "its fields are not those of an entry"
    if type(entry["n"]) is not int or entry["n"] != number:
        return f"its number is {str(entry['n'])[:20]}, not {number}"
    if str(entry["meter"]) not in METERS or entry["operation"] not in OPERATIONS:
        return "it counts what no device counts"
    for name in ("at_ms", "units"):
        value = entry[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
            return f"{name} is no whole number"
    return "" if entry["units"] <= METERS[entry["meter"]] else "more was used than one call can"


def _seal(key: str, fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(bytes.fromhex(key), text.encode("ascii"), hashlib.sha256).hexdigest()
