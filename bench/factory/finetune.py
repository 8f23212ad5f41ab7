"""Fine-tuning MiniLM (all weights, texts of mixed length up to 256 tokens): our loop against Hugging Face's Trainer.

Peers: the Trainer as it comes, padded to the longest (256), and the same with length grouping; both fp32. Each pair trains
the same rows for one epoch from the same weights with the same rate. Accuracy is compared where there are rows enough to
learn from (our loop and the Trainer with grouping), row by row on held-out texts, with 95 % intervals by bootstrap.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.rig.figures import Figure
from bench.rig.processes import talk

LONGEST, ROWS, RATE, SEED = 256, 16, 2e-4, 7
WARM = 3  # steps before the clock starts: first shapes, caches, our choice of precision
TRAIN, QUICK_TRAIN = 320, 96  # rows of the race against padding
LEARN, QUICK_LEARN, TEST = 1600, 640, 1200  # rows where accuracy is compared
BAR_PADDED, BAR_GROUPED = 5.0, 2.0


@dataclass
class Texts:
    """Encoded rows and their labels."""

    encoded: list[dict[str, np.ndarray]]
    labels: np.ndarray

    def first(self, rows: int) -> "Texts":
        """The first of them: lengths and labels are mixed from the beginning."""
        return Texts(self.encoded[:rows], self.labels[:rows])


class Watch:
    """Seconds of work after the first steps. On a machine that is shared while it measures, processor seconds count, not
    the clock's: others' load would be counted to whoever happens to run beside it."""

    def __init__(self, threads: int) -> None:
        self.threads, self.steps = threads, 0
        self.start = self.end = (time.perf_counter(), time.process_time())

    def step(self) -> None:
        """A step has ended."""
        self.steps += 1
        now = (time.perf_counter(), time.process_time())
        if self.steps <= WARM:
            self.start = now
        self.end = now

    def seconds(self) -> float:
        wall, used = self.end[0] - self.start[0], (self.end[1] - self.start[1]) / self.threads
        if used < 0.9 * wall and self.threads == 1:
            talk(f"  the machine is busy: {used / wall:.0%} of a core was ours; processor seconds are counted")
            return used
        return wall


def figures(quick: bool, threads: int) -> list[Figure]:
    """Ratios of rows per second, and the accuracy's difference."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    features, train, test = texts(QUICK_LEARN if quick else LEARN)
    few = train.first(QUICK_TRAIN if quick else TRAIN)
    lengths = [len(row["input_ids"]) for row in train.encoded]
    talk(f"  {len(lengths)} texts of {np.mean(lengths):.0f} tokens on average (at most {max(lengths)})")
    ours, right_ours = run_ours(features, train, test, threads)
    grouped, right_grouped = run_trainer(features, train, test, threads, grouped=True)
    padded, _ = run_trainer(features, few, None, threads, grouped=False)
    ours_few, _ = run_ours(features, few, None, threads)
    again, _ = run_ours(features, train, None, threads)  # before and after the peer: a machine's speed drifts
    for name, right_ones in (("ours", right_ours), ("Trainer grouped", right_grouped)):
        low, middle, high = interval(right_ones.astype(float))
        talk(f"  accuracy, {name}: {middle:.3f} (95 %: {low:.3f} .. {high:.3f}, {len(right_ones)} rows)")
    low, middle, high = interval(right_ours.astype(float) - right_grouped.astype(float))  # paired
    talk(f"  difference {middle * 100:+.1f} points (95 %: {low * 100:+.1f} .. {high * 100:+.1f})")
    peer = f"transformers {transformers.__version__} Trainer, fp32"
    return [
        Figure("finetune_vs_hf_padded", [ours_few / padded], "x", BAR_PADDED, f"{peer}, padded to {LONGEST}"),
        Figure("finetune_vs_hf_grouped", [ours / grouped, again / grouped], "x", BAR_GROUPED, f"{peer}, grouped by length"),
        Figure("finetune_accuracy", [100 * right_ours.mean()], "%", None, f"{peer}, grouped: {100 * right_grouped.mean():.1f}"),
        Figure("finetune_accuracy_difference", [middle * 100], "points", None,
               f"{peer}, grouped; 95 %: {low * 100:+.1f} .. {high * 100:+.1f}"),
        Figure("finetune_accuracy_ci_high", [high * 100], "points", 0.0, f"{peer}, grouped by length"),
    ]


