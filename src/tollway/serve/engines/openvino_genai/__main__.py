"""The replica process: load one model, answer on a unix socket while the parent lives.

One thread does everything: a step of the engine, then whatever came in or can be sent meanwhile, then the next step. A
step holds the interpreter's lock from its beginning to its end, so a second thread would gain nothing, and a new call can
only enter the batch between two steps anyway. See `engines.child` for what a replica owes its parent.
"""

import asyncio
import contextlib
import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from tollway.serve.engines import child
from tollway.serve.engines.openvino_genai import Spec


def main() -> int:
    orders = sys.stdin.buffer.readline()
    if not orders:
        return 2
    spec = msgspec.json.decode(orders, type=Spec)
    child.settle(spec.parent)
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    began = time.monotonic()
    try:
        asyncio.run(_serve(spec, began))
    except Exception as error:  # noqa: BLE001 - whatever the engine throws is reported to the supervisor as the reason
        child.say_last({"event": "failed", "why": f"{type(error).__name__}: {error}"[: child.NOISE]})
        return 1
    return 0


async def _serve(spec: Spec, began: float) -> None:
    from tollway.serve.engines.openvino_genai.doors import Doors
    from tollway.serve.engines.openvino_genai.steps import Steps
    from tollway.serve.engines.openvino_genai.words import Words
    from tollway.serve.engines.rows import server

    steps = Steps(spec)
    words = Words(Path(spec.folder), steps.template)
    listening = await server.listen(spec.socket, Doors(spec, words, steps))
    os.chmod(spec.socket, 0o600)  # noqa: PTH101 - at once, on the loop: nobody is served yet
    threading.Thread(target=_end_with_the_parent, args=(spec.socket,), daemon=True).start()
    child.say_last(
        {"event": "ready", "load_seconds": round(time.monotonic() - began, 3), "address": f"unix:{spec.socket}"}
    )
    try:
        await steps.run()
    finally:  # after a failed step the engine answers nobody any more: the supervisor starts it afresh
        listening.close()
        os._exit(4)


def _end_with_the_parent(socket: str) -> None:
    child.wait_for_the_end()
    with contextlib.suppress(OSError):
        Path(socket).unlink()
    os._exit(0)  # a step in progress would keep an orderly exit waiting


if __name__ == "__main__":
    sys.exit(main())
