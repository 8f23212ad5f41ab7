"""What every engine's process does besides its work: bind its life to its parent's, say one word, then be silent.

It reads its orders as one line of JSON from standard input, answers with one line of JSON on standard output when it is up
or has failed, and from then on both outputs lead nowhere: what an engine prints can quote prompts.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

from tollway.kit import quiet

NOISE: Final = 8 * 1024
QUIET: Final = {**quiet.VARIABLES, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""What every engine is told before it starts: libraries that count their users have nothing to tell here, and what is served
is on the shelf already."""
_PR_SET_PDEATHSIG: Final = 1


def settle(parent: int) -> None:
    """Die with the parent, never write prompts to a core file, be the first to go when memory runs out, tell nobody of it."""
    os.umask(0o077)
    quiet.no_telemetry()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    if os.getppid() != parent:
        os._exit(3)  # the parent was gone before we could bind our life to its
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def say_last(event: dict[str, Any]) -> None:
    """One line of JSON to the supervisor, the last word: before it is said both outputs lead nowhere, for whoever hears
    "ready" may ask at once."""
    sys.stdout.flush()
    supervisor = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    with os.fdopen(supervisor, "w", encoding="utf-8") as line:
        line.write(json.dumps(event) + "\n")


def wait_for_the_end() -> None:
    """Until standard input ends: the order to stop. Nothing more is expected there."""
    while os.read(0, 4096):
        pass


def end_with_the_parent(socket: str) -> None:
    """From here on a thread waits for the order to stop; then the socket goes and so does the process, at once: work under
    way would keep an orderly exit waiting."""
    threading.Thread(target=_end, args=(socket,), daemon=True).start()


def _end(socket: str) -> None:
    wait_for_the_end()
    with contextlib.suppress(OSError):
        Path(socket).unlink()
    os._exit(0)
