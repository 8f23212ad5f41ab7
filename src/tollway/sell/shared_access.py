"""`Access` for one of several gateways: it admits from what this gateway has leased (see leases), and says what to ask for.

A wallet here is the part of it that this gateway leased; a charge's free units, a monthly cap and a rate likewise. So
holding, settling and releasing are the same arithmetic on smaller numbers, and no call asks the database. When a slice
does not bear a call, `admit` raises `Unleased` with what is missing; flows.leasing asks for it and tries again. What
turns out not to be had is *dry* for a moment: then the refusal is the true one.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa

from tollway.kit.clock import Clock
from tollway.kit.errors import PaymentRequired, RateLimited
from tollway.sell import catalog
from tollway.sell.access import Access, Account, Caller, Claim, Grant, Spending, gates_of
from tollway.sell.book import Book, used_this_month
from tollway.sell.demand import Demand
from tollway.sell.leases import Need, Pools
from tollway.sell.rate_limits import Gate, Window, rate_limited

_DRY_S: Final = 1.0
_MOIST_S: Final = 0.03
_METERED: Final = ("input_tokens", "cached_tokens", "output_tokens")
Place = tuple[str, str, str]  # organization, kind, scope


class Unleased(Exception):
    """The slices of this gateway do not bear the call; `needs` might."""

    def __init__(self, org_id: str, needs: list[Need], pools: Pools) -> None:
        super().__init__(org_id)
        self.org_id, self.needs, self.pools = org_id, needs, pools


class SharedWindow(Window):
    """A sliding minute of which this gateway may use a share."""

    __slots__ = ("share",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.share = 0

    def left(self, now: float) -> int:
        return super().left(now) - self.limit + self.share

    def wait_s(self, now: float, amount: int) -> float:
        return super().wait_s(now, amount + self.limit - self.share)


class SharedGate(Gate):
    """The limits of one holder, and this gateway's share of each."""

    __slots__ = ("share",)

    def __init__(self, rpm: int | None, tpm: int | None, concurrency: int | None) -> None:
        super().__init__(None, None, None)
        self.share = 0
        self.adopt(rpm, tpm, concurrency)

    def adopt(self, rpm: int | None, tpm: int | None, concurrency: int | None) -> None:
        self.rpm, self.tpm = _resized(self.rpm, rpm), _resized(self.tpm, tpm)
        self.concurrency = concurrency
        self.share = min(self.share, concurrency or 0)

    def refusal(self, now: float, tokens: int) -> tuple[str, float] | None:
        if self.concurrency is not None and self.running >= self.share:
            return f"{self.concurrency} calls at once", 1.0
        return super().refusal(now, tokens)

    def windows(self) -> dict[str, SharedWindow]:
        """Its rates that are limited."""
        both = {"rpm": self.rpm, "tpm": self.tpm}
        return {kind: window for kind, window in both.items() if isinstance(window, SharedWindow)}

    def needs(self, holder: str, now: float, tokens: int) -> list[Need]:
        """What a call of so many tokens lacks here."""
        found = []
        if self.concurrency is not None and self.running >= self.share:
            found.append(Need("concurrency", holder, self.running + 1 - self.share, self.concurrency))
        for kind, window in self.windows().items():
            lacks = (1 if kind == "rpm" else tokens) - window.left(now)
            if lacks > 0:
                found.append(Need(kind, holder, lacks, window.limit))
        return found

    def leased(self, kind: str) -> int:
        """This gateway's share of one limit."""
        if kind == "concurrency":
            return self.share
        window = self.windows().get(kind)
        return window.share if window is not None else 0

    def idle(self, kind: str, now: float) -> int:
        """What of a share could be given back: what counted in the last minute cannot."""
        if kind == "concurrency":
            return self.share - self.running
        window = self.windows().get(kind)
        return window.left(now) if window is not None else 0

    def add(self, kind: str, amount: int) -> None:
        """More of a share, or less."""
        window = self.windows().get(kind)
        if kind == "concurrency":
            self.share += amount
        elif window is not None:
            window.share += amount


