"""How work that outlives its request is paid: held when it is taken, billed once by an id that is known beforehand, or given back.

Holds live in the gateway's memory. A new gateway holds again for what it finds (`Held.again`, `bill`); `settle_once` looks first
whether the event is in the books, so that a crash between event and note is no second bill. Whoever has not settled
tries again: the next gateway, the next look at the jobs, the next time a device sends its log.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tollway.flows.call import Service
from tollway.sell import usage
from tollway.sell.access import Grant
from tollway.sell.demand import Demand
from tollway.sell.metering import Draws, UsageEvent


def record(
    service: Service, grant: Grant, event: UsageEvent, draws: Callable[[Grant], Draws | None] = lambda grant: grant.draws
) -> "asyncio.Future[None]":
    """Settle a grant to the event's true price and hand the event to the books; the future is done when it is durable.
    `draws`: what the settled grant takes of this gateway's slices, where there are several."""
    event.price_picos = service.access.settle(grant, event.quantities())
    currency = grant.plan.terms.currency if grant.wallet else None
    return service.recorder.record(
        event, currency, lambda: service.access.unsettle(grant, event.quantities(), event.price_picos), draws(grant)
    )


async def settle_once(service: Service, grant: Grant, event: UsageEvent) -> None:
    """Record an event against its grant, unless it is in the books already; durable when it returns."""
    try:
        there = await service.recorder.run(lambda conn: usage.recorded(conn, [event.id]))
    except BaseException:  # nothing was billed; who tries again holds again
        service.access.release(grant)
        raise
    if there:
        service.access.release(grant)
    else:
        await record(service, grant, event)


async def bill(service: Service, event: UsageEvent) -> bool:
    """Bill what was answered under a hold that is gone, to what its key's organization is subscribed to now; False when
    there is nobody to bill."""
    grant = service.access.hold_again(event.key_id, Demand(event.model, tier=event.tier))
    if grant is None:
        return False
    event.plan_version_id, event.subscription_id = grant.plan.id, grant.subscription_id
    await settle_once(service, grant, event)
    return True


class Held:
    """Grants by what they were given for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._grants: dict[str, Grant] = {}

    @asynccontextmanager
    async def keeping(self, name: str, grant: Grant) -> AsyncIterator[None]:
        """Park a grant for a job that is written down inside the block; given back if it is not."""
        self._service.access.park(grant)
        try:
            yield
        except BaseException:
            self._service.access.release(grant)
            raise
        self._grants[name] = grant

    def again(self, name: str, key_id: str, model: str, counted: dict[str, int]) -> bool:
        """Hold once more what an earlier gateway held; False when there is no subscription to hold against."""
        if name not in self._grants:
            grant = self._service.access.hold_again(key_id, Demand(model, counted=counted))
            if grant is not None:
                self._grants[name] = grant
        return name in self._grants

    @property
    def names(self) -> list[str]:
        """What something is held for."""
        return list(self._grants)

    def release(self, name: str) -> None:
        """Give it back: nothing is owed."""
        grant = self._grants.pop(name, None)
        if grant is not None:
            self._service.access.release(grant)

    async def settle(self, name: str, event_of: Callable[[Grant], UsageEvent]) -> None:
        """Bill the event once, however often this is tried; durable when it returns. Nothing when nothing is held."""
        grant = self._grants.pop(name, None)
        if grant is not None:
            await settle_once(self._service, grant, event_of(grant))
