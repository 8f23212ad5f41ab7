"""The replica process: load one model, answer on a unix socket while the parent lives.

One thread does everything: a step of the engine, then whatever came in or can be sent meanwhile, then the next step. A
step holds the interpreter's lock from its beginning to its end, so a second thread would gain nothing, and a new call can
only enter the batch between two steps anyway. See `engines.child` for what a replica owes its parent.
"""

import asyncio
import os
import sys
from pathlib import Path

from tollway.serve.engines import child
from tollway.serve.engines.openvino_genai import Spec


def _work(spec: Spec, ready: child.Ready) -> None:
    child.limit(spec.threads)
    asyncio.run(_serve(spec, ready))


async def _serve(spec: Spec, ready: child.Ready) -> None:
    from tollway.serve.engines import server
    from tollway.serve.engines.openvino_genai.doors import Doors
    from tollway.serve.engines.openvino_genai.steps import Steps
    from tollway.serve.engines.openvino_genai.words import Words

    steps = Steps(spec)
    words = Words(Path(spec.folder), steps.template)
    listening = await server.listen(spec.socket, Doors(spec, words, steps))
    ready()
    try:
        await steps.run()
    finally:  # after a failed step the engine answers nobody any more: the supervisor starts it afresh
        listening.close()
        os._exit(4)


if __name__ == "__main__":
    sys.exit(child.main(Spec, _work))
