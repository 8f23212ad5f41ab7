"""The judge of a rollout: what was measured of a new version and of the stable one -> promote, roll back, or go on. Pure.

    verdict = judge(policy, canary, stable, agreed, elapsed_s)     # verdict.decision, verdict.why, verdict.findings

Six shares are watched all the time: errors, refused requests, slow answers, slow first tokens, bad ratings, answers unlike
the stable version's. Each is held against the stable version in the same hours with bounds that hold at every moment together
(`kit/sequential.py`): however often one looks, the chance that a version as good as the policy asks is ever taken back is
at most `chance` (5 %), all six together. What a call costs and earns is a mean, for which no such bound exists, so it is
judged once, when promotion is due.

Promotion asks for more than the absence of proof: enough calls, enough time, and no figure beyond its limit as it stands.
The reason says what so few calls could still hide.
"""

from typing import Any, Final, Literal

import msgspec

from tollway.kit.errors import BadRequest
from tollway.kit.sequential import bounds
from tollway.serve.stats import BOUNDS_MS, Histogram, Stats

Decision = Literal["promote", "roll back", "go on"]
State = Literal["good", "open", "bad", "unknown"]
_SHARES: Final = 6  # measures that are watched all the time and split the chance between them
_NOT_FELT_MS: Final = 10.0
_COMPARABLE: Final = 5  # calls of the stable version below which there is nothing to compare with
_P95: Final = 0.95


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a new version must be like, and how long it is watched. The same names as the options of `tollway deploy`."""

    automatic: bool = True  # promote by itself; rolling back is always by itself
    promote_after_s: int = 300
    min_calls: int = 100
    max_time_s: int = 86_400
    max_error: float = 0.01  # failed calls, over the stable version's share
    max_latency_ratio: float = 1.5  # 95th percentile, times the stable version's
    max_first_token_ratio: float = 1.5
    max_bad: float = 0.1  # bad among the rated answers, over the stable version's share
    min_agreement: float = 0.0  # of copied calls, as the stable version answered them; 0: not asked
    max_cost_ratio: float | None = None  # engine time of a call, times the stable version's
    min_margin: float | None = None  # of the price
    mirror: int = 0  # percent of the stable version's calls that are copied to a canary, to compare answers
    grace_s: int = 300  # the version before stays loaded for so long
    chance: float = 0.05

    def __post_init__(self) -> None:
        shares = ("max_error", "max_bad", "min_agreement", "chance")
        wrong = [name for name in shares if not 0 <= getattr(self, name) <= 1]
        wrong += [name for name in ("max_latency_ratio", "max_first_token_ratio") if not getattr(self, name) >= 1]
        wrong += [
            name for name in ("promote_after_s", "max_time_s", "grace_s") if not 0 <= getattr(self, name) <= 10**9
        ]
        wrong += ["min_calls"] if not 1 <= self.min_calls <= 10**9 else []
        wrong += ["mirror"] if not 0 <= self.mirror <= 100 else []
        wrong += ["chance"] if not self.chance > 0 else []
        wrong += ["max_time_s"] if self.max_time_s < self.promote_after_s else []
        wrong += ["max_cost_ratio"] if self.max_cost_ratio is not None and not self.max_cost_ratio > 0 else []
        wrong += ["min_margin"] if self.min_margin is not None and not self.min_margin <= 1 else []
        if wrong:
            raise BadRequest(
                f"The policy's {wrong[0]} cannot be {getattr(self, wrong[0])!r}.",
                param=wrong[0],
                hint="Shares are 0 to 1 (or 1%), ratios 1 or more, times in seconds; max_time_s covers promote_after_s.",
            )


class Side(msgspec.Struct):
    """What was measured of one version since the rollout began."""

    stats: Stats = msgspec.field(default_factory=Stats)
    rated: int = 0
    bad: int = 0
    sold: int = 0  # calls with a usage event
    price_picos: int = 0  # what they were sold for
    cost_picos: int = 0  # what their engine time cost

    @property
    def tried(self) -> int:
        """Calls that could succeed or fail by the version's own doing."""
        return max(0, self.stats.calls - self.stats.left - self.stats.refused)


class Agreement(msgspec.Struct):
    """Copied calls: how many answers could be compared, how many were like the stable version's, how alike in all."""

    compared: int = 0
    agreed: int = 0
    likeness: float = 0.0  # sum of 0 to 1
    dropped: int = 0  # copies not made because the machine was busy


class Finding(msgspec.Struct, frozen=True):
    """One measure: the two figures, the limit, and what that means. `unit`: share | ms | ratio."""

    name: str
    unit: str
    state: State
    canary: float | None
    stable: float | None
    limit: float | None
    trials: int
    words: str


class Verdict(msgspec.Struct, frozen=True):
    """The decision, the reason in words and figures, and what was found of each measure."""

    decision: Decision
    why: str
    findings: tuple[Finding, ...] = ()


