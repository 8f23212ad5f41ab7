"""A shop with sixty days of history, always the same: five organizations, two models, three plans, invoices, wallets.

For the browser tests and the screenshots. Accounts, plans, keys, money and invoices are made by the rooms' own functions
on a clock that is moved along; usage events are drawn from a seeded generator and written in bulk, rated as they would be.
"""

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tollway.artifacts.signing import Signer
from tollway.artifacts.store import Store
from tollway.flows import month_end
from tollway.kit.clock import day_of, month_bounds_ms, month_of
from tollway.kit.db import Database, metadata
from tollway.kit.ids import new_id
from tollway.kit.settings import Settings
from tollway.sell import accounts, api_keys, billing, catalog, ledger, rating
from tollway.sell import tables as sell
from tollway.serve import tables as serve

NOW_MS = 1_795_358_040_000  # 22 November 2026, 14:34 UTC
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
PASSWORD = "a-good-password"
OPERATOR = "operator@tollway.test"
BUYER = "ada@northwind.test"
CHAT, EMBEDDING = "smollm2-135m-instruct", "all-minilm-l6-v2"
CHAT_VERSION, EMBEDDING_VERSION = "2026.11.1", "2026.10.2"


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, now_ms: int) -> None:
        self.at_ms = now_ms
        self.ticks = 0.0

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic(self) -> float:
        return self.ticks


@dataclass
class Secrets:
    """What the console needs of the house's secrets."""

    pepper: bytes = b"pepper for tests, 32 bytes long."


class SeededShop:
    """The parts of a shop that the console uses, without a gateway."""

    def __init__(self, db: Database, clock: Clock, settings: Settings) -> None:
        self.db, self.clock, self.settings, self.secrets = db, clock, settings, Secrets()
        self.store = Store(settings.home / "packages", Signer(b"seed of tests, thirty-two bytes."), clock)

    def live(self) -> dict[str, Any]:
        chat = {
            "model": CHAT,
            "version": CHAT_VERSION,
            "number": 1,
            "state": "ready",
            "busy": 3,
            "slots": 8,
            "pid": 4121,
            "restarts": 0,
            "rss_bytes": 412_000_000,
        }
        embedding = chat | {
            "model": EMBEDDING,
            "version": EMBEDDING_VERSION,
            "busy": 0,
            "pid": 4122,
            "rss_bytes": 96_000_000,
        }
        return {"in_flight": 3, "queued": 0, "errors": 0, "refused": 4, "replicas": [chat, embedding]}

    def describe_model(self, name: str, version: str) -> Any:
        from types import SimpleNamespace

        chat = name == CHAT
        return SimpleNamespace(
            digest="sha256:" + ("7c1e" if chat else "d04b") * 16,
            licence="Apache-2.0",
            signed_by="house",
            parameters=134_515_008 if chat else 22_713_216,
            context_tokens=2048 if chat else 512,
            files=[SimpleNamespace(size_bytes=91_700_000 if chat else 23_000_000)],
        )


def charge(meter: str, dollars: str, included: int = 0, model: str = "*") -> catalog.Charge:
    from tollway.kit.money import parse_micros

    return catalog.Charge(meter=meter, model=model, price_micros=parse_micros(dollars), included=included)


def plans() -> list[tuple[str, str, catalog.Terms]]:
    limits = catalog.UsageLimits(rpm=60, tpm=40_000, concurrency=4)
    starter = catalog.Terms(
        charges=(
            charge("input_tokens", "18", 20_000),
            charge("cached_tokens", "4"),
            charge("output_tokens", "54", 5_000),
        ),
        limits=limits,
    )
    team = catalog.Terms(
        flat_fee_micros=49_000_000,
        overage="invoice",
        limits=catalog.UsageLimits(rpm=600, tpm=400_000, concurrency=16),
        charges=(
            charge("input_tokens", "15", 100_000),
            charge("cached_tokens", "3"),
            charge("output_tokens", "45", 100_000),
            charge("input_tokens", "2", 0, EMBEDDING),
        ),
    )
    scale = catalog.Terms(
        flat_fee_micros=490_000_000,
        overage="invoice",
        charges=(charge("input_tokens", "10"), charge("cached_tokens", "2"), charge("output_tokens", "30")),
    )
    return [("starter", "Starter", starter), ("team", "Team", team), ("scale", "Scale", scale)]


