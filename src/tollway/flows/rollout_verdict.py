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

import math
from typing import Any, Final, Literal

import msgspec

from tollway.kit.errors import BadRequest
from tollway.kit.said import Said, coded, listed, say
from tollway.kit.sequential import bounds
from tollway.serve.stats import BOUNDS_MS, Histogram, Stats

Decision = Literal["promote", "roll back", "go on"]
State = Literal["good", "open", "bad", "unknown"]
_SHARES: Final = 6  # measures that are watched all the time and split the chance between them
_NOT_FELT_MS: Final = 10.0
_COMPARABLE: Final = 5  # calls of the stable version below which there is nothing to compare with
_P95: Final = 0.95
_CHANCE: Final = 2.0  # standard deviations of the difference of two shares: more is hardly chance


class RolloutPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
    said: dict[str, Any] | None = None  # the words as code and figures

    @property
    def sentence(self) -> Said:
        """The words, with what they were made of."""
        return Said(self.words, **(self.said or {}))


class Verdict(msgspec.Struct, frozen=True):
    """The decision, the reason in words and figures, and what was found of each measure."""

    decision: Decision
    why: str
    findings: tuple[Finding, ...] = ()
    said: dict[str, Any] | None = None  # why, as code and figures

    @property
    def reason(self) -> Said:
        """Why, with what it was made of."""
        return Said(self.why, **(self.said or {}))


def verdict(decision: Decision, why: str, findings: tuple[Finding, ...] = ()) -> Verdict:
    """A decision with its reason, which keeps its code and figures."""
    return Verdict(decision, str(why), findings, coded(why))


def judge(policy: RolloutPolicy, canary: Side, stable: Side, agreement: Agreement, elapsed_s: float) -> Verdict:
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
        return verdict("roll back", listed([one.sentence for one in bad]), findings)
    if calls >= policy.min_calls and elapsed_s >= policy.promote_after_s:
        return _due(policy, calls, canary, findings, elapsed_s)
    if elapsed_s >= policy.max_time_s and policy.automatic:
        what = say(
            "rollout.too_few", "only {calls} of {asked} calls in {elapsed_s}: too few to tell", calls=calls,
            asked=policy.min_calls, elapsed_s=elapsed_s,
        )  # fmt: skip
        return verdict("roll back", what, findings)
    return verdict("go on", _so_far(policy, calls, elapsed_s), findings)


def _due(policy: RolloutPolicy, calls: int, canary: Side, findings: tuple[Finding, ...], elapsed_s: float) -> Verdict:
    """There are enough calls, and nothing is proven against it."""
    against = [one for one in findings if one.state in ("open", "bad")]
    dear = [one for one in against if one.state == "bad"]
    if dear:
        return verdict("roll back", listed([one.sentence for one in dear]), findings)
    if against:
        found = [one.sentence for one in against]
        if elapsed_s >= policy.max_time_s and policy.automatic:
            late = say("rollout.still", "after {elapsed_s} still {found}", elapsed_s=elapsed_s, found=found)
            return verdict("roll back", late, findings)
        return verdict("go on", say("rollout.doubt", "{found}; not beyond doubt, so it goes on", found=found), findings)
    hidden = bounds(canary.stats.errors, canary.tried, policy.chance)[1]
    why = say(
        "rollout.due",
        "{calls} calls in {elapsed_s}: {good}. An error rate above {hidden_share} would have shown",
        calls=calls,
        elapsed_s=elapsed_s,
        good=[one.sentence for one in findings if one.state == "good"],
        hidden_share=hidden,
    )
    return verdict("promote", why, findings)


def _so_far(policy: RolloutPolicy, calls: int, elapsed_s: float) -> Said:
    asked, wanted_s = policy.min_calls, policy.promote_after_s
    if elapsed_s >= wanted_s:
        return say("rollout.calls_so_far", "{calls} of {asked} calls", calls=calls, asked=asked)
    return say(
        "rollout.so_far", "{calls} of {asked} calls, {elapsed_s} of {wanted_s}", calls=calls, asked=asked,
        elapsed_s=elapsed_s, wanted_s=wanted_s,
    )  # fmt: skip