def texts(count: int) -> tuple[Any, Texts, Texts]:
    """Reviews of mixed length: several real sentences of one opinion each, as many as a skewed chance says."""
    import pyarrow as pa

    from tollway.forge import models, recipe
    from tollway.forge.data import samples

    version = samples.load("movies")
    table = pa.concat_tables([version.read(split) for split in version.splits])
    names = {column.kind: column.name for column in version.columns}
    body = table.column(names["text"]).to_pylist()
    label = [str(each) for each in table.column(names["category"]).to_pylist()]
    chance = np.random.default_rng(SEED)
    pools = {name: chance.permutation([at for at, each in enumerate(label) if each == name]).tolist() for name in sorted(set(label))}
    halves = {name: (pool[: len(pool) // 2], pool[len(pool) // 2 :]) for name, pool in pools.items()}
    split = []
    for half, rows in ((0, count), (1, TEST)):
        made = []
        for number in range(rows):
            name = sorted(pools)[number % len(pools)]
            sentences = int(np.clip(chance.lognormal(1.2, 0.7), 1, 12))
            made.append({"text": " ".join(body[at] for at in chance.choice(halves[name][half], sentences)), "label": name})
        split.append(made)
    part = recipe.Model(base="minilm", options={"max_length": LONGEST})
    features = models.fit_features(part, "text-classification", pa.Table.from_pylist(split[0]))
    found = [Texts(features.encode(rows), features.targets(rows)["label"]) for rows in split]
    return features, found[0], found[1]


def run_ours(features: Any, train: Texts, test: Texts | None, threads: int) -> tuple[float, np.ndarray]:
    """Rows a second of our loop, and which test rows it gets right (none without test rows)."""
    from tollway.forge import models, recipe
    from tollway.forge.desk import Desk
    from tollway.forge.train import Plan, loop
    from tollway.forge.train.material import Material

    class Stepping(Desk):
        watch: Watch

        def progress(self, done: float, total: float, unit: str = "steps", **figures: float) -> None:
            self.watch.step()

    net = models.create(recipe.Model(base="minilm", options={"max_length": LONGEST}), "text-classification", features, SEED)
    plan = Plan.of({"epochs": 1, "learning_rate": RATE, "seed": SEED, "threads": threads, "checkpoint_every_s": 1e6})
    batches = Material(train.encoded, {"label": train.labels}, features.collate).batches(plan)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        watch = Watch(threads)
        desk = Stepping(out=place, work=place, home=place, seed=SEED, threads=threads, emit=lambda event: None, step="train")
        desk.watch = watch
        result = loop.run(net, batches, plan, desk, pretrained=True)
    rate = (len(train.encoded) - sum(len(batch) for batch in batches.epoch(0)[:WARM])) / watch.seconds()
    talk(f"  ours ({result.precision}, {result.attention}): {rate:.1f} rows/s, {result.steps} steps")
    return rate, right(net.hf, features, test)


def run_trainer(features: Any, train: Texts, test: Texts | None, threads: int, *, grouped: bool) -> tuple[float, np.ndarray]:
    """The same for Hugging Face's Trainer."""
    import torch
    from torch.utils.data import Dataset
    from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

    from tollway.forge import models

    class Rows(Dataset):
        def __len__(self) -> int:
            return len(train.encoded)

        def __getitem__(self, at: int) -> dict[str, Any]:
            return {"input_ids": train.encoded[at]["input_ids"], "labels": int(train.labels[at])}

    watch = Watch(threads)

    class Steps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows) if grouped else LONGEST
        ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
        for at, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[at, :length], mask[at, :length] = torch.from_numpy(row["input_ids"]), 1
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}

    torch.manual_seed(SEED)
    model = AutoModelForSequenceClassification.from_pretrained(models.base("minilm"), num_labels=2)
    grouping: dict[str, Any] = {"train_sampling_strategy": "group_by_length"} if grouped else {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=ROWS, learning_rate=RATE, warmup_steps=0.06, weight_decay=0.01,
            seed=SEED, use_cpu=True, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            remove_unused_columns=False, **grouping,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=Rows(), data_collator=collate, callbacks=[Steps()])
        trainer.train()
    rate = (len(train.encoded) - WARM * ROWS) / watch.seconds()
    talk(f"  Trainer {'grouped' if grouped else 'padded'}: {rate:.1f} rows/s")
    return rate, right(model, features, test)


def right(model: Any, features: Any, test: Texts | None) -> np.ndarray:
    """Which test rows are answered correctly; the same way for everybody."""
    import torch

    if test is None:
        return np.zeros(0, dtype=bool)
    model.eval()
    found = np.zeros(len(test.encoded), dtype=bool)
    order = np.argsort([len(row["input_ids"]) for row in test.encoded])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for at in range(0, len(order), 32):
            part = order[at : at + 32]
            arrays = features.collate([test.encoded[number] for number in part])
            logits = model(**{name: torch.from_numpy(each) for name, each in arrays.items()}).logits
            found[part] = logits.argmax(-1).numpy() == test.labels[part]
    return found


def interval(values: np.ndarray, rounds: int = 4000) -> tuple[float, float, float]:
    """The mean of one value a test row with its 95 % interval: a bootstrap over the rows."""
    chance = np.random.default_rng(0)
    means = values[chance.integers(0, len(values), (rounds, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(values.mean()), float(np.quantile(means, 0.975))
