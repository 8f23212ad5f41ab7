"""What plans have no price for, among the models on offer: for whoever deploys a model or writes a plan."""

from collections.abc import Sequence

import sqlalchemy as sa

from tollway.artifacts.store import Store
from tollway.kit.errors import TollwayError
from tollway.kit.formats import ROWS
from tollway.sell import catalog, unpriced
from tollway.sell.catalog import PlanVersion, Terms
from tollway.sell.unpriced import Gap
from tollway.serve.meters import OF_KIND, Use, uses_of
from tollway.serve.models import Model, list_models


def of_plan(conn: sa.Connection, store: Store, terms: Terms) -> list[Gap]:
    """What these terms have no price for."""
    return unpriced.gaps(terms, [(one.name, _uses(store, one)) for one in list_models(conn) if not one.base])


def of_model(conn: sa.Connection, store: Store, model: Model) -> list[tuple[PlanVersion, list[Gap]]]:
    """Each plan on sale that includes a model and has no price for something of it. A plan without prices sells its fee:
    it says so when it is shown."""
    uses: Sequence[tuple[str, Sequence[Use]]] = [(model.name, _uses(store, model))]
    found = [(plan, unpriced.gaps(plan.terms, uses)) for plan in catalog.list_plans(conn) if plan.terms.charges]
    return [(plan, gaps) for plan, gaps in found if gaps]


def _uses(store: Store, model: Model) -> tuple[Use, ...]:
    """The meters of its calls. What cannot be read on the shelf is taken for a model of texts."""
    if model.engine not in ROWS or model.kind in OF_KIND:
        return uses_of(model)
    try:
        return uses_of(model, store.get(model.package_name, model.version).manifest.input)
    except TollwayError:
        return uses_of(model)