ORGANIZATIONS = (  # name, plan, calls a day at first, growth over the sixty days, days on board
    ("Northwind Analytics", "team", 250, 1.9, 60),
    ("Lotus Translation 莲花翻译", "scale", 340, 1.4, 60),
    ("Blue Harbor Support", "starter", 105, 1.3, 52),
    ("Quarry Search", "team", 140, 2.4, 41),
    ("Tidepool Labs", "starter", 44, 1.2, 19),
)


def seed(home: Path, url: str = "", share: float = 1.0) -> SeededShop:
    """Build it, in a few seconds; with a `share` of the calls in less."""
    home.mkdir(parents=True, exist_ok=True)
    settings = Settings(home, flags={"database_url": url or None, "machine_price_per_hour": "0.116"}, environment={})
    db = Database(settings.url_of_database)
    with db.write() as conn:
        metadata.create_all(conn)
    clock = Clock(NOW_MS - 61 * DAY_MS)
    shop = SeededShop(db, clock, settings)
    draw = random.Random(20261122)
    with db.write() as conn:
        _models(conn, clock)
        versions = {
            name: catalog.create_plan(conn, clock.now_ms(), name, title, terms) for name, title, terms in plans()
        }
        accounts.create_member(conn, clock.now_ms(), OPERATOR, PASSWORD, "operator")
        buyers = [
            _buyer(conn, clock, shop, versions, name, plan, calls * share, *rest)
            for name, plan, calls, *rest in ORGANIZATIONS
        ]
        clock.at_ms = NOW_MS - 20 * DAY_MS
        dearer = [
            charge("input_tokens", "20", 20_000),
            charge("cached_tokens", "4"),
            charge("output_tokens", "54", 5_000),
        ]
        catalog.revise_plan(
            conn,
            clock.now_ms(),
            "starter",
            catalog.Terms(charges=tuple(dearer), limits=catalog.UsageLimits(rpm=60, tpm=60_000, concurrency=4)),
        )
        events = sorted((event for buyer in buyers for event in _events(draw, buyer)), key=lambda event: event["at_ms"])
        _rate(events, {buyer["subscription"].id: buyer["terms"] for buyer in buyers})
        _write(conn, events)
        _wallets(conn, events, buyers)
        _replica_hours(conn, events)
    clock.at_ms = NOW_MS
    _invoices(shop)
    return shop


def _models(conn: sa.Connection, clock: Clock) -> None:
    rows = (
        {
            "name": CHAT,
            "kind": "chat",
            "title": "SmolLM2 135M Instruct",
            "engine": "llama_cpp",
            "version": CHAT_VERSION,
        },
        {
            "name": EMBEDDING,
            "kind": "embedding",
            "title": "all-MiniLM-L6-v2",
            "engine": "llama_cpp",
            "version": EMBEDDING_VERSION,
        },
    )
    for row in rows:
        conn.execute(serve.model.insert().values(**row, created_ms=clock.now_ms()))


