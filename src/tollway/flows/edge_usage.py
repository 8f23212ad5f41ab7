"""What devices used, into the books: claim the device, check its chain, price each entry, record, move its head.

However often a log is sent, each entry is billed once: its event's id follows from device and number, and a crash between
events and head is healed by the next try. A chain that does not fit is refused as a whole.

A device's clock may be wrong. It says what time it thinks it is; the difference to ours is taken off every entry, and what is
still before the last entry, before the export or in the future is moved to the nearest time that can be true. An entry of
a month whose invoice is final cannot be added to that invoice: it is billed in the running month.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.edge import chain
from tollway.flows import settling
from tollway.flows.call import Service
from tollway.kit.clock import month_of
from tollway.kit.crash import crashpoint
from tollway.kit.errors import Conflict, PaymentRequired, TollwayError
from tollway.sell import billing, book, catalog, edge_devices, usage
from tollway.sell.access import Caller, Grant, Spending
from tollway.sell.demand import Demand
from tollway.sell.edge_devices import EdgeDevice
from tollway.sell.metering import UsageEvent
from tollway.shop import Shop

ENTRIES_MAX: Final = 1000
_SAME_TIME_MS: Final = 2_000


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one sending."""

    device: str
    accepted: int
    duplicates: int
    head: int
    moved: int  # entries that are billed in another month than they were made in


class _Then(msgspec.Struct):
    """A subscription and its plan at the time of an entry, with what was used of it in that month."""

    subscription: catalog.Subscription
    plan: catalog.PlanVersion
    spending: Spending | None  # None: the running month, which the gateway keeps itself


class EdgeUsage:
    """Takes logs over."""

    def __init__(self, shop: Shop, service: Service) -> None:
        self._shop, self._service = shop, service

    async def head(self, caller: Caller, device_id: str) -> EdgeDevice:
        """How far a device's log is in the books. Raises NotFound."""
        org_id, db = caller.account.org_id, self._shop.db

        def read() -> EdgeDevice:
            with db.read() as conn:
                return edge_devices.get(conn, device_id, org_id)

        return await asyncio.to_thread(read)

    async def take(self, caller: Caller, device_id: str, sent_at_ms: int, entries: Sequence[dict[str, Any]]) -> Taken:
        """Bring entries into the books; durable when this returns. Raises Conflict for a chain that does not fit."""
        recorder, org_id, now_ms = self._service.recorder, caller.account.org_id, self._shop.clock.now_ms()
        if caller.account.plan is None:
            raise PaymentRequired(f"{caller.account.name} has no subscription.", code="no_subscription")
        device = await recorder.run(lambda conn: edge_devices.claim(conn, now_ms, device_id, org_id))
        try:
            fresh = _fresh(device, chain.key_of(self._shop.secrets.pepper, device.id), entries)
            if fresh:
                moved = await self._book(caller, device, _times(device, fresh, sent_at_ms, now_ms), fresh)
            else:
                moved = 0
        finally:
            await asyncio.shield(recorder.run(lambda conn: edge_devices.give_up(conn, device_id)))
        head = fresh[-1]["n"] if fresh else device.head_n
        return Taken(
            device=device.id, accepted=len(fresh), duplicates=len(entries) - len(fresh), head=head, moved=moved
        )

    async def _book(self, caller: Caller, device: EdgeDevice, times: list[int], fresh: list[dict[str, Any]]) -> int:
        """Price and record entries, then move the head. How many were moved to another month."""
        recorder, now_ms = self._service.recorder, self._shop.clock.now_ms()
        ids = [event_id(device.id, entry["n"]) for entry in fresh]

        def look(conn: sa.Connection) -> tuple[set[str], list[_Then | None]]:
            return usage.recorded(conn, ids), _thens(conn, device.org_id, times, now_ms)

        there, thens = await recorder.run(look)
        running = [entry for entry, one, then in zip(fresh, ids, thens, strict=True) if one not in there and _now(then)]
        await self._lease(caller, device, running)
        kept, moved = [], 0
        for entry, at_ms, one, then in zip(fresh, times, ids, thens, strict=True):
            moved += then is None
            if one not in there:
                kept.append(self._record(caller, device, entry, now_ms if then is None else at_ms, then, one))
        await asyncio.gather(*kept)
        crashpoint("edge.after_record")
        last = fresh[-1]
        await recorder.run(
            lambda conn: edge_devices.advance(conn, now_ms, device.id, last["n"], last["seal"], times[-1])
        )
        return moved

    async def _lease(self, caller: Caller, device: EdgeDevice, entries: list[dict[str, Any]]) -> None:
        """With several gateways: have the free units here that these entries take, wherever they lie now."""
        if self._service.leasing is None or not entries:
            return
        used: Counter[str] = Counter()
        for entry in entries:
            used[entry["meter"]] += entry["units"]
        tokens = used.pop("input_tokens", 0)
        with suppress(TollwayError):  # it was used whether or not it could be paid for now
            self._service.access.release(await self._service.admit(caller, Demand(device.model, tokens, counted=used)))

    def _record(
        self, caller: Caller, device: EdgeDevice, entry: dict[str, Any], at_ms: int, then: _Then | None, one: str
    ) -> "asyncio.Future[None]":
        """Settle one entry and hand its event to the recorder."""
        grant = _grant(caller, device, then) if then and then.spending else None
        grant = grant or self._service.access.hold_again(caller.key.id, Demand(device.model))
        if grant is None:
            raise PaymentRequired(f"{caller.account.name} has no subscription.", code="no_subscription")
        tokens = entry["meter"] == "input_tokens"
        event = UsageEvent(
            id=one,
            request_id=one.replace("evt_", "req_", 1),
            org_id=device.org_id,
            key_id=caller.key.id,
            subscription_id=grant.subscription_id,
            plan_version_id=grant.plan.id,
            model=device.model,
            model_version=device.model_version,
            operation=f"edge {entry['operation']}",
            status="ok",
            at_ms=at_ms,
            input_tokens=entry["units"] if tokens else 0,
            cached_tokens=0,
            output_tokens=0,
            price_picos=0,
            prefill_us=0,
            decode_us=0,
            first_token_us=None,
            duration_us=0,
            streamed=False,
            meter="" if tokens else entry["meter"],
            units=0 if tokens else entry["units"],
        )
        return settling.record(self._service, grant, event, lambda settled: _draws(settled, then))


