"""mosec with its dynamic batching. Run with --port N."""

from engine import BATCH, WAIT_S, WORKERS, Engine
from mosec import Server, Worker


class Embedder(Worker):
    def __init__(self) -> None:
        self.engine = Engine()

    def forward(self, data):
        return [{"embedding": one} for one in self.engine.embed([ask["text"] for ask in data])]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Embedder, num=WORKERS, max_batch_size=BATCH, max_wait_time=int(WAIT_S * 1000))
    server.run()
