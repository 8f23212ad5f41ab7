"""What making the models costs a stretch of time. For the books: a package's training is paid once and earns for months.

    charged(window) = training cost x (window ∩ [made, made + life]) / life        life: the setting training_life_days

Straight-line, whether the package sells or not: what was spent does not come back when a version is withdrawn. An adapter
that a buyer ordered is not in it: the hours that its training took are in the books of the machine (`job_rows`), and its
revenue came at once too. A package without a training cost (an import, a starter) charges nothing. The cost of a run is its seconds at the
machine's price, whatever else the machine did meanwhile.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Final

import msgspec
import sqlalchemy as sa

from tollway.artifacts.store import ModelPackage, Store
from tollway.kit import jobs
from tollway.kit.clock import to_ms
from tollway.sell import fine_tuning

_DAY_MS: Final = 86_400_000


class Trained(msgspec.Struct, frozen=True):
    """What a package's training cost, and over which time it is spread."""

    model: str
    version: str
    cost_micros: int
    currency: str
    made_ms: int
    life_ms: int

    def charged(self, from_ms: int, to_ms: int) -> Fraction:
        """The part of the cost that belongs to [from_ms, to_ms)."""
        overlap = min(to_ms, self.made_ms + self.life_ms) - max(from_ms, self.made_ms)
        return Fraction(self.cost_micros * max(0, overlap), self.life_ms)


def of_shelf(store: Store, life_days: int) -> list[Trained]:
    """Every package on the shelf that the shop made for itself, and whose making cost something."""
    made = [one for one in store.list() if one.manifest.lineage.training_cost_micros > 0]
    return [_trained(one, life_days) for one in made if not _ordered(one)]


def _ordered(package: ModelPackage) -> bool:
    return package.manifest.kind == "adapter" and "@" in package.manifest.lineage.parent


def _trained(package: ModelPackage, life_days: int) -> Trained:
    manifest = package.manifest
    made_ms = to_ms(datetime.fromisoformat(manifest.created).astimezone(UTC))
    cost = manifest.lineage
    return Trained(
        manifest.name, manifest.version, cost.training_cost_micros, cost.cost_currency, made_ms, life_days * _DAY_MS
    )


class JobRow(msgspec.Struct, frozen=True):
    """The hour of a training that a buyer ordered, as the hour of a replica."""

    model: str
    model_version: str
    hour_ms: int
    busy_us: int  # paid for, or still running
    failed_us: int  # of a job that was not billed
    idle_us: int = 0
    shadow_us: int = 0


def trained_as(base: str) -> str:
    """Under which name the books show the trainings on a base."""
    return f"training:{base}"


def job_rows(conn: sa.Connection, from_ms: int, to_ms: int) -> list[JobRow]:
    """What the machine worked on buyers' trainings, in processes of their own. A job that came to nothing was for nothing,
    whenever that turned out."""
    hour, job = jobs.job_hour.c, jobs.job.c
    query = (
        sa.select(hour.hour_ms, hour.busy_us, job.status, job.asked, job.made)
        .join(jobs.job, job.id == hour.job_id)
        .where(hour.hour_ms >= from_ms, hour.hour_ms < to_ms, job.kind == fine_tuning.KIND)
    )
    sums: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for row in conn.execute(query):
        place = (trained_as(row.asked["base"]), row.asked["base_version"], row.hour_ms)
        lost = row.status not in jobs.OPEN and not row.made.get("trained_tokens")
        sums[place][lost] += row.busy_us
    return [JobRow(*place, *sums[place]) for place in sorted(sums)]


def charged(trained: Iterable[Trained], currency: str, from_ms: int, to_ms: int) -> dict[tuple[str, str], Fraction]:
    """What each model version's training costs a stretch of time, exactly; costs in other currencies are left out."""
    found: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for one in trained:
        part = one.charged(from_ms, to_ms) if one.currency == currency else Fraction(0)
        if part:
            found[one.model, one.version] += part
    return dict(found)
