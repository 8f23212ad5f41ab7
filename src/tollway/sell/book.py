"""What the database says of keys, plans, wallets and this month's use, in one consistent reading, for `Access`."""

import msgspec
import sqlalchemy as sa

from tollway.kit.clock import month_of
from tollway.sell import catalog, ledger, rating, revision, tables
from tollway.sell.api_keys import ApiKey, as_key


class Book(msgspec.Struct):
    """A consistent reading of the database: everything `Access` needs to know. Read on the recorder's thread."""

    revision: int
    month: str
    keys: dict[str, ApiKey]  # by digest
    accounts: dict[
        str, tuple[str, bool, str, catalog.PlanVersion | None, int]
    ]  # name, suspended, subscription, plan, wallet
    usage: dict[
        str, tuple[dict[str, dict[str, int]], int]
    ]  # org -> (model as sold -> meter -> units), all tokens; of the running plan


def read_book(conn: sa.Connection, now_ms: int) -> Book:
    """One consistent reading of keys, plans, subscriptions, wallets and this month's use."""
    plans = catalog.plan_versions(conn)
    running = {
        row.org_id: row
        for row in conn.execute(sa.select(tables.subscription).where(tables.subscription.c.ended_ms.is_(None)))
    }
    accounts, wallets = {}, ledger.wallet_picos(conn)
    for org in conn.execute(sa.select(tables.organization)):
        sub = running.get(org.id)
        plan = plans[sub.plan_version_id] if sub else None
        wallet = wallets.get((org.id, plan.terms.currency), 0) if plan else 0
        accounts[org.id] = (org.name, org.suspended_ms is not None, sub.id if sub else "", plan, wallet)
    by_digest = {row.digest: as_key(row) for row in conn.execute(sa.select(tables.api_key))}
    month = month_of(now_ms)
    used = _usage_of_month(conn, month, {org_id: row.plan_version_id for org_id, row in running.items()})
    return Book(revision.current(conn), month, by_digest, accounts, used)


def used_this_month(
    conn: sa.Connection, month: str, org_id: str, plan: catalog.PlanVersion
) -> tuple[dict[int, int], int]:
    """What one organization used of a plan version in a month: units per charge, and tokens in all."""
    return used_units(plan, *_usage_of_month(conn, month, {org_id: plan.id}, org_id).get(org_id, ({}, 0)))


def _usage_of_month(
    conn: sa.Connection, month: str, running: dict[str, str], org_id: str | None = None
) -> dict[str, tuple[dict[str, dict[str, int]], int]]:
    """What each organization used this month under its running plan version, per model and meter."""
    daily = tables.usage_daily.c
    names = ("requests", "input_tokens", "cached_tokens", "output_tokens")
    summed = [sa.func.sum(daily[name]).label(name) for name in (*names, "units")]
    place = (daily.org_id, daily.plan_version_id, daily.model, daily.tier, daily.meter)
    query = sa.select(*place, *summed).where(daily.day.startswith(month)).group_by(*place)
    if org_id is not None:
        query = query.where(daily.org_id == org_id)
    found: dict[str, tuple[dict[str, dict[str, int]], int]] = {}
    for row in conn.execute(query):
        if running.get(row.org_id) != row.plan_version_id:
            continue
        models, tokens = found.setdefault(row.org_id, ({}, 0))
        meters = models.setdefault(catalog.sold_as(row.model, row.tier), dict.fromkeys(names, 0))
        for name in names:
            meters[name] += int(row._mapping[name])
        if row.meter:
            meters[row.meter] = meters.get(row.meter, 0) + int(row.units)
        tokens += sum(int(row._mapping[name]) for name in names[1:])
        found[row.org_id] = (models, tokens)
    return found


def used_units(
    plan: catalog.PlanVersion | None, models: dict[str, dict[str, int]], tokens: int
) -> tuple[dict[int, int], int]:
    """Units used per charge of the plan, and tokens in all."""
    units: dict[int, int] = {}
    for model, meters in models.items():
        for meter, amount in meters.items():
            found = rating.charge_for(plan.terms, meter, model) if plan else None
            if found is not None:
                units[found[0]] = units.get(found[0], 0) + amount
    return units, tokens