def event_id(device_id: str, number: int) -> str:
    """The event of an entry: always the same."""
    return "evt_edge" + hashlib.sha256(f"{device_id}:{number}".encode()).hexdigest()[:24]


def _fresh(device: EdgeDevice, key: str, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries behind the head, checked. What is there already may be sent again, unchanged."""
    numbers = [entry.get("n") for entry in entries]
    behind = [entry for entry, number in zip(entries, numbers, strict=True) if _is_after(number, device.head_n)]
    again = [entry for entry in entries if entry.get("n") == device.head_n]
    if any(entry.get("seal") != device.head_seal for entry in again):
        raise Conflict(
            f"Entry {device.head_n} of this log is not the one that was sent before.",
            code="log_forked",
            param="entries",
            hint="A copy of this device, or an old backup of it, was used. Have the model exported anew.",
        )
    chain.check(key, device.head_seal, device.head_n, behind)
    return behind


def _is_after(number: Any, head: int) -> bool:
    """What is no number is looked at too: the chain says what is wrong with it."""
    return isinstance(number, bool) or not isinstance(number, int) or number > head


def _times(device: EdgeDevice, fresh: list[dict[str, Any]], sent_at_ms: int, now_ms: int) -> list[int]:
    """When each entry was made, in our time."""
    off = now_ms - sent_at_ms
    off = 0 if abs(off) < _SAME_TIME_MS else off
    times, before = [], min(max(device.created_ms, device.last_at_ms), now_ms)
    for entry in fresh:
        before = min(max(entry["at_ms"] + off, before), now_ms)
        times.append(before)
    return times


def _thens(conn: sa.Connection, org_id: str, times: list[int], now_ms: int) -> list[_Then | None]:
    """What each entry falls under; None when the invoice of its month is final, or there was no subscription: then it falls
    under what runs now."""
    subscriptions = catalog.list_subscriptions(conn, org_id)
    final = {(one.subscription_id, one.period) for one in billing.list_invoices(conn, org_id) if one.status != "draft"}
    known: dict[tuple[str, str], _Then | None] = {}
    found = []
    for at_ms in times:
        running = [
            one for one in subscriptions if one.started_ms <= at_ms and (one.ended_ms is None or one.ended_ms > at_ms)
        ]
        place = (running[-1].id if running else "", month_of(at_ms))
        if place not in known:
            known[place] = _then(conn, running[-1], place[1], now_ms) if running and place not in final else None
        found.append(known[place])
    return found


def _then(conn: sa.Connection, subscription: catalog.Subscription, month: str, now_ms: int) -> _Then:
    plan = catalog.get_plan_version(conn, subscription.plan_version_id)
    if month == month_of(now_ms) and subscription.ended_ms is None:
        return _Then(subscription, plan, None)
    used = book.used_this_month(conn, month, subscription.org_id, plan)
    return _Then(subscription, plan, Spending(month, plan.terms, *used))


def _now(then: _Then | None) -> bool:
    """Whether it falls under what runs now."""
    return then is None or then.spending is None


def _grant(caller: Caller, device: EdgeDevice, then: _Then) -> Grant:
    """A grant under an earlier month or plan: nothing is held, it happened already."""
    assert then.spending is not None
    wallet = then.plan.terms.overage == "wallet"
    return Grant(caller, then.plan, then.subscription.id, device.model, then.spending, {}, 0, [], wallet, owed=True)


def _draws(grant: Grant, then: _Then | None) -> dict[tuple[str, str], int] | None:
    """What an entry takes of this gateway's slices, where there are several. Of an earlier month or plan none has free
    units or a cap any more: only money."""
    if grant.draws is None or _now(then):
        return grant.draws
    return {place: amount for place, amount in grant.draws.items() if place[0] == "wallet"}
