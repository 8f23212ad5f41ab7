"""`python -m bench.factory [--quick] [--only PART ...]`: the factory against the trainers people use today, as ratios.

One run; both sides have the same cores, in turn.
"""

import argparse
import os
import sys

from bench.rig.figures import Figure, publish
from bench.rig.processes import talk


def finetune(quick: bool, threads: int) -> list[Figure]:
    from bench.factory import finetune as part

    return part.figures(quick, threads)


def pretrain(quick: bool, threads: int) -> list[Figure]:
    from bench.factory import pretrain as part

    return part.figures(quick)


def int8(quick: bool, threads: int) -> list[Figure]:
    from bench.factory import int8 as part

    return part.figures(quick, threads)


PARTS = {"finetune": finetune, "pretrain": pretrain, "int8": int8}


def main() -> int:
    """Runs the parts asked for; 0 when every bar holds."""
    parser = argparse.ArgumentParser(prog="python -m bench.factory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less work, less certain figures")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each side; all cores by default")
    chosen = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    figures: list[Figure] = []
    for name in chosen.only:
        talk(f"{name} ...")
        figures += PARTS[name](chosen.quick, chosen.threads)
    return 0 if publish(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
