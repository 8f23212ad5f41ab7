"""The replica process of the speech engine: load one model package, answer on a unix socket while the parent lives.

See `engines.child` for what it owes its parent. Memory is limited; recordings are decoded in processes of their own.
"""

import asyncio
import os
import resource
import sys
import time
from pathlib import Path

import msgspec

from tollway.serve.engines import child
from tollway.serve.engines.speech import HEARS, Spec


def main() -> int:
    orders = sys.stdin.buffer.readline()
    if not orders:
        return 2
    spec = msgspec.json.decode(orders, type=Spec)
    child.settle(spec.parent)
    os.environ["OMP_NUM_THREADS"] = str(spec.threads if spec.kind == HEARS else 1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    resource.setrlimit(resource.RLIMIT_DATA, (spec.memory_bytes, spec.memory_bytes))
    began = time.monotonic()
    try:
        asyncio.run(_serve(spec, began))
    except Exception as error:  # noqa: BLE001 - whatever the engine throws is reported to the supervisor as the reason
        child.say_last({"event": "failed", "why": f"{type(error).__name__}: {error}"[: child.NOISE]})
        return 1
    return 0


async def _serve(spec: Spec, began: float) -> None:
    from tollway.serve.engines.rows import server
    from tollway.serve.engines.speech.answers import Hearing, Speaking

    folder = Path(spec.folder)
    answers = Hearing(spec, folder) if spec.kind == HEARS else Speaking(spec, folder)
    await server.listen(spec.socket, answers)
    os.chmod(spec.socket, 0o600)  # noqa: PTH101 - at once, on the loop: nobody is served yet
    child.say_last(
        {"event": "ready", "load_seconds": round(time.monotonic() - began, 3), "address": f"unix:{spec.socket}"}
    )
    child.end_with_the_parent(spec.socket)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
