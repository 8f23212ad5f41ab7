"""How a bench ends: its figures on stdout, why not on stderr, and one meaning for each exit code (bench/README.md)."""

import subprocess
import time
from collections.abc import Callable

from bench.rig.figures import Figure, publish
from bench.rig.processes import Overtime, talk
from bench.rig.store import Missing


def ended(work: Callable[[list[Figure]], bool], *, strict: bool = False) -> int:
    """Run `work`, which adds to the figures as it finds them and says whether every call was accounted for. The exit code:
    0 done, 1 a bar was missed and `strict`, 2 something needed is missing, 3 calls failed or rows do not match, 4 out of time,
    130 stopped."""
    began, found = time.monotonic(), list[Figure]()
    try:
        right = work(found)
    except Missing as missing:
        talk(f"bench: {missing}")
        return 2
    except (RuntimeError, OSError, subprocess.SubprocessError) as wrong:
        talk(f"bench: {wrong}")
        return 3
    except Overtime as overtime:
        talk(f"bench: {overtime}")
        publish(found)
        return 4
    except KeyboardInterrupt:
        talk("bench: stopped")
        return 130
    all_hold = publish(found)
    talk(f"took {time.monotonic() - began:.0f} s")
    if not right:
        return 3
    return 1 if strict and not all_hold else 0