def _buyer(
    conn: sa.Connection,
    clock: Clock,
    shop: SeededShop,
    versions: Any,
    name: str,
    plan: str,
    calls: float,
    growth: float,
    days: int,
) -> dict[str, Any]:
    clock.at_ms = NOW_MS - days * DAY_MS
    slug = name.split()[0].lower()
    org = accounts.create_organization(conn, clock.now_ms(), name, f"billing@{slug}.test")
    subscription = catalog.subscribe(conn, clock.now_ms(), org.id, versions[plan].id)
    keys = [
        api_keys.issue_key(conn, clock.now_ms(), shop.secrets.pepper, org.id, label).id
        for label in ("production", "staging")
    ]
    if slug == "northwind":
        accounts.create_member(conn, clock.now_ms(), BUYER, PASSWORD, "owner", org.id)
        old = api_keys.issue_key(conn, clock.now_ms(), shop.secrets.pepper, org.id, "notebook", rpm=30, models=[CHAT])
        api_keys.revoke_key(conn, clock.now_ms() + 9 * DAY_MS, old.id)
    return {
        "org": org,
        "subscription": subscription,
        "terms": versions[plan].terms,
        "keys": keys,
        "calls": calls,
        "growth": growth,
        "days": days,
    }


def _events(draw: random.Random, buyer: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for day in range(buyer["days"], -1, -1):
        start_ms = NOW_MS - NOW_MS % DAY_MS - day * DAY_MS
        weekend = (start_ms // DAY_MS + 4) % 7 in (0, 6)
        wanted = (
            buyer["calls"]
            * (1 + (buyer["growth"] - 1) * (1 - day / 60))
            * (0.45 if weekend else 1)
            * draw.uniform(0.85, 1.15)
        )
        for _ in range(int(wanted)):
            at_ms = start_ms + _hour_of_day(draw)
            if at_ms < NOW_MS:
                found.append(_event(draw, buyer, at_ms))
    return found


def _hour_of_day(draw: random.Random) -> int:
    while True:
        moment = draw.random()
        if draw.random() < 0.25 + 0.75 * math.sin(math.pi * moment) ** 2:
            return int(moment * DAY_MS)


def _event(draw: random.Random, buyer: dict[str, Any], at_ms: int) -> dict[str, Any]:
    chat = draw.random() < 0.82
    prompt = int(draw.lognormvariate(5.6, 0.7)) if chat else int(draw.lognormvariate(4.6, 0.5))
    cached = int(prompt * draw.choice((0, 0, 0.4, 0.7))) if chat else 0
    output = int(draw.lognormvariate(4.9, 0.6)) if chat else 0
    prefill_us, decode_us = (prompt - cached) * 2200, output * 16_000
    waited_us = int(draw.expovariate(1 / 30_000))
    first_us = waited_us + prefill_us + 4000
    aborted = chat and draw.random() < 0.012
    event_id = new_id("evt", at_ms)
    return {
        "id": event_id,
        "request_id": event_id.replace("evt_", "req_"),
        "org_id": buyer["org"].id,
        "key_id": buyer["keys"][0 if draw.random() < 0.86 else 1],
        "subscription_id": buyer["subscription"].id,
        "plan_version_id": buyer["subscription"].plan_version_id,
        "model": CHAT if chat else EMBEDDING,
        "model_version": CHAT_VERSION if chat else EMBEDDING_VERSION,
        "operation": "chat" if chat else "embedding",
        "status": "aborted" if aborted else "ok",
        "at_ms": at_ms,
        "input_tokens": prompt - cached,
        "cached_tokens": cached,
        "output_tokens": output,
        "prefill_us": prefill_us,
        "decode_us": decode_us,
        "first_token_us": first_us if chat else None,
        "duration_us": first_us + decode_us * 3 // 2,
        "streamed": chat,
    }


def _rate(events: list[dict[str, Any]], terms: dict[str, catalog.Terms]) -> None:
    used: dict[tuple[str, str], dict[int, int]] = {}
    for event in events:
        place = used.setdefault((event["subscription_id"], month_of(event["at_ms"])), {})
        quantities = {
            "input_tokens": event["input_tokens"],
            "cached_tokens": event["cached_tokens"],
            "output_tokens": event["output_tokens"],
            "requests": 1,
        }
        event["price_picos"], units = rating.rate(terms[event["subscription_id"]], place, event["model"], quantities)
        for index, amount in units.items():
            place[index] = place.get(index, 0) + amount


def _write(conn: sa.Connection, events: list[dict[str, Any]]) -> None:
    daily: dict[tuple[str, ...], dict[str, int]] = {}
    names = ("input_tokens", "cached_tokens", "output_tokens", "price_picos", "prefill_us", "decode_us")
    for event in events:
        place = (event["org_id"], day_of(event["at_ms"]), event["key_id"], event["model"], event["plan_version_id"])
        sums = daily.setdefault(place, {"requests": 0} | dict.fromkeys(names, 0))
        sums["requests"] += 1
        for name in names:
            sums[name] += event[name]
    conn.execute(sell.usage_event.insert(), events)
    columns = ("org_id", "day", "key_id", "model", "plan_version_id")
    conn.execute(
        sell.usage_daily.insert(), [dict(zip(columns, place, strict=True)) | sums for place, sums in daily.items()]
    )


def _wallets(conn: sa.Connection, events: list[dict[str, Any]], buyers: list[dict[str, Any]]) -> None:
    """Top-ups, and the usage of each day taken from the wallets of prepaid plans, whole micros at a time."""
    for buyer in buyers:
        if buyer["terms"].overage != "wallet":
            continue
        org_id, start_ms = buyer["org"].id, NOW_MS - buyer["days"] * DAY_MS
        ledger.grant(conn, start_ms, org_id, "USD", 500_000, f"grant:welcome:{org_id}", "Welcome credit")
        ledger.top_up(
            conn,
            start_ms + DAY_MS,
            org_id,
            "USD",
            95_000_000 if buyer["days"] > 20 else 9_200_000,
            f"top_up:first:{org_id}",
        )
        carry, days = 0, {}
        for event in events:
            if event["org_id"] == org_id:
                days[day_of(event["at_ms"])] = days.get(day_of(event["at_ms"]), 0) + event["price_picos"]
        for day, picos in days.items():
            micros, carry = divmod(picos + carry, 1_000_000)
            if micros:
                legs = [ledger.Leg("wallet", org_id, "USD", micros), ledger.Leg("revenue_usage", "", "USD", -micros)]
                ledger.post(
                    conn,
                    month_bounds_ms(day[:7])[0] + int(day[8:]) * DAY_MS - 60_000,
                    "usage",
                    f"usage:{day}:{org_id}",
                    legs,
                )


def _replica_hours(conn: sa.Connection, events: list[dict[str, Any]]) -> None:
    busy: dict[tuple[str, str, int], int] = {}
    for event in events:
        place = (event["model"], event["model_version"], event["at_ms"] // HOUR_MS * HOUR_MS)
        busy[place] = busy.get(place, 0) + event["prefill_us"] + event["decode_us"]
    rows = []
    first_ms = (NOW_MS - 60 * DAY_MS) // HOUR_MS * HOUR_MS
    for model, version in ((CHAT, CHAT_VERSION), (EMBEDDING, EMBEDDING_VERSION)):
        for hour_ms in range(first_ms, NOW_MS, HOUR_MS):
            alive_us = min(HOUR_MS, NOW_MS - hour_ms) * 1000
            busy_us = busy.get((model, version, hour_ms), 0)
            failed_us = busy_us // 90
            rows.append(
                {
                    "model": model,
                    "model_version": version,
                    "hour_ms": hour_ms,
                    "busy_us": busy_us,
                    "failed_us": failed_us,
                    "idle_us": max(0, alive_us - busy_us - failed_us),
                }
            )
    conn.execute(serve.replica_hour.insert(), rows)


def _invoices(shop: SeededShop) -> None:
    """September paid, October finalised (one of them paid), November a draft."""
    paid = 0
    for period in ("2026-09", "2026-10"):
        for one in month_end.run(shop, period, finalise=True).finalised:
            if one.due_micros and (period == "2026-09" or paid == 0):
                with shop.db.write() as conn:
                    paid += period == "2026-10"
                    billing.pay(conn, shop.clock.now_ms(), one.id, f"payment:seed:{one.id}")
    month_end.run(shop, "2026-11")
