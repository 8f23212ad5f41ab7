"""The replica process of the rows engine: load one model package, answer on a unix socket while the parent lives.

See `engines.child` for what it owes its parent. Threads are the lanes' own, one of the engine each.
"""

import asyncio
import gc
import sys
from functools import partial
from pathlib import Path

import uvloop

from tollway.serve.engines import child
from tollway.serve.engines.rows import Spec

_GC_EVERY = 10_000  # objects; calls leave hardly any rings


def _work(spec: Spec, ready: child.Ready) -> None:
    child.limit(1, spec.memory_bytes)
    uvloop.run(_serve(spec, ready))


async def _serve(spec: Spec, ready: child.Ready) -> None:
    from tollway import inference
    from tollway.serve.engines import server
    from tollway.serve.engines.rows import again, calibration
    from tollway.serve.engines.rows.counter import Counter
    from tollway.serve.engines.rows.lanes import SWITCH_S, Lanes
    from tollway.serve.engines.rows.neighbours import Neighbours

    sys.setswitchinterval(SWITCH_S)  # before anything is measured
    folder = Path(spec.folder)
    features = inference.load_features(folder)

    def build(threads: int, spinning: bool) -> inference.Predictor:
        return inference.load(folder, spec.format, threads, spinning=spinning, features=features)

    found = calibration.ready(folder, spec.format, spec.cores, build)
    counter = Counter(spec, Lanes(found.lanes, found.wide, found.plan))
    gc.collect()
    gc.freeze()  # what was loaded stays: looking through it for garbage again and again took more time than all calls
    gc.set_threshold(_GC_EVERY, 20, 20)
    measure = partial(calibration.again, folder, spec.format, spec.cores, build)
    watching = asyncio.create_task(again.watch(counter, measure, Neighbours(spec.cores).share))
    await server.serve(spec.socket, counter, ready)
    watching.cancel()


if __name__ == "__main__":
    sys.exit(child.main(Spec, _work))
