"""Serving an encoder through the whole shop: against the machine's limit, against the servers people use, under overload, with
a quiet buyer beside a flood, and how well the lanes set themselves up. See bench/README.md."""

import argparse
import sys

from bench.rig.ending import ended
from bench.rig.figures import Figure
from bench.rig.processes import Overtime, Rig, talk
from bench.serving import grid, losses, measures, models, ours
from bench.serving.limit import Limit

LIMIT_S, QUICK_LIMIT_S = 3600, 1200
PARTS = ("throughput", "overload", "fairness", "calibration", "losses", "peers", "ray")
BATCHING = ("mosec", "litserve", "bentoml", "mlserver", "ray")


def bench(rig: Rig, pace: measures.Pace, parts: tuple[str, ...], quick: bool, found: list[Figure]) -> None:
    """The parts one after the other on one shop; what was found so far is not lost when a later part fails."""
    if set(parts) - {"calibration", "losses", "ray"}:
        limit = Limit(models.texts(600))
        talk(f"the limit's best plan: {limit.best} (lanes, threads, budget)")
        served = ours.start(rig)
        measures.check(served, limit)
        work = {
            "throughput": lambda: measures.throughput(rig, served, limit, pace),
            "overload": lambda: measures.overload(served, limit, pace),
            "fairness": lambda: measures.fairness(served, limit, pace),
            "peers": lambda: measures.against_peers(rig, served, limit, pace, ("naive", *BATCHING)),
        }
        for part in parts:
            if part in work:
                talk(f"\n{part}")
                found += _attempt(part, work[part])
        rig.stop(served.child)
    if "calibration" in parts:
        talk("\ncalibration")
        found += _attempt("calibration", lambda: grid.calibration(pace))
    if "losses" in parts:
        talk("\nlosses")
        found += _attempt("losses", lambda: losses.figures(rig, quick))
    if "ray" in parts:
        found += _attempt("ray", lambda: _ray(rig, quick))


def _attempt(part: str, work: object) -> list[Figure]:
    """A part that fails is told and leaves the others alone."""
    try:
        return list(work())  # type: ignore[operator]
    except (Overtime, KeyboardInterrupt):
        raise
    except Exception as wrong:  # noqa: BLE001 - told; what else was measured must not be lost
        talk(f"  {part} FAILED: {type(wrong).__name__}: {wrong}")
        return []


def _ray(rig: Rig, quick: bool) -> list[Figure]:
    """Replicas on Ray against the same on this machine, where that bench exists."""
    try:
        from bench.serving import on_ray
    except ImportError:
        return []
    talk("\nray")
    return list(on_ray.figures(rig, quick))


def main() -> int:
    """Exit codes as in `bench.rig.ending`."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="shorter and fewer rounds: under 6 minutes; figures are rougher"
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; repeat for more")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    asked = parser.parse_args()
    parts = tuple(part for part in PARTS if not asked.only or part in asked.only)

    def work(found: list[Figure]) -> bool:
        with Rig(QUICK_LIMIT_S if asked.quick else LIMIT_S) as rig:
            bench(rig, measures.QUICK if asked.quick else measures.FULL, parts, asked.quick, found)
        return True

    return ended(work, strict=asked.strict)


if __name__ == "__main__":
    sys.exit(main())
