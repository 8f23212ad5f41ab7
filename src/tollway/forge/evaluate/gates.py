"""Gates: what a model must reach before it may be registered, e.g. `accuracy = ">=0.8"`, `"vs.baseline" = ">=0"`.

    accuracy, f1.positive, rmse ...       the figure itself
    low.accuracy                          the lower end of its 95 % interval (high.rmse: the upper end)
    vs.baseline, vs.majority, vs.parent   the main metric minus theirs on the same rows, positive = better
    vs.base                               the same against a language model's base, before it was trained
    vs.baseline.low, vs.baseline.high     the ends of that paired interval
    slice.COLUMN                          the main metric of the worst part of a column that is large enough
    gap.COLUMN[.parity|.opportunity|.quality]   how far its groups are apart; without a name the widest of the three
    noise.KIND                            how much of the main metric is lost at the strongest level

A recipe without a gate against a baseline has the usual ones (`usual`): better than the simplest baseline, and not surely
worse than the strongest.

All that fail are named at once; a name that means nothing is refused before any work, with what was probably meant.
"""

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tollway.kit.errors import BadRequest, Conflict
from tollway.kit.said import Said, say

RULE = re.compile(r"(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)")
_WORSE = "surely worse than "
HOLDS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class Gate(msgspec.Struct, frozen=True):
    """A rule, the figure it met, and whether it held. `value` None: the figure could not be computed, which fails."""

    name: str
    rule: str
    value: float | None
    passed: bool
    why: str = ""
    usual: bool = False  # not in the recipe: every model has to pass it


def check(require: Mapping[str, str], figures: Mapping[str, float | None], baselines: Sequence[str] = ()) -> list[Gate]:
    """Every gate against the figures there are, the usual ones last. Raises BadRequest naming all gates that mean nothing."""
    refuse_unknown(require, figures)
    asked = [_gate(name, rule, figures[name]) for name, rule in require.items()]
    return asked + [_gate(name, rule, figures[name], why) for name, rule, why in usual(require, figures, baselines)]


def usual(
    require: Mapping[str, str], figures: Mapping[str, float | None], baselines: Sequence[str]
) -> list[tuple[str, str, str]]:
    """The gates against baselines (simplest first) of a recipe that says nothing about them: name, rule, what it means."""
    sides = {re.sub(r"\.(low|high)$", "", name).removeprefix("vs.") for name in require if name.startswith("vs.")}
    if not baselines or sides & {"baseline", *baselines}:
        return []
    found = [(f"vs.{baselines[0]}", ">0", f"no better than {baselines[0]}, the simplest model there is")]
    if len(baselines) > 1:
        found.append(("vs.baseline.high", ">=0", f"{_WORSE}{baselines[-1]}"))
    return [one for one in found if figures.get(one[0]) is not None]


def refuse_unknown(require: Mapping[str, str], known: Mapping[str, Any]) -> None:
    """Raise BadRequest when a gate's name or rule cannot be understood."""
    problems: list[str] = []
    for name, rule in require.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
            problems.append(
                say("gates.did_you_mean", "{name}: there is no such figure; did you mean {close}?", name=name,
                    close=" or ".join(near))
                if near else say("gates.no_figure", "{name}: there is no such figure", name=name)
            )  # fmt: skip
        if not RULE.fullmatch(rule.strip()):
            problems.append(say("gates.no_rule", '{name} = "{rule}": not like ">=0.8"', name=name, rule=rule))
    if problems:
        heads = [name for name in known if name.split(".")[0] in ("vs", "gap", "slice", "noise") or "." not in name]
        raise BadRequest(
            say("gates.mean_nothing", "[evaluate] require has gates that mean nothing:\n  {said}", said=_lines(problems)),
            code="unknown_gate",
            hint=say("gates.known", "Known here: {these}; low.NAME and high.NAME are the ends of an interval.",
                     these=", ".join(heads[:30])),
        )  # fmt: skip


def _gate(name: str, rule: str, value: float | None, usual_why: str = "") -> Gate:
    found = RULE.fullmatch(rule.strip())
    assert found is not None
    if value is None:
        return Gate(name, rule, None, False, "it could not be computed from these rows")
    passed = HOLDS[found[1]](value, float(found[2]))
    return Gate(name, rule, value, passed, "" if passed else usual_why, bool(usual_why))


def enforce(gates: list[Gate], task: str = "", see: str = "the report") -> None:
    """Raise Conflict naming every gate that failed, with its figure; `see` is where the report is."""
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        raise Conflict(
            say("gates.failed", "{failed} of {count} gates failed:\n  {said}", failed=len(failed), count=len(gates),
                said=_lines([_missed(gate) for gate in failed])),
            code="gates_failed",
            hint=_hint(failed, task, see),
        )  # fmt: skip


def _missed(gate: Gate) -> Said:
    """One gate that failed, with what that means if nobody asked for it."""
    if gate.value is None:
        return say("gates.unknown", "{name} is unknown, wanted {rule} (it could not be computed from these rows)",
                   name=gate.name, rule=gate.rule)  # fmt: skip
    missed = say("gates.missed", "{name} is {found_value}, wanted {rule}", name=gate.name, found_value=f"{gate.value:.4g}",
                 rule=gate.rule)  # fmt: skip
    if not gate.why:
        return missed
    if gate.why.startswith(_WORSE):
        than = gate.why.removeprefix(_WORSE)
        return say("gates.worse", "{said} (surely worse than {than})", said=missed, than=than)
    than = gate.name.removeprefix("vs.")
    return say("gates.no_better", "{said} (no better than {than}, the simplest model there is)", said=missed, than=than)


def _lines(told: Sequence[str]) -> str:
    """Each on a line of its own."""
    if len(told) == 1:
        return told[0]
    return say("gates.lines", "{said}\n  {parts}", said=told[0], parts=_lines(told[1:]))


def _hint(failed: Sequence[Gate], task: str, see: str) -> str:
    """What to do: for gates that the recipe did not ask for, also how it says otherwise."""
    if not any(gate.usual for gate in failed):
        return say("gates.hint", "See {see} for where it errs; lower a gate in [evaluate] require only if you mean it.", see=see)
    first = next(gate for gate in failed if gate.usual)
    value = first.value or 0.0
    wanted = f'require = {{"{first.name}" = ">={value - abs(value) - 0.01:.2f}"}}'
    if task.endswith("-classification") and task != "token-classification":
        return say(
            "gates.hint_lopsided",
            "See {see} for where it errs. Where most rows are of one class, accuracy tells little: [evaluate] metrics = "
            '["auc"] judges by another figure. To register it all the same, the recipe says so: {wanted}.',
            see=see, wanted=wanted,
        )  # fmt: skip
    return say(
        "gates.hint_usual", "See {see} for where it errs. To register it all the same, the recipe says so: {wanted}.",
        see=see, wanted=wanted,
    )  # fmt: skip


def enforce_figures(figures: Mapping[str, Any], task: str = "", see: str = "the report") -> None:
    """The same from a step's record, without reading or importing anything else: for a run whose steps all were cached."""
    enforce([msgspec.convert(gate, Gate) for gate in figures.get("gates") or ()], task, see)
