"""Child process of the parity check: what llama.cpp makes of a GGUF file: tokens of texts, and what it writes and how surely.

echo '{"path": "model.gguf", "texts": ["hi"], "prompts": [[1, 2]], "tokens": 8}' | python -m tollway.forge.convert.gguf_engine
"""

import http.client
import json
import os
import socket
import sys
import tempfile
from typing import Any

_TOP = 20  # alternatives whose likelihood is compared


class _Unix(http.client.HTTPConnection):
    """HTTP to a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def main() -> int:
    import xllamacpp

    orders = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="tollway-parity-", dir="/tmp") as folder:
        params = xllamacpp.CommonParams()
        params.model.path = orders["path"]
        params.hostnames = [f"{folder}/parity.sock"]
        params.n_ctx = orders.get("context", 1024)
        params.n_batch = params.n_ubatch = 128
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, len(os.sched_getaffinity(0)) - 1)
        params.verbosity = -1
        params.ui = False
        if orders.get("adapters"):
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(one, 0.0) for one in orders["adapters"]]
        server = xllamacpp.Server(params)
        answer = {
            "texts": [_tokens(f"{folder}/parity.sock", text) for text in orders.get("texts", ())],
            "prompts": [_continue(server, one, orders) for one in orders.get("prompts", ())],
        }
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # nothing is left to do, and the engine's threads would be waited for


def _tokens(path: str, text: str) -> list[int]:
    connection = _Unix(path)
    body = json.dumps({"content": text, "add_special": True, "parse_special": False})
    connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
    found = json.loads(connection.getresponse().read())["tokens"]
    connection.close()
    return [int(one) for one in found]


def _continue(server: Any, prompt: dict[str, Any], orders: dict[str, Any]) -> list[dict[str, Any]]:
    """Greedy tokens, each with its likeliest alternatives: [{"id", "top": [[id, logprob], ...]}, ...]."""
    body = {
        "prompt": prompt["ids"], "n_predict": orders["tokens"], "max_tokens": orders["tokens"], "temperature": 0.0,
        "logprobs": _TOP, "n_probs": _TOP, "cache_prompt": False, "seed": 1, "ignore_eos": True,
    }  # fmt: skip
    if orders.get("adapters"):
        scales = prompt.get("scales") or [0.0] * len(orders["adapters"])
        body["lora"] = [{"id": at, "scale": scale} for at, scale in enumerate(scales)]
    answer = server.handle_completions(body)
    if "choices" not in answer:
        raise SystemExit(json.dumps(answer)[:500])
    # there is none when all that was written is a part of a character, which the server keeps back
    content = (answer["choices"][0].get("logprobs") or {}).get("content") or []
    return [
        {"id": one["id"], "top": [[other["id"], other["logprob"]] for other in one["top_logprobs"]]} for one in content
    ]


if __name__ == "__main__":
    sys.exit(main())
