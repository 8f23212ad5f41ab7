"""What a plan has no price for: the meters of a model that would be given away, or that nobody could use.

A call that some charge covers (of its tokens, its rows, or of `requests`) is sold; what it uses besides is free. A call
that no charge covers is refused where the plan says so (`Terms.unpriced`), else free. A charge of 0 is a price: what is
given away on purpose has one. A plan without any charge sells its fee: everything is in it.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from tollway.sell import rating
from tollway.sell.catalog import Terms


class Gap(msgspec.Struct, frozen=True):
    """A meter of a model that has no price. A plan without any charge has one gap: every meter ("*") of every model."""

    model: str
    meter: str
    outcome: Literal["free", "refused"]


def gaps(terms: Terms, models: Iterable[tuple[str, Sequence[Sequence[str]]]]) -> list[Gap]:
    """The gaps of a plan, for models by name with the meters of each kind of call that they answer."""
    if not terms.charges:
        return [Gap("*", "*", "free")]
    found = []
    for model, uses in models:
        if not sells(terms, model):
            continue
        for use in uses:
            missing = [meter for meter in use if rating.charge_for(terms, meter, model) is None]
            covered = len(missing) < len(use)
            if missing and rating.charge_for(terms, "requests", model) is None:
                outcome: Literal["free", "refused"] = "free" if covered or terms.unpriced == "free" else "refused"
                found += [Gap(model, meter, outcome) for meter in missing]
    return found


def sells(terms: Terms, model: str) -> bool:
    """Whether a plan includes a model."""
    return "*" in terms.models or model in terms.models
