"""How much of this machine an engine may use: the CPU quota, whoever set it."""

import math
import os
from pathlib import Path


def cpu_cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole cores that the machine and the container's CPU quota allow, at least one."""
    cores = float(len(os.sched_getaffinity(0)))
    return max(1, math.floor(min(cores, _quota(root))))


def cpu_threads(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Threads for a language model's replica: the cores less one, at least one."""
    return max(1, cpu_cores(root) - 1)


def memory_bytes(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory of this machine, or of the control group when that is less."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            most = min(most, int((root / file).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return most


def _quota(root: Path) -> float:
    """CPUs granted by the control group (version 2, then 1); infinite when there is no limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((root / file).read_text(encoding="ascii") for file in files).split()
            quota, period = words[0], words[1]
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue
    return math.inf
