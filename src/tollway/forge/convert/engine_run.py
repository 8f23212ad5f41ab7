"""Child process of the parity check: embed texts with llama.cpp and print the vectors.

echo '{"path": "model.gguf", "texts": ["hello"]}' | python -m tollway.forge.convert.engine_run
"""

import json
import os
import sys
import tempfile


def main() -> int:
    import xllamacpp

    orders = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="tollway-parity-", dir="/tmp") as folder:
        params = xllamacpp.CommonParams()
        params.model.path = orders["path"]
        params.hostnames = [f"{folder}/parity.sock"]  # it insists on listening; here nobody else can
        params.embedding = True
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, len(os.sched_getaffinity(0)) - 1)
        params.verbosity = -1
        params.ui = False
        server = xllamacpp.Server(params)
        answer = server.handle_embeddings({"input": orders["texts"], "model": "parity"})
    rows = sorted(answer["data"], key=lambda row: row["index"])
    sys.stdout.write(json.dumps({"vectors": [row["embedding"] for row in rows]}))
    sys.stdout.flush()
    os._exit(0)  # nothing is left to do, and the engine's threads would be waited for


if __name__ == "__main__":
    sys.exit(main())
