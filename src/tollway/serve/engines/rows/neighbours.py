"""What others on this machine take of the cores that this process could use well: the kernel's counters, less its own time.

    share = Neighbours(cores).share      # begins to look
    share()                              # 0.0: what this process asks for is free; 0.5: others hold half of it up

On a machine with more cores than the process may use, others disturb only once the rest is taken. Time that the machine itself
was not given (steal) counts as taken.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

DISTURBED: Final = 0.1
"""From this share on a measurement says more about the neighbours than about the model."""
_BUSY: Final = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; what guests take is in the user's


class Neighbours:
    """Counts from one look to the next."""

    def __init__(
        self,
        cores: int,
        stat: Path = Path("/proc/stat"),
        clock: Callable[[], float] = time.monotonic,
        own: Callable[[], float] = time.process_time,
    ) -> None:
        self._cores, self._stat, self._clock, self._own = max(1, cores), stat, clock, own
        self._last = self._looked()

    def share(self) -> float:
        """Since the last look: the share of this process's cores that others held; 0 where nobody counts."""
        (_, busy_before, own_before, before), self._last = self._last, self._looked()
        processors, busy_s, own_s, at = self._last
        elapsed, cores = at - before, min(self._cores, processors)
        if elapsed <= 0 or not cores:
            return 0.0
        others_s = max(0.0, busy_s - busy_before - (own_s - own_before))
        held_s = others_s - (processors - cores) * elapsed
        return min(1.0, max(0.0, held_s / (cores * elapsed)))

    def _looked(self) -> tuple[int, float, float, float]:
        """(processors, their busy seconds, this process's, when)."""
        ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        processors, ticks = 0, 0
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in self._stat.read_text(encoding="ascii").splitlines():
                name, *counts = line.split()
                if name in ours:
                    processors += 1
                    ticks += sum(int(counts[column]) for column in _BUSY)
        return processors, ticks / os.sysconf("SC_CLK_TCK"), self._own(), self._clock()
