"""The replica process of the rows engine: load one model package, answer on a unix socket while the parent lives.

See `engines.child` for what it owes its parent. Threads are the lanes' own, one of the engine each; memory is limited, so
that a hostile input ends in an error here and not in the machine's.
"""

import asyncio
import gc
import os
import resource
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from tollway.serve.engines import child
from tollway.serve.engines.rows import Spec

_GC_EVERY = 10_000  # objects; calls leave hardly any rings
_SWITCH_S = 0.0005  # a lane that is through must not leave its core idle while the loop reads what came in


def main() -> int:
    orders = sys.stdin.buffer.readline()
    if not orders:
        return 2
    spec = msgspec.json.decode(orders, type=Spec)
    child.settle(spec.parent)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    resource.setrlimit(resource.RLIMIT_DATA, (spec.memory_bytes, spec.memory_bytes))
    began = time.monotonic()
    try:
        uvloop.run(_serve(spec, began))
    except Exception as error:  # noqa: BLE001 - whatever the engine throws is reported to the supervisor as the reason
        child.say_last({"event": "failed", "why": f"{type(error).__name__}: {error}"[: child.NOISE]})
        return 1
    return 0


async def _serve(spec: Spec, began: float) -> None:
    from tollway import inference
    from tollway.serve.engines.rows import calibration, server
    from tollway.serve.engines.rows.counter import Counter
    from tollway.serve.engines.rows.lanes import Lanes

    folder = Path(spec.folder)
    features = inference.load_features(folder)

    def build(threads: int, spinning: bool) -> inference.Predictor:
        return inference.load(folder, spec.format, threads, spinning=spinning, features=features)

    found = calibration.ready(folder, spec.format, spec.cores, build)
    lanes = Lanes(found.lanes, found.wide, found.plan)
    listening = await server.listen(spec.socket, Counter(spec, lanes))  # held: uvloop closes what nobody refers to
    os.chmod(spec.socket, 0o600)  # noqa: PTH101 - at once, on the loop: nobody is served yet
    gc.collect()
    gc.freeze()  # what was loaded stays: looking through it for garbage again and again took more time than all calls
    gc.set_threshold(_GC_EVERY, 20, 20)
    sys.setswitchinterval(_SWITCH_S)
    child.say_last(
        {"event": "ready", "load_seconds": round(time.monotonic() - began, 3), "address": f"unix:{spec.socket}"}
    )
    child.end_with_the_parent(spec.socket)
    await asyncio.Event().wait()
    listening.close()


if __name__ == "__main__":
    sys.exit(main())
