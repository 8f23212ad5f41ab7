"""BentoML with its adaptive batching."""

import bentoml
from engine import BATCH, WORKERS, Engine


@bentoml.service(workers=WORKERS, traffic={"timeout": 60})
class Embedder:
    def __init__(self) -> None:
        self.engine = Engine()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)
    def embed(self, texts: list[str]) -> list[list[float]]:
        return self.engine.embed(texts)