# -- the measures ------------------------------------------------------------------------------------------------------


def _errors(policy: RolloutPolicy, canary: Side, stable: Side, chance: float) -> Finding:
    failed, tried = canary.stats.errors, canary.tried
    seen, usual = _ratio(failed, tried), _ratio(stable.stats.errors, stable.tried)
    low = bounds(failed, tried, chance / 2)[0]
    most = bounds(stable.stats.errors, stable.tried, chance / 2)[1] if stable.tried >= _COMPARABLE else 0.0
    limit = (usual or 0.0) + policy.max_error
    state = _state(seen, worse=low > most + policy.max_error, within=seen is not None and seen <= limit)
    against = say("rollout.usual_errors", "{usual_share} of the stable version's", usual_share=usual)
    if usual is None:
        against = say("rollout.usual_none", "none of the stable version's to compare")
    words = say(
        "rollout.errors", "{failed} of {tried} calls failed ({seen_share}) against {against}, at most {limit_share} allowed",
        failed=failed, tried=tried, seen_share=seen, against=against, limit_share=limit,
    )  # fmt: skip
    return _finding("errors", "share", state, seen, usual, limit, tried, words)


def _refusals(policy: RolloutPolicy, canary: Side, stable: Side, chance: float) -> Finding | None:
    """Requests that it calls wrong and the stable version does not: it wants other input, and callers were not asked. Wrong
    requests that callers send to both are nobody's fault: what chance deals one of the two more of them does not stand in the
    way either."""
    mine, usual = canary.stats.refused, stable.stats.refused
    asked, asked_usually = canary.tried + mine, stable.tried + usual
    if not mine or not asked_usually:
        return None
    seen, before = mine / asked, usual / asked_usually
    low, most = bounds(mine, asked, chance / 2)[0], bounds(usual, asked_usually, chance / 2)[1]
    spread = math.sqrt(before * (1 - before) * (1 / asked + 1 / asked_usually))
    limit = min(1.0, before + policy.max_error + _CHANCE * spread)
    state = _state(seen, worse=low > most + policy.max_error, within=seen <= limit)
    words = say(
        "rollout.refused", "{refused} of {asked} requests refused ({seen_share}) against {usual_share}", refused=mine,
        asked=asked, seen_share=seen, usual_share=before,
    )  # fmt: skip
    return _finding("refused", "share", state, seen, before, limit, asked, _at_most(words, limit))


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
    figures = {"seen_ms": seen_ms, "usual_ms": usual_ms, "limit_ms": limit_ms}
    if name == "latency":
        words = say(
            "rollout.latency", "answers within {seen_ms} (95 of 100) against {usual_ms}, at most {limit_ms} allowed", **figures
        )  # fmt: skip
    else:
        words = say(
            "rollout.first_token", "first tokens within {seen_ms} (95 of 100) against {usual_ms}, at most {limit_ms} allowed",
            **figures,
        )  # fmt: skip
    return _finding(name, "ms", state, seen_ms, usual_ms, limit_ms, canary.count, words)


def _ratings(policy: RolloutPolicy, canary: Side, stable: Side, chance: float) -> Finding | None:
    if not canary.rated:
        return None
    seen, usual = canary.bad / canary.rated, _ratio(stable.bad, stable.rated)
    most = bounds(stable.bad, stable.rated, chance / 2)[1] if stable.rated >= _COMPARABLE else 0.0
    limit = min(1.0, (usual or 0.0) + policy.max_bad)
    worse = bounds(canary.bad, canary.rated, chance / 2)[0] > most + policy.max_bad
    # a handful of ratings proves nothing either way: they stand in the way only when they are beyond doubt
    state: State = "bad" if worse else "good" if seen <= limit else "unknown"
    words = say(
        "rollout.ratings", "{bad} of {rated} ratings bad ({seen_share}) against {usual_share}", bad=canary.bad,
        rated=canary.rated, seen_share=seen, usual_share=usual,
    )  # fmt: skip
    return _finding("ratings", "share", state, seen, usual, limit, canary.rated, _at_most(words, limit))