def judge(policy: Policy, canary: Side, stable: Side, agreement: Agreement, elapsed_s: float) -> Verdict:
    """What to do now."""
    each = policy.chance / _SHARES
    findings = tuple(
        found
        for found in (
            _errors(policy, canary, stable, each),
            _refusals(policy, canary, stable, each),
            _slower("latency", policy.max_latency_ratio, canary.stats.latency, stable.stats.latency, each),
            _slower(
                "first_token", policy.max_first_token_ratio, canary.stats.first_token, stable.stats.first_token, each
            ),
            _ratings(policy, canary, stable, each),
            _agreement(policy, agreement, each),
            _cost(policy, canary, stable),
            _margin(policy, canary, stable),
        )
        if found is not None
    )
    calls = max(canary.tried, agreement.compared)
    bad = [one for one in findings if one.state == "bad" and one.name not in ("cost", "margin")]
    if bad:
        return Verdict("roll back", "; ".join(one.words for one in bad), findings)
    if calls >= policy.min_calls and elapsed_s >= policy.promote_after_s:
        return _due(policy, calls, canary, findings, elapsed_s)
    if elapsed_s >= policy.max_time_s and policy.automatic:
        what = f"only {calls:,} of {policy.min_calls:,} calls in {_span(elapsed_s)}: too few to tell"
        return Verdict("roll back", what, findings)
    return Verdict("go on", _so_far(policy, calls, elapsed_s), findings)


def _due(policy: Policy, calls: int, canary: Side, findings: tuple[Finding, ...], elapsed_s: float) -> Verdict:
    """There are enough calls, and nothing is proven against it."""
    against = [one for one in findings if one.state in ("open", "bad")]
    dear = [one for one in against if one.state == "bad"]
    if dear:
        return Verdict("roll back", "; ".join(one.words for one in dear), findings)
    if against:
        said = "; ".join(one.words for one in against)
        if elapsed_s >= policy.max_time_s and policy.automatic:
            return Verdict("roll back", f"after {_span(elapsed_s)} still {said}", findings)
        return Verdict("go on", f"{said}; not beyond doubt, so it goes on", findings)
    hidden = bounds(canary.stats.errors, canary.tried, policy.chance)[1]
    good = "; ".join(one.words for one in findings if one.state == "good")
    why = f"{calls:,} calls in {_span(elapsed_s)}: {good}. An error rate above {_percent(hidden)} would have shown"
    return Verdict("promote", why, findings)


def _so_far(policy: Policy, calls: int, elapsed_s: float) -> str:
    parts = [f"{calls:,} of {policy.min_calls:,} calls"]
    if elapsed_s < policy.promote_after_s:
        parts.append(f"{_span(elapsed_s)} of {_span(policy.promote_after_s)}")
    return ", ".join(parts)


# -- the measures ------------------------------------------------------------------------------------------------------


def _errors(policy: Policy, canary: Side, stable: Side, chance: float) -> Finding:
    failed, tried = canary.stats.errors, canary.tried
    seen, usual = _ratio(failed, tried), _ratio(stable.stats.errors, stable.tried)
    low = bounds(failed, tried, chance / 2)[0]
    most = bounds(stable.stats.errors, stable.tried, chance / 2)[1] if stable.tried >= _COMPARABLE else 0.0
    limit = (usual or 0.0) + policy.max_error
    state = _state(seen, worse=low > most + policy.max_error, within=seen is not None and seen <= limit)
    against = (
        f"{_percent(usual)} of the stable version's" if usual is not None else "none of the stable version's to compare"
    )
    words = (
        f"{failed:,} of {tried:,} calls failed ({_percent(seen)}) against {against}, at most {_percent(limit)} allowed"
    )
    return Finding("errors", "share", state, seen, usual, limit, tried, words)


def _refusals(policy: Policy, canary: Side, stable: Side, chance: float) -> Finding | None:
    """Requests that it calls wrong and the stable version does not: it wants other input, and callers were not asked."""
    mine, usual = canary.stats.refused, stable.stats.refused
    asked, asked_usually = canary.tried + mine, stable.tried + usual
    if not mine or not asked_usually:
        return None
    seen, before = mine / asked, usual / asked_usually
    low, most = bounds(mine, asked, chance / 2)[0], bounds(usual, asked_usually, chance / 2)[1]
    limit = before + policy.max_error
    state = _state(seen, worse=low > most + policy.max_error, within=seen <= limit)
    words = f"{mine:,} of {asked:,} requests refused ({_percent(seen)}) against {_percent(before)}"
    return Finding("refused", "share", state, seen, before, limit, asked, words)


