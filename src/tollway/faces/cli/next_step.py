"""Next steps that name what is there: a command to paste as it stands, never one with a word to fill in."""

from tollway.faces.cli.desk import Desk, quoted
from tollway.flows import workshop
from tollway.sell import accounts, catalog


def subscribe(desk: Desk, plan: str) -> tuple[str, str]:
    """An organization on a plan: the only one there is; the list of them; the first of them."""
    names = _organizations(desk)
    if len(names) == 1:
        return f"tollway subscription start {quoted(names[0])} {plan}", f"puts {names[0]} on these prices"
    if names:
        return "tollway org list", f"then put one of them on {plan}: tollway subscription start"
    return "tollway org create first-buyer", f"then put it on {plan}: tollway subscription start"


def plan_for(desk: Desk, organization: str) -> tuple[str, str]:
    """A plan for an organization, in the same way."""
    with desk.shop.db.read() as conn:
        plans = [one.plan_name for one in catalog.list_plans(conn)]
    if len(plans) == 1:
        return f"tollway subscription start {quoted(organization)} {plans[0]}", "then: tollway key create"
    if plans:
        return "tollway plan list", f"then put {organization} on one of them: tollway subscription start"
    return "tollway plan create starter --price output_tokens=2", f"what {organization} can be put on"


def issue_key(desk: Desk) -> tuple[str, str]:
    """A key for an organization, in the same way."""
    names = _organizations(desk)
    if len(names) == 1:
        return f"tollway key create {quoted(names[0])}", ""
    return ("tollway org list", "then: tollway key create") if names else ("tollway org create first-buyer", "")


def draft_recipe(desk: Desk) -> tuple[str, str]:
    """A recipe for the newest dataset; without one, where data comes from."""
    versions = workshop.datasets(desk.home, desk.shop.clock).list()
    if not versions:
        return "tollway dataset sample", "data to try with; your own: tollway dataset import"
    newest = max(versions, key=lambda one: str(one.about["created"]))
    return f"tollway recipe new my-{newest.name} --dataset {newest.name}", ""


def _organizations(desk: Desk) -> list[str]:
    with desk.shop.db.read() as conn:
        return [one.name for one in accounts.list_organizations(conn)]
