"""The same engine for every peer: one ONNX session and the tokenizer, as our own replica sets them up. Runs in peers' environments."""

import os
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FOLDER = Path(os.environ.get("BENCH_MODEL", "."))
TUNED = os.environ.get("BENCH_TUNED") == "1"
WORKERS, THREADS = (2, 1) if TUNED else (1, 2)
BATCH, WAIT_S = 32, 0.005
BUDGET = 512  # tokens of a sorted batch


class Engine:
    """Texts to vectors."""

    def __init__(self, folder: Path = FOLDER, threads: int = THREADS) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), sess_options=options, providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],
        )  # fmt: skip
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.names = [one.name for one in self.session.get_inputs()]

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [one.ids for one in self.tokenizer.encode_batch_fast(texts)]

    def run(self, rows: list[list[int]]) -> np.ndarray:
        """A batch, padded to its longest."""
        width = max(map(len, rows))
        ids = np.zeros((len(rows), width), np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        feed = {"input_ids": ids, "attention_mask": mask}
        return np.asarray(self.session.run(None, {name: feed[name] for name in self.names})[0])

    def embed(self, texts: list[str]) -> list[list[float]]:
        """As most would write it; tuned: sorted by length and cut into batches of so many tokens."""
        rows = self.encode(texts)
        if not TUNED or len(rows) == 1:
            return [one.tolist() for one in self.run(rows)]
        found: list[list[float]] = [[]] * len(rows)
        for batch in cut(rows, BUDGET):
            for place, vector in zip(batch, self.run([rows[place] for place in batch]), strict=True):
                found[place] = vector.tolist()
        return found


def cut(rows: list[list[int]], budget: int) -> list[list[int]]:
    """Places of rows sorted by length, cut where the padded batch would pass the budget."""
    batches: list[list[int]] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place])):
        if batches and len(rows[place]) * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
