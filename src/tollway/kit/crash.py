"""Named crash points: `crashpoint("settle.before_commit")` does nothing unless TOLLWAY_CRASH_AT names it.

The crash tests read the names from the source, start the real process with each of them and count money afterwards.
The process dies as by `kill -9`: no handlers, no flushing.
"""

import os
import signal

_ARMED = os.environ.get("TOLLWAY_CRASH_AT", "")
_AFTER = int(os.environ.get("TOLLWAY_CRASH_AFTER", "1"))
_seen = 0


def crashpoint(name: str) -> None:
    """Die here on the TOLLWAY_CRASH_AFTER-th visit when TOLLWAY_CRASH_AT is `name`."""
    global _seen
    if name != _ARMED:
        return
    _seen += 1
    if _seen >= _AFTER:
        os.kill(os.getpid(), signal.SIGKILL)
