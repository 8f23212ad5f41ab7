"""The peer of the whole path: the engine called in process, no HTTP, no gateway. Run by `bench.llm`, not by hand.

Reads one JSON line with the engine's settings, loads the model, then for every further line
{"bodies": [...], "conns": N, "stream": true} runs the calls from N threads and answers {"seconds", "tokens", "errors"}.
"""

import itertools
import json
import sys
import threading
import time
from typing import Any


def load(spec: dict[str, Any]) -> Any:
    """The engine with the settings given, or with all its own (`default`); `socket` keeps its own HTTP server away from TCP."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = spec["model"]
    params.verbosity = -1
    params.hostnames = [spec["socket"]]
    if spec.get("default"):
        return xllamacpp.Server(params)
    params.n_ctx = spec["context"]
    params.n_parallel = spec["slots"]
    params.kv_unified = True
    params.n_batch = params.n_ubatch = spec["batch"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = spec["threads"]
    params.cache_ram_mib = spec["cache_ram_mib"]
    return xllamacpp.Server(params)


def run(server: Any, bodies: list[dict[str, Any]], conns: int, stream: bool) -> dict[str, Any]:
    """All calls, `conns` at a time; wall time from the first start to the last end."""
    waiting, lock = itertools.count(), threading.Lock()
    tokens, errors = [0], []

    def call(body: dict[str, Any]) -> None:
        usage: list[int] = []

        def piece(chunk: dict[str, Any]) -> bool:
            if chunk.get("usage"):
                usage.append(int(chunk["usage"]["completion_tokens"]))
            return False

        if stream:
            ended = server.handle_chat_completions(body, piece)
        else:
            plain = {k: v for k, v in body.items() if not k.startswith("stream")}
            ended = server.handle_chat_completions(plain)
            piece(ended)
        with lock:
            if usage:
                tokens[0] += usage[-1]
            else:
                errors.append(str(ended)[:200])

    def work() -> None:
        while (index := next(waiting)) < len(bodies):
            call(bodies[index])

    threads = [threading.Thread(target=work) for _ in range(conns)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - began, "tokens": tokens[0], "errors": errors}


def main() -> None:
    """Serves its parent until the pipe closes."""
    server = load(json.loads(sys.stdin.readline()))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run(server, asked["bodies"], asked["conns"], asked["stream"])), flush=True)


if __name__ == "__main__":
    main()
