"""Where a Python process spends its time: py-spy (in an environment of its own) and a short table of its findings."""

import collections
import re
import subprocess
from pathlib import Path

from bench.rig import store
from bench.rig.processes import talk

FRAME = re.compile(r"^(?P<function>.*) \((?P<place>.*?)\)$")


def start_recording(pid: int, seconds: int, output: Path) -> subprocess.Popen[bytes]:
    """Begins to sample the process; the file is complete when the returned process has ended."""
    program = store.environment("py-spy", "py-spy") / "py-spy"
    command = [program, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", "250", "--format", "raw"]
    return subprocess.Popen(
        [*command, "--threads", "--output", output], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _short(place: str) -> str:
    for mark in ("site-packages/", "/src/", "/lib/python"):
        if mark in place:
            return place.split(mark, 1)[1]
    return place


def tell(recording: Path, title: str, most: int = 25) -> None:
    """Prints the lines with most time of their own and the functions with most time below them."""
    own: collections.Counter[str] = collections.Counter()
    below: collections.Counter[str] = collections.Counter()
    total = 0
    for line in recording.read_text(errors="replace").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [f for f in stack.split(";") if not f.startswith(("thread (", "process "))]
        if not frames:
            continue
        total += int(count)
        own[frames[-1]] += int(count)
        functions = {FRAME.sub(lambda m: f"{m['function']} ({m['place'].rsplit(':', 1)[0]})", f) for f in frames}
        below.update(dict.fromkeys(functions, int(count)))
    talk(f"\n{title}: {total} samples (busy threads only)")
    for heading, counter in (("own time by line", own), ("time in and below a function", below)):
        talk(f"  {heading}")
        for frame, count in counter.most_common(most):
            match = FRAME.match(frame)
            name, place = (match["function"], _short(match["place"])) if match else (frame, "")
            talk(f"    {count / max(1, total):6.1%}  {name:<44} {place}")
