"""What is sold: plans, their immutable versions, and who is subscribed to which. For the console, the CLI, the flows.

A change of terms is a new version; subscriptions stay on the version they began with until they are moved. An
organization has at most one running subscription. Terms are checked as a whole: all problems are reported at once.
"""

import re
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.kit.ids import new_id
from tollway.kit.money import EXPONENTS
from tollway.kit.said import say
from tollway.sell import revision, tables

# an event has at most one of these, besides its tokens
COUNTED = ("images", "rows", "explanations", "audio_seconds", "characters", "training_tokens")
METERS = ("input_tokens", "cached_tokens", "output_tokens", "requests", *COUNTED)
Meter = Literal[
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "requests",
    "images",
    "rows",
    "explanations",
    "audio_seconds",
    "characters",
    "training_tokens",
]
# people name the price of one of these, or of a thousand
PRICED_SINGLY = ("requests", "images", "rows", "explanations", "audio_seconds", "characters")
BATCH: Literal["batch"] = "batch"  # the tier of calls that fill idle time; every other call's is ""
_NAME = r"[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?"
_MOST = 10**15  # a price or fee beyond a billion is a slip of the keyboard
_MOST_UNITS = 10**15


class Charge(msgspec.Struct, frozen=True, cache_hash=True, forbid_unknown_fields=True, kw_only=True):
    """The price of one meter: `price_micros` per 1,000,000 units after `included` free units a month.

    `model` is an exact model name or "*" for every model without a charge of its own. A fine-tuned model without a
    charge of its own costs what its base does.
    """

    meter: Meter
    model: str = "*"
    price_micros: int
    included: int = 0


