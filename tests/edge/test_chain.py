"""The chain against whoever holds the device and its key: what is no entry is refused as such, and so is what no call can use."""

from typing import Any

import pytest

from tollway.edge import chain
from tollway.kit.errors import Conflict

KEY = chain.key_of(b"p" * 32, "dev_1")
BEGINNING = chain.beginning(KEY, "dev_1", "sha256:0")


def entry(**fields: Any) -> dict[str, Any]:
    """The first entry of a log, sealed by who has the key."""
    made = {"n": 1, "at_ms": 1, "operation": "classification", "meter": "rows", "units": 1} | fields
    return {"seal": chain.sealed(KEY, BEGINNING, made)} | made


def test_what_one_call_can_use_is_believed() -> None:
    for meter, most in chain.METERS.items():
        chain.check(KEY, BEGINNING, 0, [entry(meter=meter, units=most)])


@pytest.mark.parametrize("meter", chain.METERS)
@pytest.mark.parametrize("times", [2, 10**6, 10**12])
def test_more_than_one_call_can_use_is_not(meter: str, times: int) -> None:
    """Entries of a billion make sums that no database holds: the buyer's, and the operator's books with them."""
    with pytest.raises(Conflict, match="cannot be believed"):
        chain.check(KEY, BEGINNING, 0, [entry(meter=meter, units=chain.METERS[meter] * times)])


STRANGE: list[Any] = [None, True, -1, 1.0, 1.5, 2**70, "", "é", "\ud800", [], {}, ["rows"], {"rows": 1}]


@pytest.mark.parametrize("value", STRANGE, ids=repr)
@pytest.mark.parametrize("field", [*chain.FIELDS, "seal"])
def test_values_of_every_kind_are_refused_in_words(field: str, value: Any) -> None:
    try:
        sealed = entry(**{field: value}) if field != "seal" else entry() | {"seal": value}
    except (TypeError, UnicodeError):
        sealed = entry() | {field: value}
    with pytest.raises(Conflict, match="cannot be believed"):
        chain.check(KEY, BEGINNING, 0, [sealed])
