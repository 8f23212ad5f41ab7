"""May this caller make this call, and can it pay for it? Answered from memory, before any work is done.

`Access` is the gateway's picture of keys, plans, quotas and wallets. A call is *admitted* by setting aside (holding) the
most it can cost in money, included units and rate limits, in one uninterrupted step; it is *settled* to what it truly
cost, or *released* when nothing was delivered. So however many calls arrive at once, the sum of what is held and what is
spent never passes what there is. One gateway process owns these numbers (see shop.own_the_shop; of several gateways each
owns its slices, see shared_access), and the database row of every settled call is durable before its answer ends (see
metering).

402 means that paying or waiting for the next month helps, 429 that trying again later does.
"""

from collections import defaultdict
from typing import TypeVar

import msgspec

from tollway.guard import keys
from tollway.kit.clock import Clock, month_bounds_ms, month_of
from tollway.kit.errors import Forbidden, NotFound, PaymentRequired, TollwayError, Unauthorized
from tollway.kit.money import PICOS_PER_MICRO, format_micros
from tollway.sell import catalog, rating, unpriced
from tollway.sell.api_keys import ApiKey
from tollway.sell.book import Book, used_units
from tollway.sell.demand import Demand
from tollway.sell.rate_limits import Gate, rate_headers, rate_limited

Refusal = TypeVar("Refusal", bound=TollwayError)


class Spending(msgspec.Struct):
    """What one organization has used and may still use under its running plan, this month."""

    month: str
    terms: catalog.Terms
    units: dict[int, int]  # charge index -> units used this month
    tokens: int  # tokens used this month, for the monthly cap
    held_units: dict[int, int] = msgspec.field(default_factory=lambda: defaultdict(int))
    held_tokens: int = 0

    @property
    def busy(self) -> bool:
        """Whether something is held."""
        return self.held_tokens > 0 or any(self.held_units.values())

    def exposure_picos(self, more: dict[int, int] | None = None) -> int:
        """The most that everything held (and `more` units besides) can still cost, in whatever order it settles."""
        return rating.exposure(self.terms, self.units, self.held_units, more)


class Account(msgspec.Struct):
    """One organization as the hot path sees it."""

    org_id: str
    name: str
    suspended: bool
    subscription_id: str
    plan: catalog.PlanVersion | None
    gate: Gate
    wallet_picos: int  # committed balance
    spending: Spending
    pending_picos: int = 0  # settled, but not committed yet
    former: list[Spending] = msgspec.field(default_factory=list)  # of last month or the last plan, with calls in flight

    def left_picos(self) -> int:
        """What the wallet has beyond what is settled and what earlier plans or months may still cost."""
        if not self.former:
            return self.wallet_picos - self.pending_picos
        self.former = [spending for spending in self.former if spending.busy]
        return self.wallet_picos - self.pending_picos - sum(spending.exposure_picos() for spending in self.former)

    def turn(self, spending: Spending) -> None:
        """A new month or plan begins; calls in flight settle under the one they began in."""
        if self.spending.busy:
            self.former.append(self.spending)
        self.spending = spending


class Caller(msgspec.Struct):
    """A known key and its account."""

    key: ApiKey
    account: Account
    gate: Gate | None


class Grant(msgspec.Struct):
    """What was set aside for one call. Settle or release it exactly once."""

    caller: Caller
    plan: catalog.PlanVersion
    subscription_id: str
    model: str
    spending: Spending
    units: dict[int, int]
    tokens: int
    taken: list[tuple[Gate, list[int] | None]]
    wallet: bool
    open: bool = True
    draws: dict[tuple[str, str], int] | None = None  # what it took of slices, with several gateways (see shared_access)
    epoch: int = 0
    owed: bool = False  # held without asking: what it used is billed whatever there is


class Claim(msgspec.Struct):
    """What a call may have, as found by `Access.look`: nothing is held yet. True until anything else is admitted or settled,
    so it is for `Access.hold` in the same step of the loop."""

    caller: Caller
    plan: catalog.PlanVersion
    model: str  # as it is sold
    spending: Spending
    units: dict[int, int]
    tokens: int
    now: float
    gates: list[Gate]


