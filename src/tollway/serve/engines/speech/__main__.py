"""The replica process of the speech engine: load one model package, answer on a unix socket while the parent lives.

See `engines.child` for what it owes its parent. Recordings are decoded in processes of their own.
"""

import asyncio
import sys
from pathlib import Path

from tollway.serve.engines import child
from tollway.serve.engines.speech import HEARS, Spec


def _work(spec: Spec, ready: child.Ready) -> None:
    child.limit(spec.threads if spec.kind == HEARS else 1, spec.memory_bytes)
    asyncio.run(_serve(spec, ready))


async def _serve(spec: Spec, ready: child.Ready) -> None:
    from tollway.serve.engines import server
    from tollway.serve.engines.speech.answers import Hearing, Speaking

    folder = Path(spec.folder)
    answers = Hearing(spec, folder) if spec.kind == HEARS else Speaking(spec, folder)
    await server.serve(spec.socket, answers, ready)


if __name__ == "__main__":
    sys.exit(child.main(Spec, _work))
