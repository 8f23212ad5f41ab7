"""What plans have no price for, said where it can still be changed: on stderr, each with the command that prices it."""

from collections.abc import Sequence

from tollway.faces.cli.desk import Desk, quoted
from tollway.flows import unpriced
from tollway.sell.catalog import PlanVersion
from tollway.sell.unpriced import Gap
from tollway.serve.models import Model

_SHOWN_MOST = 12


def of_plan(desk: Desk, plan: PlanVersion) -> list[Gap]:
    """What a plan has no price for."""
    with desk.shop.db.read() as conn:
        return unpriced.of_plan(conn, desk.shop.store, plan.terms)


def of_model(desk: Desk, model: Model) -> list[tuple[PlanVersion, list[Gap]]]:
    """Which plans on sale have no price for something of a model."""
    with desk.shop.db.read() as conn:
        return unpriced.of_model(conn, desk.shop.store, model)


def warn_of_model(desk: Desk, model: Model) -> list[tuple[PlanVersion, list[Gap]]]:
    """The same, for a model that was just offered."""
    missing = of_model(desk, model)
    for plan, gaps in missing:
        warn(desk, plan, gaps)
    return missing


def warn(desk: Desk, plan: PlanVersion, gaps: Sequence[Gap]) -> None:
    """Name each meter without a price, what comes of that, and what to type."""
    name = plan.plan_name
    if gaps and gaps[0].meter == "*":
        desk.say(f"Note: {name} prices nothing: its fee pays every call. A price: tollway price set {name} METER PRICE")
        return
    for gap in gaps[:_SHOWN_MOST]:
        what = f"{gap.model}: {gap.meter.replace('_', ' ')}"
        outcome = "no price, refused" if gap.outcome == "refused" else "no price, FREE"
        desk.say(f"Warning: {name}: {what}: {outcome}. Price it: {price_command(name, gap)}")
    if len(gaps) > _SHOWN_MOST:
        desk.say(f"… and {len(gaps) - _SHOWN_MOST} more: tollway plan show {name} --json, under unpriced.")
    if gaps:
        desk.say("A price of 0 says that it is meant to be free.")


def price_command(plan: str, gap: Gap) -> str:
    """What to type."""
    return f"tollway price set {plan} {gap.meter} PRICE --model {quoted(gap.model)}"
