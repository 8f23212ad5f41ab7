"""The replica process: load one model and let llama.cpp's own server answer on a unix socket while the parent lives.

Reads its orders (`Spec`, one line of JSON) from standard input, writes one line of JSON to standard output when it is
up or has failed, and from then on both outputs lead nowhere: what the engine prints can quote prompts. Ends when
standard input ends, and is killed by the kernel when the thread that started it dies. Always started fresh, never
forked: a child forked after loading hangs.
"""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from tollway.serve.engines import child
from tollway.serve.engines.llama_cpp import Spec


def main() -> int:
    orders = sys.stdin.buffer.readline()
    if not orders:
        return 2
    spec = msgspec.json.decode(orders, type=Spec)
    child.settle(spec.parent)
    began = time.monotonic()
    try:
        server = _serve(spec)
    except Exception as error:  # noqa: BLE001 - whatever the engine throws is reported to the supervisor as the reason
        child.say_last({"event": "failed", "why": f"{type(error).__name__}: {error}"[: child.NOISE]})
        return 1
    Path(spec.socket).chmod(0o600)
    child.say_last(
        {"event": "ready", "load_seconds": round(time.monotonic() - began, 3), "address": server.listening_address}
    )
    child.wait_for_the_end()
    with contextlib.suppress(OSError):
        Path(spec.socket).unlink()
    os._exit(0)  # the engine's own threads would keep an orderly exit waiting for running calls


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
    if spec.adapters:  # off until a call asks for one: an adapter starts switched on
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in spec.adapters]
    params.verbosity = -1
    params.ui = False
    params.endpoint_slots = False
    params.offline = True
    params.embedding = spec.kind == "embedding"
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(main())
