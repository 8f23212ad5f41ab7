"""The servers people use today, each in an environment of its own, made once (`python -m bench.serving.installs`)."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.rig import store
from bench.rig.processes import talk

ENGINE: Final = ("onnxruntime>=1.22", "tokenizers>=0.21", "numpy<3")
PEERS: Final[dict[str, tuple[str, ...]]] = {
    "naive": ("fastapi>=0.115", "uvicorn>=0.34", "uvloop<0.23", "httptools>=0.6"),
    "mosec": ("mosec==0.9.8",),
    "litserve": ("litserve==0.2.19",),
    "bentoml": ("bentoml==1.4.39",),
    "mlserver": ("mlserver==1.7.1", "uvloop<0.22"),  # its workers do not start with a newer one
    "ray": ("ray[serve]>=2.50",),
}


def environment(name: str) -> Path:
    """The `bin` of a peer's environment. Raises Missing when it cannot be made."""
    try:
        return store.environment(f"serving-{name}", *PEERS[name], *ENGINE, timeout_s=600)
    except subprocess.TimeoutExpired as slow:
        raise store.Missing(f"installing {name} took more than {slow.timeout:.0f} s") from slow


def main() -> int:
    """Make all that can be made."""
    for name in PEERS:
        try:
            environment(name)
        except store.Missing as missing:
            talk(f"bench: {name} cannot be had: {missing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
