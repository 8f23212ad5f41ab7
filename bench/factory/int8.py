"""The 8-bit classifier in the engine that serves, against plain torch: texts in, labels out, 32 texts a call.

MiniLM is fine-tuned on movie sentences, exported as a recipe would, and answers held-out sentences in the order they
come. The peer is transformers' tokenizer and model in float32, padded to the longest of the 32: the usual few lines.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.rig.figures import Figure
from bench.rig.processes import talk

BATCH, SEED, RATE = 32, 7, 1e-4
BAR_SPEED, BAR_CHANGE = 3.0, -0.5
TRAIN, TEST, QUICK_TRAIN, QUICK_TEST = 6000, 3000, 2500, 1500
Answer = Callable[[Sequence[str]], list[str]]


def figures(quick: bool, threads: int) -> list[Figure]:
    """The ratio of texts per second, and the change of accuracy in points."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="tollway-int8-") as scratch:
        home = Path(scratch)
        prepared = prepare(home, QUICK_TRAIN if quick else TRAIN, QUICK_TEST if quick else TEST)
        trained = train(home, prepared, threads)
        converted = convert(home, trained, prepared, threads)
        ours, peer = served(converted, threads), eager(trained)
        rows = prepared.read("test").to_pylist()
        return compare(ours, peer, rows, 3 if quick else 7, threads)


def prepare(home: Path, train_rows: int, test_rows: int) -> Any:
    """Movie sentences, split by chance."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tollway.forge import data
    from tollway.forge.data import samples

    version = samples.load("movies")
    table = pa.concat_tables([version.read(split, ["text", "label"]) for split in version.splits])
    table = table.take(np.random.default_rng(SEED).permutation(table.num_rows))
    parts = {"test": table.slice(0, test_rows), "validation": table.slice(test_rows, 500)}
    parts["train"] = table.slice(test_rows + 500, train_rows)
    folder = home / "prepared"
    folder.mkdir()
    for split, part in parts.items():
        pq.write_table(part, folder / f"{split}.parquet")
    meta = {"task": "text-classification", "digest": "", "labels": sorted(set(table.column("label").to_pylist())),
            "rows": {split: part.num_rows for split, part in parts.items()}}  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    return data.Prepared(folder)


def train(home: Path, prepared: Any, threads: int) -> Path:
    """MiniLM with a head, one epoch."""
    from tollway.forge import recipe
    from tollway.forge import train as trainer

    place = desk(home / "train", threads)
    how = recipe.Train(epochs=1, learning_rate=RATE, batch_rows=16, checkpoint_every_s=1e6, threads=threads)
    trainer.fit(how, recipe.Model(base="minilm", options={"max_length": 128}), "text-classification", prepared, place)
    return Path(place.out)


def convert(home: Path, trained: Path, prepared: Any, threads: int) -> Path:
    """What `[convert] formats = ["onnx"]` makes of a text classifier: 8 bits that hold."""
    from tollway.forge import convert as converter
    from tollway.forge import recipe

    place = desk(home / "convert", threads)
    found = converter.export(recipe.Convert(formats=["onnx"], quantise="int8"), trained, prepared, place)
    row = found["formats"][0]
    talk(
        f"  {row['way']} 8 bits, {row['bytes'] / 1e6:.1f} MB, same label as the source for {row['agreement']:.2%} of {row['rows']} rows"
    )
    return Path(place.out)


def desk(folder: Path, threads: int) -> Any:
    from tollway.forge.desk import Desk

    for name in ("out", "work"):
        (folder / name).mkdir(parents=True)
    return Desk(
        out=folder / "out",
        work=folder / "work",
        home=folder,
        seed=SEED,
        threads=threads,
        emit=lambda event: None,
        step="bench",
    )


def served(folder: Path, threads: int) -> Answer:
    """What a replica runs: lanes of one thread each, fed with texts of like length."""
    from tollway import inference
    from tollway.serve.engines.rows import calibration
    from tollway.serve.engines.rows.lanes import Lanes

    features = inference.load_features(folder)

    def build(threads: int, spinning: bool) -> inference.Predictor:
        return inference.load(folder, "onnx-int8", threads, spinning=spinning, features=features)

    found = calibration.ready(folder, "onnx-int8", threads, build)
    lanes = Lanes(found.lanes, found.wide, found.plan)
    return lambda texts: [one["label"] for one in lanes.answer_blocking([{"text": text} for text in texts])]


def eager(folder: Path) -> Answer:
    """transformers as its documentation uses it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tollway.forge import models

    tokenizer = AutoTokenizer.from_pretrained(models.base("minilm"))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def answer(texts: Sequence[str]) -> list[str]:
        arrays = tokenizer(list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            best = model(**arrays).logits.argmax(-1).tolist()
        return [model.config.id2label[one] for one in best]

    return answer


def compare(ours: Answer, peer: Answer, rows: list[dict[str, Any]], rounds: int, threads: int) -> list[Figure]:
    """Both answer every test row; then both answer the same calls in turns, for the clock."""
    calls = [[row["text"] for row in rows[start : start + BATCH]] for start in range(0, len(rows), BATCH)]
    wanted = [row["label"] for row in rows]
    right = {name: [a == b for a, b in zip([one for call in calls for one in side(call)], wanted, strict=True)]
             for name, side in (("ours", ours), ("peer", peer))}  # fmt: skip
    before, after = statistics.mean(right["peer"]), statistics.mean(right["ours"])
    timed, ratios = calls[:12], []
    for number in range(rounds):
        spent = {}
        for name, side in (("ours", ours), ("peer", peer)) if number % 2 else (("peer", peer), ("ours", ours)):
            began = time.perf_counter()
            for call in timed:
                side(call)
            spent[name] = time.perf_counter() - began
        texts = sum(map(len, timed))
        ratios.append(spent["peer"] / spent["ours"])
        talk(f"  8 bits {texts / spent['ours']:.0f} texts/s, torch {texts / spent['peer']:.0f}: {ratios[-1]:.2f}x")
    talk(f"  accuracy on {len(rows)} rows: torch {before:.4f}, 8 bits {after:.4f}")
    return [
        Figure("int8_vs_torch_eager", ratios, "x", BAR_SPEED, "transformers and torch eager, fp32, batch 32"),
        Figure("int8_accuracy_change", [(after - before) * 100], "points", BAR_CHANGE, "the same model in torch, fp32"),
    ]