class Access:
    """The gateway's memory of who may do what. All methods run on the event loop's thread and never wait."""

    new_gate: type[Gate] = Gate

    def __init__(self, clock: Clock, pepper: bytes) -> None:
        self._clock = clock
        self._pepper = pepper
        self._by_digest: dict[str, Caller] = {}
        self._accounts: dict[str, Account] = {}
        self._month, self._month_end_ms = "", 0
        self.revision = -1
        self.refusals: dict[str, int] = defaultdict(int)
        self.unpriced = unpriced.Notes()

    # -- authorise ---------------------------------------------------------------------------------------------------

    def digest(self, secret: str) -> str:
        """What a key is known by; for `identify_digest`, so that a connection's key is digested once. Raises Unauthorized
        for what cannot be a key."""
        if not secret:
            raise self._refuse(
                Unauthorized("No API key was given.", hint="Send it as `Authorization: Bearer tw_live_…`.")
            )
        if not keys.well_formed(secret):
            raise self._refuse(
                Unauthorized(
                    "This is not a Tollway API key: its form or checksum is wrong.",
                    hint="Check for a cut or mistyped key.",
                )
            )
        return keys.digest(secret, self._pepper)

    def identify(self, secret: str) -> Caller:
        """The caller behind a key. Raises Unauthorized; says which way the key is wrong only to who holds it."""
        return self.identify_digest(self.digest(secret))

    def identify_digest(self, digest: str) -> Caller:
        """The caller behind a key's digest, as things are now. Raises Unauthorized."""
        caller = self._by_digest.get(digest)
        if caller is None:
            raise self._refuse(
                Unauthorized("This API key is unknown.", hint="Create one in the console under API keys.")
            )
        self.require_valid(caller.key)
        self._require_active(caller.account)
        return caller

    def require_valid(self, key: ApiKey) -> None:
        """Raise Unauthorized for a key that was revoked or has expired: also in the midst of work that was taken under it."""
        if key.revoked_ms is not None:
            raise self._refuse(
                Unauthorized("This API key was revoked.", code="key_revoked", hint="Create a new one in the console.")
            )
        if key.expires_ms is not None and key.expires_ms <= self._clock.now_ms():
            raise self._refuse(
                Unauthorized("This API key has expired.", code="key_expired", hint="Create a new one in the console.")
            )

    def require(self, caller: Caller, scope: str) -> None:
        """Raise Forbidden unless the key carries `scope`."""
        if scope not in caller.key.scopes:
            raise self._refuse(Forbidden(f"This key does not have the scope {scope!r}.", code="missing_scope"))

    def may_use(self, caller: Caller, model: str) -> bool:
        """Whether key and plan both include the model."""
        plan = caller.account.plan
        by_plan, by_key = None if plan is None else plan.terms.models, caller.key.models
        if by_key is None and (by_plan is None or "*" in by_plan):
            return True
        names = {model, catalog.base_of(model)}  # whoever may use the base may use what was made of it
        return all(
            allowed is None or not names.isdisjoint(allowed)
            for allowed in (by_key, None if by_plan is not None and "*" in by_plan else by_plan)
        )

    # -- hold, settle, release ---------------------------------------------------------------------------------------

    def look(self, caller: Caller, demand: Demand) -> Claim | None:
        """What a call of that size would be admitted with, before any work is done for it. Raises what `admit` does. None:
        nothing is in the way, but `admit` has to be asked."""
        return self._claim(caller, demand)

    def plan_for(self, caller: Caller, model: str) -> catalog.PlanVersion:
        """The plan under which a caller may call a model now. Raises Forbidden, PaymentRequired."""
        account, plan = caller.account, caller.account.plan
        self._require_active(account)  # a caller from the console showed no key
        self.require(caller, "inference")
        if plan is None:
            raise self._refuse(
                PaymentRequired(
                    f"{account.name} has no subscription.", code="no_subscription", hint="Subscribe to a plan first."
                )
            )
        if not self.may_use(caller, model):
            raise self._refuse(
                Forbidden(
                    f"This key may not use the model {model!r}.",
                    code="model_not_allowed",
                    hint="GET /v1/models lists what it may use.",
                )
            )
        return plan

    def admit(self, caller: Caller, demand: Demand) -> Grant:
        """Hold the most this call can take. Raises Forbidden, PaymentRequired (402) or RateLimited (429)."""
        return self.hold(self._claim(caller, demand))

    def hold(self, claim: Claim) -> Grant:
        """Set aside what was found for a call just now."""
        spending, account = claim.spending, claim.caller.account
        for index, held in claim.units.items():
            spending.held_units[index] += held
        spending.held_tokens += claim.tokens
        taken = [gate.take(claim.now, claim.tokens) for gate in claim.gates]
        return Grant(
            claim.caller, claim.plan, account.subscription_id, claim.model, spending, claim.units, claim.tokens, taken,
            claim.plan.terms.overage == "wallet",
        )  # fmt: skip

    def _claim(self, caller: Caller, demand: Demand) -> Claim:
        plan, sold, tokens = self.plan_for(caller, demand.model), demand.sold_as, demand.tokens
        now, gates = (0.0, []) if demand.tier else self.require_within_rates(caller, tokens)
        spending = self._this_month(caller.account)
        units = self._check_money(caller.account, plan, spending, demand)
        if plan.terms.unpriced == "refuse" and plan.terms.charges and not any(units.values()):
            raise self._refuse(self.unpriced.refused(plan, sold, self._clock.now_ms()))
        return Claim(caller, plan, sold, spending, units, tokens, now, gates)

    def count(self, caller: Caller) -> None:
        """A request that was refused after work was done for it: one of the minute's, as any other."""
        now = self._clock.monotonic()
        for gate in gates_of(caller):
            gate.count(now)

    def require_within_rates(self, caller: Caller, tokens: int = 0) -> tuple[float, list[Gate]]:
        """Raise RateLimited unless a call of so many tokens fits now; the moment and the gates it will pass."""
        now, gates = self._clock.monotonic(), gates_of(caller)
        for gate in gates:
            blocked = gate.refusal(now, tokens)
            if blocked:
                raise self._refuse(rate_limited(gate, tokens, *blocked))
        return now, gates

    def settle(self, grant: Grant, quantities: dict[str, int]) -> int:
        """Turn the hold into the true price (picos) of `quantities` (meter -> units). The money stays pending until
        `committed`."""
        self._free(grant)
        spending = grant.spending
        picos, units = rating.rate(spending.terms, spending.units, grant.model, quantities)
        for index, used in units.items():
            spending.units[index] = spending.units.get(index, 0) + used
        tokens = (
            quantities.get("input_tokens", 0) + quantities.get("cached_tokens", 0) + quantities.get("output_tokens", 0)
        )
        spending.tokens += tokens
        for gate, ticket in grant.taken:
            gate.correct(ticket, tokens - grant.tokens)
        if grant.wallet:
            grant.caller.account.pending_picos += picos
        return picos

    def unsettle(self, grant: Grant, quantities: dict[str, int], picos: int) -> None:
        """Take a settlement back: its event could not be recorded, so the call was not answered and is not owed."""
        spending = grant.spending
        for index, used in rating.rate(spending.terms, {}, grant.model, quantities)[1].items():
            spending.units[index] -= used
        spending.tokens -= sum(quantities.get(meter, 0) for meter in ("input_tokens", "cached_tokens", "output_tokens"))
        if grant.wallet:
            grant.caller.account.pending_picos -= picos

    def park(self, grant: Grant) -> Grant:
        """A hold that outlives its call (a training): it counts no longer among the calls at once."""
        for gate, _ in grant.taken:
            gate.running -= 1
        grant.taken = []
        return grant

    def caller_of(self, key_id: str) -> Caller | None:
        """Whoever holds a key, by the key's id, for work that was taken under it; None when there is no such key."""
        return next((one for one in self._by_digest.values() if one.key.id == key_id), None)

    def hold_again(self, key_id: str, demand: Demand) -> Grant | None:
        """After a restart: the parked hold of a key's work that goes on, without asking whether it may. None when the key's
        organization has no subscription any more."""
        caller = self.caller_of(key_id)
        if caller is None or caller.account.plan is None:
            return None
        account, plan, sold = caller.account, caller.account.plan, demand.sold_as
        spending = self._this_month(account)
        units = demand.units(plan.terms, spending.units)
        for index, held in units.items():
            spending.held_units[index] += held
        return Grant(
            caller, plan, account.subscription_id, sold, spending, units, 0, [], plan.terms.overage == "wallet"
        )

    def release(self, grant: Grant) -> None:
        """Give everything back: nothing was delivered. The request itself still counts against RPM."""
        self._free(grant)
        for gate, ticket in grant.taken:
            gate.correct(ticket, -grant.tokens)

    def committed(self, org_id: str, currency: str, wallet_picos: int, settled_picos: int) -> None:
        """The database has it: take over the balance that the committing transaction saw. A call that began under a plan
        in another currency was paid from another wallet: that one's balance says nothing about this one's."""
        account = self._accounts.get(org_id)
        if account is not None:
            if account.plan is None or account.plan.terms.currency == currency:
                account.wallet_picos = wallet_picos
            account.pending_picos -= settled_picos

    def rate_headers(self, caller: Caller) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-*` of the narrower holder (the key where it has limits of its own)."""
        return rate_headers(self._clock.monotonic(), caller.account.gate, caller.gate)

    # -- taking over what the database says --------------------------------------------------------------------------

    def adopt(self, book: Book) -> None:
        """Replace the picture, keeping what is running: holds, windows and usage already counted."""
        accounts = {}
        for org_id, (name, suspended, subscription_id, plan, wallet_picos) in book.accounts.items():
            limits = plan.terms.limits if plan else catalog.UsageLimits()
            account = self._accounts.get(org_id)
            if account is None or account.subscription_id != subscription_id:
                spending = self._begun(book.month, plan, *book.usage.get(org_id, ({}, 0)))
                if account is None:
                    gate = self.new_gate(limits.rpm, limits.tpm, limits.concurrency)
                    account = Account(org_id, name, suspended, subscription_id, plan, gate, wallet_picos, spending)
                else:
                    account.turn(spending)
                    account.subscription_id = subscription_id
            account.name, account.suspended, account.plan, account.wallet_picos = name, suspended, plan, wallet_picos
            account.gate.adopt(limits.rpm, limits.tpm, limits.concurrency)
            accounts[org_id] = account
        callers = {}
        for digest, key in book.keys.items():
            known = self._by_digest.get(digest)
            own = known.gate if known else None
            if (key.rpm, key.tpm, key.concurrency) != (None, None, None):
                own = own or self.new_gate(None, None, None)
                own.adopt(key.rpm, key.tpm, key.concurrency)
            callers[digest] = Caller(key, accounts[key.org_id], own)
        self._accounts, self._by_digest, self.revision = accounts, callers, book.revision

    def account(self, org_id: str) -> Account:
        """The live account of an organization; raises NotFound."""
        found = self._accounts.get(org_id)
        if found is None:
            raise NotFound(f"There is no organization {org_id!r}.")
        return found

    # -- inside ------------------------------------------------------------------------------------------------------

    def _require_active(self, account: Account) -> None:
        if account.suspended:
            raise self._refuse(
                Forbidden("This organization is suspended.", code="organization_suspended", hint="Ask the operator.")
            )

    def _check_money(
        self, account: Account, plan: catalog.PlanVersion, spending: Spending, demand: Demand
    ) -> dict[int, int]:
        """The units to hold, if quota and wallet bear them. Raises PaymentRequired."""
        terms = plan.terms
        cap = terms.limits.monthly_tokens
        if cap is not None and spending.tokens + spending.held_tokens + demand.tokens > cap:
            raise self._refuse(
                PaymentRequired(
                    f"The plan {plan.title!r} includes {cap:,} tokens a month; {spending.tokens:,} are used "
                    f"and this call may need {demand.tokens:,}.",
                    code="monthly_quota_exceeded",
                    hint="Wait for the next month, lower max_tokens, or change the plan.",
                )
            )
        units = demand.units(terms, spending.units)
        if terms.overage == "invoice":
            return units
        exposure = spending.exposure_picos(units)
        if terms.overage == "refuse" and exposure > 0:
            raise self._refuse(
                PaymentRequired(
                    f"The units included in the plan {plan.title!r} are used up for this month.",
                    code="monthly_quota_exceeded",
                    hint="Wait for the next month, lower max_tokens, or change the plan.",
                )
            )
        left = account.left_picos()
        if terms.overage == "wallet" and exposure > 0 and exposure > left:
            held = spending.exposure_picos()
            raise self._refuse(
                PaymentRequired(
                    f"This call may cost up to {format_micros(-((held - exposure) // PICOS_PER_MICRO), terms.currency)}, "
                    f"the wallet has {format_micros(max(0, left - held) // PICOS_PER_MICRO, terms.currency)} free.",
                    hint="Top up the wallet, or lower max_tokens.",
                )
            )
        return units

    def _this_month(self, account: Account) -> Spending:
        now_ms = self._clock.now_ms()
        if now_ms >= self._month_end_ms:
            self._month = month_of(now_ms)
            self._month_end_ms = month_bounds_ms(self._month)[1]
        month = self._month
        if account.spending.month != month:
            account.turn(self._begun(month, account.plan, {}, 0))
        return account.spending

    def _begun(
        self, month: str, plan: catalog.PlanVersion | None, models: dict[str, dict[str, int]], tokens: int
    ) -> Spending:
        """A month, of which so much was used before we looked."""
        return Spending(month, plan.terms if plan else catalog.Terms(), *used_units(plan, models, tokens))

    def _free(self, grant: Grant) -> None:
        if not grant.open:
            raise RuntimeError("a grant is settled or released once")
        grant.open = False
        for index, held in grant.units.items():
            grant.spending.held_units[index] -= held
        grant.spending.held_tokens -= grant.tokens
        for gate, _ in grant.taken:
            gate.running -= 1

    def _refuse(self, error: Refusal) -> Refusal:
        self.refusals[error.code] += 1
        return error


def gates_of(caller: Caller) -> list[Gate]:
    """The limits that a caller's requests pass: its key's own, and its organization's."""
    return [caller.account.gate] if caller.gate is None else [caller.gate, caller.account.gate]
