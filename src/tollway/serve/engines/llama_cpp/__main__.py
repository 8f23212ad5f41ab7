"""The replica process: load one model and let llama.cpp's own server answer on a unix socket while the parent lives.

The engine answers on threads of its own, so the process only has to load it and wait: see `engines.child`. Always started
fresh, never forked: a child forked after loading hangs.
"""

import sys
import threading
from typing import Any, Final

from tollway.serve.engines import child
from tollway.serve.engines.llama_cpp import Spec
from tollway.serve.engines.port import COUNTED_AT_ONCE

# A thread of its HTTP server stays with a connection until that has been idle for 5 s. With its own number of them (slots and
# two) a burst of calls whose prompts were to be counted waited as long, and so did the sign of life. Half as many again as
# are counted at once: for the sign of life, and for connections that idle.
_DOORS: Final = COUNTED_AT_ONCE * 3 // 2


def _work(spec: Spec, ready: child.Ready) -> None:
    child.share_one_heap()
    server = _served(spec)
    ready()
    threading.Event().wait()
    del server  # held until now: it answers as long as somebody refers to it


def _served(spec: Spec) -> Any:
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
    params.n_threads_http = spec.slots + _DOORS
    params.verbosity = -1
    params.ui = False
    params.endpoint_slots = False
    params.offline = True
    params.embedding = spec.kind == "embedding"
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(child.main(Spec, _work))
