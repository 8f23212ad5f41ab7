"""The in-process limit: the same texts, the same engine, everything known beforehand and sorted, no server at all."""

import threading
import time
from collections.abc import Sequence

from bench.serving import models
from bench.serving.apps.engine import Engine, cut

_PLANS = ((2, 1, 256), (2, 1, 384), (1, 2, 384))  # lanes, threads of each, budget


class Limit:
    """Texts per second, by the best of a few plans."""

    def __init__(self, texts: Sequence[str]) -> None:
        folder = models.folder("minilm")
        self.texts = list(texts)
        self.engines = {threads: Engine(folder, threads) for _, threads, _ in _PLANS}
        self.best = max(_PLANS, key=lambda plan: max(self._rate(plan, self.texts[:200]) for _ in range(2)))

    def rate(self, count: int = 600) -> float:
        """One measurement."""
        return self._rate(self.best, self.texts[:count])

    def one_by_one(self, count: int) -> float:
        """Texts per second, one after the other, on all cores."""
        engine, texts = self.engines[2], self.texts[:count]
        began = time.perf_counter()
        for text in texts:
            engine.embed([text])
        return count / (time.perf_counter() - began)

    def vector(self, text: str) -> list[float]:
        """What every server must answer."""
        return list(self.engines[1].embed([text])[0])

    def _rate(self, plan: tuple[int, int, int], texts: list[str]) -> float:
        lanes, threads, budget = plan
        engine = self.engines[threads]
        began = time.perf_counter()
        rows = engine.encode(texts)
        work = cut(rows, budget)
        lock = threading.Lock()

        def lane() -> None:
            while True:
                with lock:
                    if not work:
                        return
                    batch = work.pop()
                engine.run([rows[place] for place in batch])

        running = [threading.Thread(target=lane) for _ in range(lanes)]
        for one in running:
            one.start()
        for one in running:
            one.join()
        return len(texts) / (time.perf_counter() - began)