def _slower(name: str, ratio: float, canary: Histogram, stable: Histogram, chance: float) -> Finding | None:
    """Is its 95th percentile more than `ratio` times the stable version's? If it is not, then no larger share of its calls
    takes longer than ratio x t than of the stable version's takes longer than t, for any t; here t is the latter's 95th
    percentile, to the next bound of the histogram."""
    if not canary.count or not stable.count:
        return None
    usual_ms, seen_ms = stable.quantile_ms(_P95), canary.quantile_ms(_P95)
    limit_ms = max(ratio * usual_ms, usual_ms + _NOT_FELT_MS)
    at = _bucket(usual_ms)
    beyond = _bucket(max(ratio * BOUNDS_MS[at], BOUNDS_MS[at] + _NOT_FELT_MS))
    slow, slow_usually = sum(canary.buckets[beyond + 1 :]), sum(stable.buckets[at + 1 :])
    low, most = bounds(slow, canary.count, chance / 2)[0], bounds(slow_usually, stable.count, chance / 2)[1]
    state = _state(seen_ms, worse=low > most and seen_ms > limit_ms, within=seen_ms <= limit_ms)
    what = "answers" if name == "latency" else "first tokens"
    words = f"{what} within {_ms(seen_ms)} (95 of 100) against {_ms(usual_ms)}, at most {_ms(limit_ms)} allowed"
    return Finding(name, "ms", state, seen_ms, usual_ms, limit_ms, canary.count, words)


def _ratings(policy: Policy, canary: Side, stable: Side, chance: float) -> Finding | None:
    if not canary.rated:
        return None
    seen, usual = canary.bad / canary.rated, _ratio(stable.bad, stable.rated)
    most = bounds(stable.bad, stable.rated, chance / 2)[1] if stable.rated >= _COMPARABLE else 0.0
    limit = min(1.0, (usual or 0.0) + policy.max_bad)
    worse = bounds(canary.bad, canary.rated, chance / 2)[0] > most + policy.max_bad
    # a handful of ratings proves nothing either way: they stand in the way only when they are beyond doubt
    state: State = "bad" if worse else "good" if seen <= limit else "unknown"
    words = f"{canary.bad:,} of {canary.rated:,} ratings bad ({_percent(seen)}) against {_percent(usual)}"
    return Finding("ratings", "share", state, seen, usual, limit, canary.rated, words)


def _agreement(policy: Policy, agreement: Agreement, chance: float) -> Finding | None:
    if not agreement.compared and not (policy.min_agreement and policy.mirror):
        return None
    seen = _ratio(agreement.agreed, agreement.compared)
    most = bounds(agreement.agreed, agreement.compared, chance)[1]
    asked = policy.min_agreement
    within = seen is not None and seen >= asked and agreement.compared >= min(policy.min_calls, 30)
    state: State = _state(seen, worse=most < asked, within=within) if asked else "good"
    if seen is None:
        state = "open"
    wanted = f", at least {_percent(asked)} asked" if asked else ""
    words = f"{agreement.agreed:,} of {agreement.compared:,} answers as the stable version's ({_percent(seen)}){wanted}"
    return Finding("agreement", "share", state, seen, None, asked or None, agreement.compared, words)


def _cost(policy: Policy, canary: Side, stable: Side) -> Finding | None:
    mine, usual = canary.stats.engine_us, stable.stats.engine_us
    if not canary.tried or not stable.tried or not mine or not usual:
        return None
    ratio = (mine / canary.tried) / (usual / stable.tried)
    state: State = "good"
    if policy.max_cost_ratio is not None:
        state = "good" if ratio <= policy.max_cost_ratio else "bad"
    words = f"a call takes {_ms(mine / canary.tried / 1e3)} of the engine, {ratio:.2f} times the stable version's"
    return Finding("cost", "ratio", state, ratio, 1.0, policy.max_cost_ratio, canary.tried, words)


def _margin(policy: Policy, canary: Side, stable: Side) -> Finding | None:
    mine, usual = _margin_of(canary), _margin_of(stable)
    if mine is None:
        return None
    state: State = "good"
    if policy.min_margin is not None:
        state = "good" if mine >= policy.min_margin else "bad"
    words = f"margin {_percent(mine)} of the price" + (f" against {_percent(usual)}" if usual is not None else "")
    return Finding("margin", "share", state, mine, usual, policy.min_margin, canary.sold, words)


def _margin_of(side: Side) -> float | None:
    return (side.price_picos - side.cost_picos) / side.price_picos if side.price_picos > 0 else None


# -- small parts -------------------------------------------------------------------------------------------------------


def _state(seen: float | None, *, worse: bool, within: bool) -> State:
    if seen is None:
        return "unknown"
    return "bad" if worse else "good" if within else "open"


def _bucket(took_ms: float) -> int:
    """The bucket whose upper bound is the first at or above this."""
    return next((at for at, bound in enumerate(BOUNDS_MS) if bound >= took_ms), len(BOUNDS_MS) - 1)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(share: float | None) -> str:
    if share is None:
        return "none"
    return f"{share * 100:.{0 if share in (0, 1) else 1 if abs(share) >= 0.001 else 2}f} %"


def _ms(took_ms: float) -> str:
    return (
        f"{took_ms / 1e3:,.1f} s"
        if took_ms >= 10_000
        else f"{took_ms:,.0f} ms"
        if took_ms >= 10
        else f"{took_ms:.1f} ms"
    )


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def policy_of(given: dict[str, Any]) -> Policy:
    """A policy as it was stored. Raises BadRequest for one that is none."""
    try:
        return msgspec.convert(given, Policy)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The policy is not valid: {error}.", param="policy") from error