class UsageLimits(msgspec.Struct, frozen=True, cache_hash=True, forbid_unknown_fields=True, kw_only=True):
    """What one organization may take at most; None means no limit."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    monthly_tokens: int | None = None


class Terms(msgspec.Struct, frozen=True, cache_hash=True, forbid_unknown_fields=True, kw_only=True):
    """All that a plan version promises. Hash and equality are by content, and the hash is kept: rating caches by it.

    `overage` says what pays for usage beyond the included units: the prepaid wallet, the invoice, or nothing (refuse).
    `aborted` says whether a call that the client left is billed for what was generated. `batch_percent` is what a batch
    pays of each price; included units are for other calls. `weight` is an organization's share of a model that is in demand,
    against others'; `priority` puts its calls before the standard ones; `timeout_ms` is how long its calls may take unless
    they say so themselves (0: as long as the shop allows). `unpriced` is for calls that none of the charges covers; a version
    that was sold before this was a term gave them away, and still does (`parse_terms` refuses them unless told otherwise).
    """

    currency: str = "USD"
    flat_fee_micros: int = 0
    overage: Literal["wallet", "invoice", "refuse"] = "wallet"
    charges: tuple[Charge, ...] = ()
    limits: UsageLimits = UsageLimits()
    models: tuple[str, ...] = ("*",)
    aborted: Literal["bill", "free"] = "bill"
    batch_percent: int = 50
    weight: int = 1
    priority: Literal["standard", "priority"] = "standard"
    timeout_ms: int = 0
    unpriced: Literal["refuse", "free"] = "free"

    def check(self) -> list[str]:
        """Everything that is wrong with these terms, in words; empty when nothing is."""
        problems: list[str] = []
        if self.currency not in EXPONENTS:
            these = ", ".join(EXPONENTS)
            problems.append(say("terms.currency", "currency {text} is not one of {these}", text=repr(self.currency), these=these))
        if not 0 <= self.flat_fee_micros <= _MOST:
            problems.append(_out_of_range("flat_fee_micros", self.flat_fee_micros, 0, _MOST))
        if not 0 <= self.batch_percent <= 100:
            problems.append(_out_of_range("batch_percent", self.batch_percent, 0, 100))
        if not 1 <= self.weight <= 1000:
            problems.append(_out_of_range("weight", self.weight, 1, 1000))
        if not 0 <= self.timeout_ms <= _MOST:
            problems.append(_out_of_range("timeout_ms", self.timeout_ms, 0, _MOST))
        seen: set[tuple[str, str]] = set()
        for place, charge in enumerate(self.charges, start=1):
            problems += [
                say("terms.charge", "charge {place} ({meter}, {model}): {failure}", place=place, meter=charge.meter,
                    model=charge.model, failure=problem)
                for problem in _check_charge(charge, seen)
            ]  # fmt: skip
        problems += [
            say("terms.limit", "limit {name} must be at least 1, or absent for no limit", name=name)
            for name, value in msgspec.structs.asdict(self.limits).items()
            if value is not None and value < 1
        ]
        if not self.models or any(not name.strip() for name in self.models):
            problems.append(say("terms.models", 'models must name at least one model, or be ["*"] for all'))
        return problems


def sold_as(model: str, tier: str) -> str:
    """What rating knows a call by: its model, and how it was called."""
    return f"{model}#{tier}" if tier else model


def tier_of(sold: str) -> tuple[str, str]:
    """The model and the tier of what `sold_as` gave."""
    return (sold.removesuffix("#batch"), BATCH) if sold.endswith("#batch") else (sold, "")


def base_of(model: str) -> str:
    """The model that a fine-tuned one (`ft:BASE:…`) was made of; any other is its own."""
    return model.split(":", 2)[1] if model.startswith("ft:") and model.count(":") > 1 else model


class PlanVersion(msgspec.Struct, frozen=True):
    """One version of a plan, as sold."""

    id: str
    plan_id: str
    plan_name: str
    title: str
    version: int
    terms: Terms
    created_ms: int
    archived_ms: int | None = None


class Subscription(msgspec.Struct, frozen=True):
    """An organization on a plan version, from `started_ms` until `ended_ms` (None: still running)."""

    id: str
    org_id: str
    plan_version_id: str
    started_ms: int
    ended_ms: int | None


def parse_terms(given: Any) -> Terms:
    """Terms from plain data (a parsed JSON or TOML document), checked. What has no price is refused unless they say that it
    is free. Raises BadRequest with every problem."""
    try:
        terms = msgspec.convert({"unpriced": "refuse"} | given if isinstance(given, dict) else given, Terms)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"These terms cannot be read: {error}.", code="invalid_terms", hint="Amounts are whole micros."
        ) from error
    _require_sound(terms)
    return terms


def create_plan(conn: sa.Connection, now_ms: int, name: str, title: str, terms: Terms) -> PlanVersion:
    """A new plan with version 1. `name` is its slug ("starter"), unique for ever."""
    if not re.fullmatch(_NAME, name):
        raise BadRequest(
            say("plan.name", "{name!r} cannot be the name of a plan.", name=name),
            param="name",
            hint=say("plan.name_rule", "Use 1 to 60 small letters, digits and hyphens."),
        )
    _require_sound(terms)
    if conn.execute(sa.select(tables.plan.c.id).where(tables.plan.c.name == name)).first():
        raise Conflict(
            say("plan.exists", "There is already a plan {name!r}.", name=name),
            hint=say("plan.revise", "A change of terms is a new version of it: revise the plan."),
        )
    plan_id = new_id("plan", now_ms)
    conn.execute(tables.plan.insert().values(id=plan_id, name=name, title=title.strip() or name, created_ms=now_ms))
    return _add_version(conn, now_ms, plan_id, 1, terms)


def revise_plan(conn: sa.Connection, now_ms: int, name: str, terms: Terms) -> PlanVersion:
    """The next version of a plan. Running subscriptions stay on theirs. The same terms again change nothing."""
    _require_sound(terms)
    row = conn.execute(sa.select(tables.plan).where(tables.plan.c.name == name).with_for_update()).first()
    if row is None:
        raise _no_plan(name)
    if row.archived_ms is not None:
        raise Conflict(
            say("plan.archived", "The plan {name!r} is archived.", name=name),
            hint=say("plan.other_name", "Create a plan with another name."),
        )
    newest = get_plan(conn, name)
    if newest.terms == terms:
        return newest
    if newest.terms.currency != terms.currency:
        raise BadRequest(
            say(
                "plan.currency",
                "The plan {name!r} is sold in {currency}; its currency cannot change.",
                name=name,
                currency=newest.terms.currency,
            ),
            param="currency",
            hint=say("plan.other_currency", "Create another plan for another currency."),
        )
    return _add_version(conn, now_ms, row.id, newest.version + 1, terms)


def list_plans(conn: sa.Connection, *, archived: bool = False) -> list[PlanVersion]:
    """The newest version of each plan on offer (with `archived`, also of those no longer sold), oldest plan first."""
    newest: dict[str, PlanVersion] = {}
    for version in _versions(conn):
        if archived or version.archived_ms is None:
            newest[version.plan_id] = version
    return sorted(newest.values(), key=lambda version: version.plan_id)


def get_plan(conn: sa.Connection, name: str, version: int | None = None) -> PlanVersion:
    """One version of a plan, the newest unless told otherwise. Raises NotFound."""
    found = [one for one in _versions(conn, tables.plan.c.name == name) if version in (None, one.version)]
    if not found:
        raise _no_plan(name, version)
    return found[-1]


def get_plan_version(conn: sa.Connection, plan_version_id: str) -> PlanVersion:
    """A plan version by its id. Raises NotFound."""
    found = _versions(conn, tables.plan_version.c.id == plan_version_id)
    if not found:
        raise NotFound(
            say("plan.no_version", "There is no plan version {name!r}.", name=plan_version_id), code="plan_not_found"
        )
    return found[0]


def plan_versions(conn: sa.Connection) -> dict[str, PlanVersion]:
    """Every version of every plan, by id: what old events and subscriptions still need."""
    return {version.id: version for version in _versions(conn)}


def archive_plan(conn: sa.Connection, now_ms: int, name: str) -> None:
    """Take a plan off the shelf. Running subscriptions go on; nobody new can subscribe."""
    plan = tables.plan
    done = conn.execute(
        plan.update().where(plan.c.name == name, plan.c.archived_ms.is_(None)).values(archived_ms=now_ms)
    )
    if done.rowcount == 0:
        get_plan(conn, name)  # archived already: nothing to do; unknown: says so
    revision.touch(conn)


def subscribe(conn: sa.Connection, now_ms: int, org_id: str, plan_version_id: str) -> Subscription:
    """Put an organization on a plan version, ending what it had. On the same version already: nothing changes."""
    organization = tables.organization
    locked = sa.select(organization.c.id).where(organization.c.id == org_id).with_for_update()
    if conn.execute(locked).first() is None:
        raise NotFound(
            say("org.unknown", "There is no organization {name!r}.", name=org_id), code="organization_not_found"
        )
    version = get_plan_version(conn, plan_version_id)
    running = running_subscription(conn, org_id)
    if running is not None and running.plan_version_id == plan_version_id:
        return running
    if version.archived_ms is not None:
        raise Conflict(
            say("plan.no_longer", "The plan {name!r} is no longer sold.", name=version.plan_name),
            hint=say("plan.choose", "Choose another plan."),
        )
    if running is not None:
        _end(conn, now_ms, running)
    fresh = Subscription(new_id("sub", now_ms), org_id, plan_version_id, now_ms, None)
    conn.execute(tables.subscription.insert().values(**msgspec.structs.asdict(fresh)))
    revision.touch(conn)
    return fresh


def cancel(conn: sa.Connection, now_ms: int, org_id: str) -> Subscription:
    """End the running subscription of an organization now. Raises Conflict when there is none."""
    running = running_subscription(conn, org_id)
    if running is None:
        raise Conflict(
            say("plan.not_subscribed", "This organization has no running subscription."),
            hint=say("plan.subscribe", "Subscribe it to a plan first."),
        )
    ended = _end(conn, now_ms, running)
    revision.touch(conn)
    return ended


def running_subscription(conn: sa.Connection, org_id: str) -> Subscription | None:
    """What the organization is subscribed to now, or None."""
    columns = tables.subscription.c
    row = conn.execute(
        sa.select(tables.subscription).where(columns.org_id == org_id, columns.ended_ms.is_(None))
    ).first()
    return None if row is None else Subscription(**row._mapping)


def running_plan(conn: sa.Connection, org_id: str) -> PlanVersion | None:
    """The plan version the organization is on now, or None."""
    running = running_subscription(conn, org_id)
    return None if running is None else get_plan_version(conn, running.plan_version_id)


def currency_of(conn: sa.Connection, org_id: str, default: str) -> str:
    """What the organization deals in: the currency of its plan; `default` while it is on none."""
    plan = running_plan(conn, org_id)
    return default if plan is None else plan.terms.currency


def get_subscription(conn: sa.Connection, subscription_id: str) -> Subscription:
    """A subscription, running or ended. Raises NotFound."""
    row = conn.execute(sa.select(tables.subscription).where(tables.subscription.c.id == subscription_id)).first()
    if row is None:
        raise NotFound(f"There is no subscription {subscription_id!r}.", code="subscription_not_found")
    return Subscription(**row._mapping)


def list_subscriptions(conn: sa.Connection, org_id: str | None = None) -> list[Subscription]:
    """All subscriptions (of one organization), running and ended, oldest first."""
    query = sa.select(tables.subscription).order_by(tables.subscription.c.started_ms, tables.subscription.c.id)
    if org_id is not None:
        query = query.where(tables.subscription.c.org_id == org_id)
    return [Subscription(**row._mapping) for row in conn.execute(query)]


def _check_charge(charge: Charge, seen: set[tuple[str, str]]) -> list[str]:
    problems: list[str] = []
    if not 0 <= charge.price_micros <= _MOST:
        problems.append(_out_of_range("price_micros", charge.price_micros, 0, _MOST))
    if not 0 <= charge.included <= _MOST_UNITS:
        problems.append(_out_of_range("included", charge.included, 0, _MOST_UNITS))
    if not charge.model.strip():
        problems.append(say("terms.no_model", 'model is empty; "*" means every model'))
    if (charge.meter, charge.model) in seen:
        problems.append(say("terms.twice", "stands there twice"))
    seen.add((charge.meter, charge.model))
    return problems


def _out_of_range(name: str, value: int, least: int, most: int) -> str:
    return say("terms.range", "{name} {value} is not between {least} and {most}", name=name, value=str(value),
               least=str(least), most=str(most))  # fmt: skip


def _require_sound(terms: Terms) -> None:
    problems = terms.check()
    if problems:
        raise BadRequest(
            say("plan.terms", "These terms cannot be sold: {problems}.", problems=problems), code="invalid_terms"
        )


def _add_version(conn: sa.Connection, now_ms: int, plan_id: str, number: int, terms: Terms) -> PlanVersion:
    version_id = new_id("pv", now_ms)
    conn.execute(
        tables.plan_version.insert().values(
            id=version_id, plan_id=plan_id, version=number, terms=msgspec.to_builtins(terms), created_ms=now_ms
        )
    )
    revision.touch(conn)
    return get_plan_version(conn, version_id)


def _versions(conn: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[PlanVersion]:
    """Plan versions with their plan's name, oldest version of each plan first."""
    version, plan = tables.plan_version, tables.plan
    query = (
        sa.select(version, plan.c.name.label("plan_name"), plan.c.title, plan.c.archived_ms)
        .join(plan, plan.c.id == version.c.plan_id)
        .where(*conditions)
        .order_by(plan.c.id, version.c.version)
    )
    return [
        PlanVersion(
            id=row.id,
            plan_id=row.plan_id,
            plan_name=row.plan_name,
            title=row.title,
            version=row.version,
            terms=msgspec.convert(row.terms, Terms),
            created_ms=row.created_ms,
            archived_ms=row.archived_ms,
        )
        for row in conn.execute(query)
    ]


def _end(conn: sa.Connection, now_ms: int, running: Subscription) -> Subscription:
    subscription = tables.subscription
    conn.execute(subscription.update().where(subscription.c.id == running.id).values(ended_ms=now_ms))
    return msgspec.structs.replace(running, ended_ms=now_ms)


def _no_plan(name: str, version: int | None = None) -> NotFound:
    which = say("plan.unknown", "There is no plan {name!r}.", name=name)
    if version is not None:
        which = say(
            "plan.unknown_version", "There is no plan {name!r} version {version}.", name=name, version=str(version)
        )
    return NotFound(which, code="plan_not_found", hint=say("plan.list", "`tollway plan list` shows what there is."))
