"""Ray Serve with its dynamic batching."""

import sys
import time

import ray
from engine import BATCH, WAIT_S, WORKERS, Engine
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=WORKERS, ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=256)
class Embedder:
    def __init__(self) -> None:
        self.engine = Engine()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)
    async def batched(self, texts: list[str]) -> list[list[float]]:
        return self.engine.embed(texts)

    async def __call__(self, request: Request) -> dict:
        return {"embedding": await self.batched((await request.json())["text"])}


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Embedder.bind(), name="bench", route_prefix="/")
    while True:
        time.sleep(1)