def _agreement(policy: RolloutPolicy, agreement: Agreement, chance: float) -> Finding | None:
    if not agreement.compared and not (policy.min_agreement and policy.mirror):
        return None
    seen = _ratio(agreement.agreed, agreement.compared)
    most = bounds(agreement.agreed, agreement.compared, chance)[1]
    asked = policy.min_agreement
    within = seen is not None and seen >= asked and agreement.compared >= min(policy.min_calls, 30)
    state: State = _state(seen, worse=most < asked, within=within) if asked else "good"
    if seen is None:
        state = "open"
    words = say(
        "rollout.agreement", "{agreed} of {compared} answers as the stable version's ({seen_share})",
        agreed=agreement.agreed, compared=agreement.compared, seen_share=seen,
    )  # fmt: skip
    if asked:
        words = say("rollout.agreement_asked", "{found}, at least {asked_share} asked", found=words, asked_share=asked)
    return _finding("agreement", "share", state, seen, None, asked or None, agreement.compared, words)


def _cost(policy: RolloutPolicy, canary: Side, stable: Side) -> Finding | None:
    mine, usual = canary.stats.engine_us, stable.stats.engine_us
    if not canary.tried or not stable.tried or not mine or not usual:
        return None
    ratio = (mine / canary.tried) / (usual / stable.tried)
    state: State = "good"
    if policy.max_cost_ratio is not None:
        state = "good" if ratio <= policy.max_cost_ratio else "bad"
    words = say(
        "rollout.cost", "a call takes {took_ms} of the engine, {ratio} times the stable version's",
        took_ms=mine / canary.tried / 1e3, ratio=ratio,
    )  # fmt: skip
    if policy.max_cost_ratio is not None:
        words = say("rollout.cost_asked", "{found}, at most {limit} allowed", found=words, limit=policy.max_cost_ratio)
    return _finding("cost", "ratio", state, ratio, 1.0, policy.max_cost_ratio, canary.tried, words)


def _margin(policy: RolloutPolicy, canary: Side, stable: Side) -> Finding | None:
    mine, usual, asked = _margin_of(canary), _margin_of(stable), policy.min_margin
    if mine is None:
        if asked is None:
            return None
        none = say("rollout.margin_unknown", "nothing sold yet; a margin of at least {asked_share} asked", asked_share=asked)
        return _finding("margin", "share", "open", None, usual, asked, canary.sold, none)
    state: State = "good" if asked is None or mine >= asked else "bad"
    words = say("rollout.margin", "margin {seen_share} of the price", seen_share=mine)
    if usual is not None:
        words = say(
            "rollout.margin_against", "margin {seen_share} of the price against {usual_share}", seen_share=mine, usual_share=usual
        )  # fmt: skip
    if asked is not None:
        words = say("rollout.margin_asked", "{found}, at least {asked_share} asked", found=words, asked_share=asked)
    return _finding("margin", "share", state, mine, usual, asked, canary.sold, words)


def _margin_of(side: Side) -> float | None:
    return (side.price_picos - side.cost_picos) / side.price_picos if side.price_picos > 0 else None


# -- small parts -------------------------------------------------------------------------------------------------------


def _finding(
    name: str, unit: str, state: State, canary: float | None, stable: float | None, limit: float | None, trials: int,
    words: Said,
) -> Finding:  # fmt: skip
    return Finding(name, unit, state, canary, stable, limit, trials, str(words), words.coded())


def _at_most(found: Said, limit: float) -> Said:
    return say("rollout.at_most", "{found}, at most {limit_share} allowed", found=found, limit_share=limit)


def _state(seen: float | None, *, worse: bool, within: bool) -> State:
    if seen is None:
        return "unknown"
    return "bad" if worse else "good" if within else "open"


def _bucket(took_ms: float) -> int:
    """The bucket whose upper bound is the first at or above this."""
    return next((at for at, bound in enumerate(BOUNDS_MS) if bound >= took_ms), len(BOUNDS_MS) - 1)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def policy_of(given: dict[str, Any]) -> RolloutPolicy:
    """A policy as it was stored. Raises BadRequest for one that is none."""
    try:
        return msgspec.convert(given, RolloutPolicy)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The policy is not valid: {error}.", param="policy") from error
