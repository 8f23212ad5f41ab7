"""Where a Python process spends its time: py-spy (in an environment of its own) and a short table of its findings."""

import collections
import os
import re
import subprocess
from pathlib import Path

from bench.rig import store
from bench.rig.processes import TICK, talk

FRAME = re.compile(r"^(?P<function>.*) \((?P<place>.*?)\)$")


def start_recording(pid: int, seconds: int, output: Path, core: int) -> subprocess.Popen[bytes]:
    """Begins to sample which thread holds the interpreter, and where; the file is complete when this process ends.

    Only the holder of the interpreter's lock is sampled: others that seem to run are waiting for it. The sampler keeps
    to another core, lest it sees the process only where the process gives its core up.
    """
    program = store.environment("py-spy", "py-spy") / "py-spy"
    command = [program, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", "400", "--format", "raw"]
    return subprocess.Popen(
        [*command, "--gil", "--threads", "--output", output],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def thread_seconds(pid: int) -> dict[str, float]:
    """CPU used so far by each thread of a process, user and system apart: 'name user' and 'name system' -> seconds."""
    found: collections.Counter[str] = collections.Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        text = (task / "stat").read_text()
        name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        label = "main thread" if task.name == str(pid) else name
        found[f"{label} user"] += int(fields[11]) / TICK
        found[f"{label} system"] += int(fields[12]) / TICK
    return dict(found)


def _short(place: str) -> str:
    for mark in ("site-packages/", "/src/", "/lib/python"):
        if mark in place:
            return place.split(mark, 1)[1]
    return place


def tell(recording: Path, title: str, most: int = 40) -> None:
    """Prints, for each thread, the lines with most time of their own and the functions with most time below them."""
    own: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    below: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    total = 0
    for line in recording.read_text(errors="replace").splitlines():
        stack, _, count = line.rpartition(" ")
        head, *frames = stack.split(";")
        if not frames:
            continue
        total += int(count)
        thread = head.rpartition(": ")[2]
        own[thread][frames[-1]] += int(count)
        functions = {FRAME.sub(lambda m: f"{m['function']} ({m['place'].rsplit(':', 1)[0]})", f) for f in frames}
        below[thread].update(dict.fromkeys(functions, int(count)))
    talk(f"\n{title}: {total} samples")
    for thread in sorted(own, key=lambda name: -own[name].total()):
        share = own[thread].total() / max(1, total)
        talk(f" thread {thread}: {share:.1%} of the samples")
        if share < 0.02:
            continue
        for heading, counter in (("own time by line", own[thread]), ("time in and below a function", below[thread])):
            talk(f"  {heading}")
            beyond_start_up = [item for item in counter.most_common() if item[1] < 0.97 * own[thread].total()]
            for frame, count in beyond_start_up[:most]:
                match = FRAME.match(frame)
                name, place = (match["function"], _short(match["place"])) if match else (frame, "")
                talk(f"    {count / max(1, total):6.1%}  {name:<44} {place}")
