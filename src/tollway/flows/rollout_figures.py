"""What is counted of a rollout, by every gateway for itself, and the sum of it that is judged.

A gateway's counters live in its memory and begin at nothing when it does. Its part of a rollout is what they grew by since
the rollout began; it is written down under the gateway's own name, so that the sum of all parts is what all gateways
counted, those that run and those that were stopped.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tollway.flows.rollout_verdict import Agreement, Side, Verdict
from tollway.kit import log
from tollway.serve.deployments import Record
from tollway.serve.stats import Stats

_log = log.get("flows.rollouts")


class Part(msgspec.Struct):
    """What one gateway counted."""

    canary: Stats = msgspec.field(default_factory=Stats)
    stable: Stats = msgspec.field(default_factory=Stats)
    agreement: Agreement = msgspec.field(default_factory=Agreement)


class Figures(msgspec.Struct):
    """A rollout's figures as they are kept: the sum, what it says, and the parts it is made of."""

    canary: Side = msgspec.field(default_factory=Side)
    stable: Side = msgspec.field(default_factory=Side)
    agreement: Agreement = msgspec.field(default_factory=Agreement)
    verdict: Verdict = msgspec.field(default_factory=lambda: Verdict("go on", ""))
    parts: dict[str, Part] = {}

    def add_up(self) -> None:
        """Make the sum of the parts; what was sold and rated is known for all together."""
        self.canary.stats = _sum(Stats(), (part.canary for part in self.parts.values()))
        self.stable.stats = _sum(Stats(), (part.stable for part in self.parts.values()))
        self.agreement = _sum(Agreement(), (part.agreement for part in self.parts.values()))

    @property
    def calls(self) -> tuple[int, int, int]:
        """What moves when anything does."""
        return self.canary.stats.calls, self.stable.stats.calls, self.agreement.compared + self.agreement.dropped


class Growth:
    """How much counters grew since they were looked at last."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, ...]] = {}

    def begin(self, name: str, counters: Any) -> None:
        """What these show now was before."""
        self._seen[name] = _flat(counters)

    def add(self, name: str, counters: Any, to: Any) -> None:
        """Add what they grew by. Counters only grow, until who counts begins anew."""
        now = _flat(counters)
        before = self._seen.get(name, (0,) * len(now))
        if any(new < old for new, old in zip(now, before, strict=True)):
            before = (0,) * len(now)
        self._seen[name] = now
        _grow(to, [new - old for new, old in zip(now, before, strict=True)])


def figures_of(record: Record) -> Figures:
    """What was measured so far, by whomever."""
    return read(record.figures, record.id)


def read(given: Mapping[str, Any], id_: str) -> Figures:
    """Figures as they were stored."""
    try:
        return msgspec.convert(given, Figures)
    except msgspec.ValidationError as error:  # of another release: it starts anew
        _log.warning("figures of a rollout cannot be read", deployment=id_, error=str(error))
        return Figures()


def _sum(to: Any, parts: Iterable[Any]) -> Any:
    for part in parts:
        _grow(to, [*_flat(part)])
    return to


def _flat(counters: Any) -> tuple[Any, ...]:
    """All numbers of a struct, in order."""
    found: list[Any] = []
    for name in counters.__struct_fields__:
        value = getattr(counters, name)
        if isinstance(value, msgspec.Struct):
            found += _flat(value)
        elif isinstance(value, list):
            found += value
        else:
            found.append(0 if name == "since_ms" else value)  # a moment, not a counter
    return tuple(found)


def _grow(counters: Any, by: list[Any]) -> None:
    """Add numbers in the order of `_flat`; uses them up."""
    for name in counters.__struct_fields__:
        value = getattr(counters, name)
        if isinstance(value, msgspec.Struct):
            _grow(value, by)
        elif isinstance(value, list):
            for place in range(len(value)):
                value[place] += by.pop(0)
        else:
            setattr(counters, name, value + by.pop(0))
