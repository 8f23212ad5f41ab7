"""LitServe with its dynamic batching."""

import sys

import litserve as ls
from engine import BATCH, WAIT_S, WORKERS, Engine


class Embedder(ls.LitAPI):
    def setup(self, device):
        self.engine = Engine()

    def decode_request(self, request):
        return request["text"]

    def batch(self, inputs):
        return list(inputs)

    def predict(self, texts):
        return self.engine.embed(texts)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"embedding": output}


if __name__ == "__main__":
    api = Embedder(max_batch_size=BATCH, batch_timeout=WAIT_S)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=WORKERS, timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
