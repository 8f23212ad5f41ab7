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
        server = xllamacpp.Server(params)  # answers as long as the name holds it
        answer = {
            "texts": [_tokens(f"{folder}/parity.sock", text) for text in orders.get("texts", ())],
            "prompts": [_continue(f"{folder}/parity.sock", one, orders) for one in orders.get("prompts", ())],
        }
        del server
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # nothing is left to do, and the engine's threads would be waited for


def _ask(path: str, where: str, body: dict[str, Any]) -> Any:
    connection = _Unix(path)
    connection.request("POST", where, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    if answer.status != 200:
        raise SystemExit(str(found)[:500])
    return found


def _tokens(path: str, text: str) -> list[int]:
    body = {"content": text, "add_special": True, "parse_special": False}
    return [int(one) for one in _ask(path, "/tokenize", body)["tokens"]]


def _continue(path: str, prompt: dict[str, Any], orders: dict[str, Any]) -> list[dict[str, Any]]:
    """Greedy tokens, each with its likeliest alternatives: [{"id", "top": [[id, logprob], ...]}, ...].

    The server names no alternatives for a token that leaves a character unfinished; such a token has an empty list.
    """
    body = {
        "prompt": prompt["ids"], "n_predict": orders["tokens"], "temperature": 0.0, "n_probs": _TOP, "cache_prompt": False,
        "seed": 1, "ignore_eos": True, "return_tokens": True,
    }  # fmt: skip
    if orders.get("adapters"):
        scales = prompt.get("scales") or [0.0] * len(orders["adapters"])
        body["lora"] = [{"id": at, "scale": scale} for at, scale in enumerate(scales)]
    answer = _ask(path, "/completion", body)
    named = list(answer.get("completion_probabilities") or ())
    found = []
    for token in answer["tokens"]:
        top = named.pop(0)["top_logprobs"] if named and named[0]["id"] == token else []
        found.append({"id": token, "top": [[other["id"], other["logprob"]] for other in top]})
    return found


if __name__ == "__main__":
    sys.exit(main())
