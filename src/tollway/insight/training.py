"""What making the models costs a stretch of time. For the books: a package's training is paid once and earns for months.

    charged(window) = training cost x (window ∩ [made, made + life]) / life        life: the setting training_life_days

Straight-line, whether the package sells or not: what was spent does not come back when a version is withdrawn. An adapter
that a buyer ordered and paid by training tokens is charged at once, to the base it was trained on: its revenue came at once
too. A package without a training cost (an import, a starter) charges nothing. The cost of a run is its seconds at the
machine's price, whatever else the machine did meanwhile.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Final

import msgspec

from tollway.artifacts.store import ModelPackage, Store
from tollway.kit.clock import to_ms

_DAY_MS: Final = 86_400_000


class Trained(msgspec.Struct, frozen=True):
    """What a package's training cost, and over which time it is spread."""

    model: str
    version: str
    cost_micros: int
    currency: str
    made_ms: int
    life_ms: int  # 0: charged at once

    def charged(self, from_ms: int, to_ms: int) -> Fraction:
        """The part of the cost that belongs to [from_ms, to_ms)."""
        if not self.life_ms:
            return Fraction(self.cost_micros if from_ms <= self.made_ms < to_ms else 0)
        overlap = min(to_ms, self.made_ms + self.life_ms) - max(from_ms, self.made_ms)
        return Fraction(self.cost_micros * max(0, overlap), self.life_ms)


def of_shelf(store: Store, life_days: int) -> list[Trained]:
    """Every package on the shelf whose making cost something."""
    return [_trained(one, life_days) for one in store.list() if one.manifest.lineage.training_cost_micros > 0]


def _trained(package: ModelPackage, life_days: int) -> Trained:
    manifest, made = package.manifest, package.manifest.lineage
    ordered = manifest.kind == "adapter" and "@" in made.parent
    model, _, version = made.parent.partition("@") if ordered else (manifest.name, "", manifest.version)
    made_ms = to_ms(datetime.fromisoformat(manifest.created).astimezone(UTC))
    life_ms = 0 if ordered else life_days * _DAY_MS
    return Trained(model, version, made.training_cost_micros, made.cost_currency, made_ms, life_ms)


def charged(trained: Iterable[Trained], currency: str, from_ms: int, to_ms: int) -> dict[tuple[str, str], Fraction]:
    """What each model version's training costs a stretch of time, exactly; costs in other currencies are left out."""
    found: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for one in trained:
        part = one.charged(from_ms, to_ms) if one.currency == currency else Fraction(0)
        if part:
            found[one.model, one.version] += part
    return dict(found)