class SharedAccess(Access):
    """One gateway's part of what organizations have. Like `Access`, it never waits."""

    new_gate: type[Gate] = SharedGate

    def __init__(self, clock: Clock, pepper: bytes) -> None:
        super().__init__(clock, pepper)
        self._dry: dict[Place, float] = {}
        self._gates: dict[str, SharedGate] = {}  # of keys with limits of their own
        self.epoch = 0

    # -- calls -------------------------------------------------------------------------------------------------------

    def admit(self, caller: Caller, demand: Demand) -> Grant:
        """As `Access.admit`; raises Unleased when asking the other gateways or the pool may help."""
        plan = self.plan_for(caller, demand.model)
        spending = self._this_month(caller.account)
        units = self._units(caller.account, spending, plan, demand)
        if units:  # free ones come first, before any money
            raise self._unleased(caller, plan, spending, units)
        try:
            grant = super().admit(caller, demand)
        except (PaymentRequired, RateLimited) as refusal:
            needs = self._needs(caller, plan, spending, demand)
            if not needs:
                raise
            self.refusals[refusal.code] -= 1
            raise self._unleased(caller, plan, spending, needs) from refusal
        grant.epoch = self.epoch
        return grant

    def look(self, caller: Caller, demand: Demand) -> Claim | None:
        """As `Access.look`, but a share that is used up refuses nobody yet; a minute's requests that all came here do."""
        self.plan_for(caller, demand.model)
        now = self._clock.monotonic()
        for gate in () if demand.tier else gates_of(caller):
            if gate.rpm is not None and Window.left(gate.rpm, now) < 1:
                limit = f"{gate.rpm.limit} requests per minute"
                raise self._refuse(rate_limited(gate, 0, limit, Window.wait_s(gate.rpm, now, 1)))
        return None

    def hold_again(self, key_id: str, demand: Demand) -> Grant | None:
        grant = super().hold_again(key_id, demand)
        if grant is not None:
            grant.epoch, grant.owed = self.epoch, True
        return grant

    def settle(self, grant: Grant, quantities: dict[str, int]) -> int:
        spending, included = grant.spending, _included(grant.spending.terms)
        before = {index: spending.units.get(index, 0) for index in included}
        tokens_before = spending.tokens
        picos = super().settle(grant, quantities)
        draws: dict[tuple[str, str], int] = {}
        for index, most in included.items():
            spending.units[index] = min(spending.units.get(index, 0), most)  # beyond them it is paid for
            if spending.units[index] > before[index]:
                scope = _scope(grant.subscription_id, spending.month, index)
                draws["units", scope] = spending.units[index] - before[index]
        if grant.owed:
            spending.tokens = min(spending.tokens, max(tokens_before, spending.terms.limits.monthly_tokens or 0))
        if spending.terms.limits.monthly_tokens is not None and spending.tokens > tokens_before:
            draws["tokens", _scope(grant.subscription_id, spending.month)] = spending.tokens - tokens_before
        if grant.wallet and picos:
            draws["wallet", spending.terms.currency] = picos - self._beyond(grant, picos)
        grant.draws = draws
        return picos

    def _beyond(self, grant: Grant, picos: int) -> int:
        """What of a price no slice bears and is owed all the same: it leaves the wallet, but no slice."""
        account = grant.caller.account
        if not grant.owed:
            return 0
        if _currency(account) != grant.spending.terms.currency:
            return picos
        idle = account.left_picos() - account.spending.exposure_picos() + picos  # before this price was pending
        beyond = picos - max(0, min(picos, idle))
        account.wallet_picos += beyond  # until `committed` takes the whole price off
        return beyond

    def unsettle(self, grant: Grant, quantities: dict[str, int], picos: int) -> None:
        if grant.wallet:
            grant.caller.account.pending_picos -= picos
        if grant.epoch != self.epoch:
            return  # what it was drawn from is not ours any more
        if grant.owed and grant.wallet and _currency(grant.caller.account) == grant.spending.terms.currency:
            drawn = (grant.draws or {}).get(("wallet", grant.spending.terms.currency), 0)
            grant.caller.account.wallet_picos -= picos - drawn
        for (kind, scope), amount in (grant.draws or {}).items():
            if kind == "units":
                grant.spending.units[int(scope.rsplit(":", 1)[1])] -= amount
            elif kind == "tokens":
                grant.spending.tokens -= amount

    def committed(self, org_id: str, currency: str, wallet_picos: int, settled_picos: int) -> None:
        account = self._accounts.get(org_id)
        if account is not None:
            account.pending_picos -= settled_picos
            if _currency(account) == currency:
                account.wallet_picos -= settled_picos

    # -- slices ------------------------------------------------------------------------------------------------------

    def add(self, org_id: str, kind: str, scope: str, amount: int) -> None:
        """A slice grew, or was cut (below zero) by what was idle of it."""
        account = self._accounts.get(org_id)
        if account is None or not self._current(account, kind, scope):
            return  # the keeper of slices finds it and gives it back
        if kind == "wallet":
            account.wallet_picos += amount
        elif kind == "units":
            account.spending.units[int(scope.rsplit(":", 1)[1])] -= amount
        elif kind == "tokens":
            account.spending.tokens -= amount
        else:
            self._gate_of(account, scope).add(kind, amount)

    def idle(self, org_id: str, kind: str, scope: str) -> int:
        """What of a slice no call needs now."""
        account = self._accounts.get(org_id)
        if account is None or not self._current(account, kind, scope):
            return 0
        spending = account.spending
        if kind == "wallet":
            return max(0, account.left_picos() - spending.exposure_picos())
        if kind == "units":
            index = int(scope.rsplit(":", 1)[1])
            left = spending.terms.charges[index].included - spending.units[index]
            return max(0, left - spending.held_units.get(index, 0))
        if kind == "tokens":
            return max(0, (spending.terms.limits.monthly_tokens or 0) - spending.tokens - spending.held_tokens)
        return max(0, self._gate_of(account, scope).idle(kind, self._clock.monotonic()))

    def rates_idle(self) -> dict[Place, int]:
        """What of all rates was not used in the last minute."""
        now, gates = self._clock.monotonic(), [(one.org_id, "", one.gate) for one in self._accounts.values()]
        gates += [(one.key.org_id, one.key.id, one.gate) for one in self._by_digest.values() if one.gate is not None]
        return {
            (org_id, kind, holder): idle
            for org_id, holder, gate in gates
            if isinstance(gate, SharedGate)
            for kind in gate.windows()
            if (idle := gate.idle(kind, now)) > 0
        }

    def unknown(self, org_id: str, kind: str, scope: str, amount: int) -> int:
        """How much of a slice in the database this memory knows nothing of: of last month, the last plan, a lower limit."""
        account = self._accounts.get(org_id)
        if account is None or not self._current(account, kind, scope):
            return 0 if account is not None and any(former.busy for former in account.former) else amount
        if kind in ("rpm", "tpm", "concurrency"):
            return max(0, amount - self._gate_of(account, scope).leased(kind))
        return 0

    def dry(self, org_id: str, need: Need) -> None:
        """There is no more to be had of this now."""
        self._dry[org_id, need.kind, need.scope] = self._clock.monotonic() + _DRY_S

    def moistened(self, org_id: str = "*") -> None:
        """Somebody gave something back: ask again soon. Not at once: refusals would cost a question each."""
        soon = self._clock.monotonic() + _MOIST_S
        for place, until in self._dry.items():
            if org_id in ("*", place[0]):
                self._dry[place] = min(until, soon)

    def lost(self) -> None:
        """All slices were taken back: begin with nothing. Calls in flight settle as they can."""
        self.epoch += 1
        self._dry.clear()
        for account in self._accounts.values():
            account.wallet_picos = 0
            account.turn(self._begun(account.spending.month, account.plan, {}, 0))
        for gate in [*(account.gate for account in self._accounts.values()), *self._gates.values()]:
            assert isinstance(gate, SharedGate)
            for kind in ("rpm", "tpm", "concurrency"):
                gate.add(kind, -gate.leased(kind))

    # -- what the database says --------------------------------------------------------------------------------------

    def adopt(self, book: Book) -> None:
        """As `Access.adopt`; but what there is to spend is what is leased."""
        leased = {}
        for org_id, (name, suspended, subscription_id, plan, _) in book.accounts.items():
            known = self._accounts.get(org_id)
            same = known is not None and plan is not None and _currency(known) == plan.terms.currency
            leased[org_id] = (name, suspended, subscription_id, plan, known.wallet_picos if known and same else 0)
        book.accounts, book.usage = leased, {}
        super().adopt(book)
        self._dry.clear()
        callers = self._by_digest.values()
        self._gates = {one.key.id: one.gate for one in callers if isinstance(one.gate, SharedGate)}

    def _begun(self, month: str, plan: catalog.PlanVersion | None, models: Mapping[str, Any], tokens: int) -> Spending:
        """A month of which nothing is leased yet: as though all of it were used."""
        terms = plan.terms if plan else catalog.Terms()
        return Spending(month, terms, dict(_included(terms)), terms.limits.monthly_tokens or 0)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _unleased(self, caller: Caller, plan: catalog.PlanVersion, spending: Spending, needs: list[Need]) -> Unleased:
        org_id, subscription_id, month = caller.account.org_id, caller.account.subscription_id, spending.month

        def pools(conn: sa.Connection) -> Mapping[tuple[str, str], int]:
            units, tokens = used_this_month(conn, month, org_id, plan)
            begun = {
                ("units", _scope(subscription_id, month, index)): most - units.get(index, 0)
                for index, most in _included(plan.terms).items()
            }
            cap = plan.terms.limits.monthly_tokens or 0
            return begun | {("tokens", _scope(subscription_id, month)): cap - tokens}

        return Unleased(org_id, needs, pools)

    def _units(self, account: Account, spending: Spending, plan: catalog.PlanVersion, demand: Demand) -> list[Need]:
        """The free units that this call lacks and that may be had."""
        included = _included(plan.terms)
        if not included:
            return []
        found = []
        for index, amount in demand.units(plan.terms, spending.units).items():
            most = included.get(index, 0)
            lacks = min(most, spending.units.get(index, 0) + spending.held_units.get(index, 0) + amount - most)
            if most and lacks > 0:
                found.append(Need("units", _scope(account.subscription_id, spending.month, index), lacks))
        return [need for need in found if self._may_be_had(account, need)]

    def _needs(self, caller: Caller, plan: catalog.PlanVersion, spending: Spending, demand: Demand) -> list[Need]:
        """What a refused call lacks, of what may be had."""
        account, tokens, now = caller.account, demand.tokens, self._clock.monotonic()
        found: list[Need] = []
        for gate, holder in ((account.gate, ""), (caller.gate, caller.key.id)):
            if isinstance(gate, SharedGate):
                found += gate.needs(holder, now, tokens)
        cap = plan.terms.limits.monthly_tokens
        if cap is not None and spending.tokens + spending.held_tokens + tokens > cap:
            lacks = spending.tokens + spending.held_tokens + tokens - cap
            found.append(Need("tokens", _scope(account.subscription_id, spending.month), lacks))
        if plan.terms.overage == "wallet":
            units = demand.units(plan.terms, spending.units)
            lacks = spending.exposure_picos(units) - account.left_picos()
            if lacks > 0:
                found.append(Need("wallet", plan.terms.currency, lacks))
        return found if all(self._may_be_had(account, need) for need in found) else []

    def _may_be_had(self, account: Account, need: Need) -> bool:
        if need.limit and need.amount > need.limit:
            return False
        return self._dry.get((account.org_id, need.kind, need.scope), 0.0) <= self._clock.monotonic()

    def _current(self, account: Account, kind: str, scope: str) -> bool:
        """Whether a slice is of the plan and month that are running."""
        if kind == "wallet":
            return _currency(account) == scope
        if kind in ("units", "tokens"):
            return scope.startswith(_scope(account.subscription_id, account.spending.month))
        return not scope or scope in self._gates

    def _gate_of(self, account: Account, holder: str) -> SharedGate:
        gate = self._gates[holder] if holder else account.gate
        assert isinstance(gate, SharedGate)
        return gate


@lru_cache(maxsize=1024)
def _included(terms: catalog.Terms) -> dict[int, int]:
    """The charges that have free units."""
    return {index: charge.included for index, charge in enumerate(terms.charges) if charge.included}


def _scope(*parts: object) -> str:
    return ":".join(map(str, parts))


def _currency(account: Account) -> str | None:
    return account.plan.terms.currency if account.plan is not None else None


def _resized(window: Window | None, limit: int | None) -> SharedWindow | None:
    if limit is None:
        return None
    if not isinstance(window, SharedWindow):
        return SharedWindow(limit)
    window.limit, window.share = limit, min(window.share, limit)
    return window
