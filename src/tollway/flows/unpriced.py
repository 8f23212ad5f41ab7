"""What plans have no price for, among the models on offer: for whoever deploys a model or writes a plan."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.artifacts.store import Store
from tollway.kit.errors import TollwayError
from tollway.kit.formats import ROWS
from tollway.sell import catalog, unpriced
from tollway.sell.catalog import PlanVersion, Terms
from tollway.sell.unpriced import Gap
from tollway.serve.meters import OF_KIND, Use, uses_of
from tollway.serve.models import Model, list_models

_TOKENS: Final[Use] = ("input_tokens", "output_tokens")  # of an adapter, whatever its base is


def of_plan(conn: sa.Connection, store: Store, terms: Terms) -> list[Gap]:
    """What these terms have no price for."""
    return unpriced.gaps(terms, [(one.name, _uses(store, one)) for one in list_models(conn) if not one.base])


def of_model(conn: sa.Connection, store: Store, model: Model) -> list[tuple[PlanVersion, list[Gap]]]:
    """Each plan on sale that includes a model and has no price for something of it. A plan without prices sells its fee:
    it says so when it is shown."""
    uses: Sequence[tuple[str, Sequence[Use]]] = [(model.name, _uses(store, model))]
    found = [(plan, unpriced.gaps(plan.terms, uses)) for plan in catalog.list_plans(conn) if plan.terms.charges]
    return [(plan, gaps) for plan, gaps in found if gaps]


class Warnings(msgspec.Struct, frozen=True):
    """What whoever offers a model should know before a buyer finds out: `gaps` by plan, and whether any plan takes it in."""

    gaps: list[tuple[PlanVersion, list[Gap]]]
    in_a_plan: bool

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each meter that a plan has no price for, and one for a model that no plan includes."""
        found = [
            {"plan": plan.plan_name, **msgspec.to_builtins(gap)} for plan, missing in self.gaps for gap in missing
        ]
        return found if self.in_a_plan else [{"plan": None, "meter": "*", "outcome": "refused"}, *found]


def warnings(conn: sa.Connection, store: Store, model: Model) -> Warnings:
    """Of a model that is, or is about to be, on offer."""
    included = any(unpriced.sells(plan.terms, model.base or model.name) for plan in catalog.list_plans(conn))
    return Warnings(of_model(conn, store, model), included)


def require_price(store: Store, plan: PlanVersion, model: Model, tier: str = "") -> None:
    """Raises the refusal that each call of a model would get on a plan, before any is made."""
    use = _TOKENS if model.base else _uses(store, model)[0]
    sold_as = catalog.sold_as(model.name, tier)
    if unpriced.refuses(plan.terms, sold_as, use):
        raise unpriced.refusal(plan, sold_as)


def meters(store: Store, model: Model) -> tuple[str, ...]:
    """What the calls of a model may be charged by; the first is what it is compared with others by."""
    own = _TOKENS if model.base else tuple(meter for use in _uses(store, model) for meter in use)
    if "output_tokens" in own:
        own = ("output_tokens", "input_tokens", "cached_tokens", *(one for one in own if one not in _TOKENS))
    return own


def _uses(store: Store, model: Model) -> tuple[Use, ...]:
    """The meters of its calls. What cannot be read on the shelf is taken for a model of texts."""
    if model.engine not in ROWS or model.kind in OF_KIND:
        return uses_of(model)
    try:
        return uses_of(model, store.get(model.package_name, model.version).manifest.input)
    except TollwayError:
        return uses_of(model)
