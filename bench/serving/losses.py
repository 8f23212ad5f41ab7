"""What callers notice of a replica that is killed, and of a version that is swapped, at a steady load on two replicas."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

from bench.rig.figures import Figure
from bench.rig.processes import Rig, talk, tree
from bench.serving import loads, models, ours

_LOAD_SHARE = 0.5  # of what one replica's machine does when it is busy: what is left can take over
_PER = "of the calls at a steady load on two replicas"


def figures(rig: Rig, quick: bool) -> list[Figure]:
    """A replica killed: calls failed, until it is noticed, until two answer again. A version swapped: calls failed."""
    texts = models.texts(600)
    served = ours.start(rig, place="home-losses")
    served.shop.tollway("model", "serving", ours.MODEL, "--replicas", "2")
    _until(lambda: len(_replicas(served)) == 2 and _ready(served) == 2, 60)
    rate = loads.closed(served.target, texts, 16, 3.0).rate * _LOAD_SHARE
    found: dict[str, list[float]] = {"failed": [], "noticed": [], "back": []}
    for number in range(1 if quick else 5):
        seconds = 6.0 if quick else 10.0
        told: dict[str, float] = {}
        victim = threading.Thread(target=_kill_one, args=(served, seconds / 3, told))
        victim.start()
        seen = loads.run(served.target, [served.target.caller(texts, rate=rate)], seconds, 0.5)[0]
        victim.join()
        failed = (seen.asked - len(seen.times)) / max(1, seen.asked)
        found["failed"].append(failed)
        found["noticed"].append(told["noticed"])
        found["back"].append(told["back"])
        talk(
            f"  killed {number + 1}: at {rate:.0f}/s {seen.row()}; noticed {told['noticed']:.2f} s, back {told['back']:.2f} s"
        )
    swapper = threading.Thread(target=_swap, args=(served, 2.0))
    swapper.start()
    seen = loads.run(served.target, [served.target.caller(texts, rate=rate)], 16.0 if quick else 24.0, 0.5)[0]
    swapper.join()
    if not _ready(served, "2"):
        raise RuntimeError("the new version did not take over while the load was on")
    talk(f"  swapped: at {rate:.0f}/s {seen.row()}")
    lost = (seen.asked - len(seen.times)) / max(1, seen.asked)
    rig.stop(served.child)
    return [
        Figure("replica_killed_failed", found["failed"], "share", 0.001, _PER, at_least=False),
        Figure("replica_killed_noticed_s", found["noticed"], "s", 2.0, None, at_least=False),
        Figure("replica_killed_back_s", found["back"], "s", 10.0, None, at_least=False),
        Figure("version_swap_failed", [lost], "share", 0.0, _PER, at_least=False),
    ]


def _kill_one(served: ours.Ours, after_s: float, told: dict[str, float]) -> None:
    time.sleep(after_s)
    os.kill(min(_replicas(served)), signal.SIGKILL)
    killed = time.monotonic()
    _until(lambda: _ready(served) < 2, 10)
    told["noticed"] = time.monotonic() - killed
    _until(lambda: _ready(served) == 2, 30)
    told["back"] = time.monotonic() - killed


def _swap(served: ours.Ours, after_s: float) -> None:
    """The same weights with another name inside are another version."""
    import onnx

    from tollway.artifacts.store import About
    from tollway.kit.settings import Settings
    from tollway.shop import Shop

    other = served.home.parent / "once-more"
    shutil.copytree(models.folder("minilm"), other)
    graph = onnx.load(str(other / "model.onnx"))
    graph.graph.name += "2"
    onnx.save(graph, str(other / "model.onnx"))
    time.sleep(after_s)
    opened = Shop.open(Settings(served.home, environment={}))
    try:
        opened.store.add_package(ours.MODEL, other, About(**models.about("minilm")))
    finally:
        opened.close()
    served.shop.tollway("deploy", ours.MODEL)


def _replicas(served: ours.Ours) -> list[int]:
    """The replicas' processes, found from outside."""
    found = []
    for pid in tree(served.child.pid):
        try:
            if b"engines.rows" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def _ready(served: ours.Ours, version: str = "") -> int:
    """Replicas that are ready, as the gateway's own metrics say it."""
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{served.target.port}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f'maas_replica_up{{model="{ours.MODEL}",version="{version}'):
                return round(float(line.rpartition(" ")[2]))
    return 0


def _until(found: object, within_s: float) -> None:
    end = time.monotonic() + within_s
    while not found():  # type: ignore[operator]
        if time.monotonic() > end:
            raise RuntimeError(f"it did not happen within {within_s:g} s")
        time.sleep(0.02)
