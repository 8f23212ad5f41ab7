"""What each version of a model was sold for and how its answers were rated, since a moment: for judging a rollout."""

from collections import defaultdict

import msgspec
import sqlalchemy as sa

from tollway.sell import catalog
from tollway.sell import tables as sold


class Sold(msgspec.Struct):
    """One version's calls in the books. The price counts calls in the asked currency only."""

    calls: int = 0
    engine_us: int = 0
    price_picos: int = 0
    rated: int = 0
    bad: int = 0


def since(conn: sa.Connection, model: str, from_ms: int, currency: str) -> dict[str, Sold]:
    """By version. Calls in other currencies than the machine's are left out: no rate of exchange is assumed."""
    found: dict[str, Sold] = defaultdict(Sold)
    event = sold.usage_event.c
    query = (
        sa.select(
            event.model_version, event.plan_version_id, sa.func.count().label("calls"),
            sa.func.sum(event.prefill_us + event.decode_us).label("engine_us"),
            sa.func.sum(event.price_picos).label("price_picos"),
        )
        .where(event.at_ms >= from_ms, event.model == model)
        .group_by(event.model_version, event.plan_version_id)
    )  # fmt: skip
    plans = catalog.plan_versions(conn)
    for row in conn.execute(query):
        plan = plans.get(row.plan_version_id)
        if plan is not None and plan.terms.currency == currency:
            one = found[row.model_version]
            one.calls += int(row.calls)
            one.engine_us += int(row.engine_us)
            one.price_picos += int(row.price_picos)
    said = sold.feedback.c
    words = (
        sa.select(said.model_version, said.rating, sa.func.count().label("words"))
        .where(said.model == model, said.created_ms >= from_ms, said.rating != 0)
        .group_by(said.model_version, said.rating)
    )
    for row in conn.execute(words):
        found[row.model_version].rated += int(row.words)
        found[row.model_version].bad += int(row.words) if row.rating < 0 else 0
    return dict(found)
