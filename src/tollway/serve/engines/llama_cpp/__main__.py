"""The replica process: load one model and let llama.cpp's own server answer on a unix socket while the parent lives.

Reads its orders (`Spec`, one line of JSON) from standard input, writes one line of JSON to standard output when it is
up or has failed, and from then on both outputs lead nowhere: what the engine prints can quote prompts. Ends when
standard input ends, and is killed by the kernel when the thread that started it dies. Always started fresh, never
forked: a child forked after loading hangs.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from tollway.serve.engines.llama_cpp import Spec

_PR_SET_PDEATHSIG = 1
_NOISE = 8 * 1024


def main() -> int:
    orders = sys.stdin.buffer.readline()
    if not orders:
        return 2
    spec = msgspec.json.decode(orders, type=Spec)
    _settle(spec.parent)
    began = time.monotonic()
    try:
        server = _serve(spec)
    except Exception as error:  # noqa: BLE001 - whatever the engine throws is reported to the supervisor as the reason
        _say({"event": "failed", "why": f"{type(error).__name__}: {error}"[:_NOISE]})
        return 1
    Path(spec.socket).chmod(0o600)
    _say({"event": "ready", "load_seconds": round(time.monotonic() - began, 3), "address": server.listening_address})
    _go_quiet()
    while os.read(0, 4096):
        pass  # nothing more is expected; the end of the stream is the order to stop
    with contextlib.suppress(OSError):
        Path(spec.socket).unlink()
    os._exit(0)  # the engine's own threads would keep an orderly exit waiting for running calls


def _settle(parent: int) -> None:
    """Die with the parent, never write prompts to a core file, be the first to go when memory runs out."""
    os.umask(0o077)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    if os.getppid() != parent:
        os._exit(3)  # the parent was gone before we could bind our life to its
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(spec: Spec) -> Any:
    """Load the model and start llama.cpp's server on its own threads."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = spec.weights
    params.model_alias = [spec.model]
    params.hostnames = [spec.socket]  # a path is a unix socket: no TCP port is opened
    params.n_ctx = spec.context_tokens
    params.n_parallel = spec.slots
    params.kv_unified = True
    params.n_batch = params.n_ubatch = spec.batch_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = spec.threads
    params.cache_ram_mib = spec.cache_ram_mib
    params.verbosity = -1
    params.ui = False
    params.endpoint_slots = False
    params.offline = True
    params.embedding = spec.kind == "embedding"
    return xllamacpp.Server(params)


def _say(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _go_quiet() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
