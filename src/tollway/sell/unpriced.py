"""What a plan has no price for: the meters of a model that would be given away, or that nobody could use.

A call that some charge covers (of its tokens, its rows, or of `requests`) is sold; what it uses besides is free. A call
that no charge covers is refused where the plan says so (`Terms.unpriced`), else free. A charge of 0 is a price: what is
given away on purpose has one. A plan without any charge sells its fee: everything is in it.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from tollway.kit.errors import Forbidden
from tollway.sell import catalog, rating
from tollway.sell.catalog import PlanVersion, Terms


class Gap(msgspec.Struct, frozen=True):
    """A meter of a model that has no price. A plan without any charge has one gap: every meter ("*") of every model."""

    model: str
    meter: str
    outcome: Literal["free", "refused"]


class Refused(msgspec.Struct, frozen=True):
    """Calls of a model that a plan version refused because it has no price for them, since this gateway began; the last at
    `at_ms`."""

    plan_version_id: str
    model: str
    calls: int
    at_ms: int


class Notes:
    """What was refused for want of a price, for the operator, who alone can heal it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Refused] = {}

    @property
    def rows(self) -> list[Refused]:
        """One for each plan version and model."""
        return [*self._found.values()]

    def refused(self, plan: PlanVersion, model: str, now_ms: int) -> Forbidden:
        """The refusal of one more call, noted. `model`: as it is sold."""
        place = (plan.id, catalog.tier_of(model)[0])
        before = self._found.get(place)
        self._found[place] = Refused(*place, (before.calls if before else 0) + 1, now_ms)
        return refusal(plan, model)


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


def refuses(terms: Terms, model: str, use: Sequence[str]) -> bool:
    """Whether a call that uses these meters is refused because no charge covers any of them. `model`: as it is sold."""
    if terms.unpriced != "refuse" or not terms.charges:
        return False
    return not any(rating.charge_for(terms, meter, model) for meter in (*use, "requests"))


def refusal(plan: PlanVersion, model: str) -> Forbidden:
    """What is said to the caller. `model`: as it is sold."""
    return Forbidden(
        f"The plan {plan.title!r} has no price for this use of the model {catalog.tier_of(model)[0]!r}.",
        code="model_not_priced",
        hint="Ask the operator, who finds what is missing with `tollway plan show`.",
    )


def sells(terms: Terms, model: str) -> bool:
    """Whether a plan includes a model."""
    return "*" in terms.models or model in terms.models
