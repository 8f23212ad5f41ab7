"""The worker of one fine-tuning job: examples -> LoRA on the shared base -> GGUF adapter, in a process of its own.

Started as `python -m tollway.flows.fine_tuning_child`; reads its orders (`Orders`) as one line of JSON from standard input
and tells what happens as lines of JSON on standard output. It dies with the gateway; started again in the same folder it
goes on where its last checkpoint was. Nothing it says quotes an example.
"""

import contextlib
import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from tollway.flows import workshop
from tollway.kit import said
from tollway.kit.errors import TollwayError

CHECKPOINT_EVERY_S = 15


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What to train, where."""

    folder: str  # the job's own
    bases: str  # where bases are kept once they are converted
    base_weights: str  # GGUF
    training: str  # JSONL
    validation: str = ""
    epochs: float = 3
    batch_rows: int = 4
    learning_rate: float = 2e-4
    seed: int = 0
    threads: int = 1
    parent: int


def main() -> int:
    from tollway.serve.engines import child

    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    child.settle(orders.parent)
    os.nice(10)  # buyers who wait for an answer come first
    stop = threading.Event()
    threading.Thread(target=_until_told, args=(stop,), daemon=True).start()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # libraries print; our lines go to the real one
            made = work(orders, stop.is_set, _say)
    except TollwayError as error:
        told = {"code": error.code, "why": error.message, "said": said.coded(error.said)}
        _say({"kind": "failed", **told, "stopped": stop.is_set()})
        return 1
    except Exception as error:  # only its kind is told: its text may quote an example
        why = said.say("tuning.failed", "The training failed ({name}).", name=type(error).__name__)
        _say(
            {
                "kind": "failed",
                "code": "training_failed",
                "why": str(why),
                "said": why.coded(),
                "stopped": stop.is_set(),
            }
        )
        raise
    _say({"kind": "made", **made})
    return 0


def _note(tell: Any, words: said.Said) -> None:
    tell({"kind": "note", "text": str(words), "said": words.coded()})


def work(orders: Orders, stopped: Any, say: Any) -> dict[str, Any]:
    """The line itself; what it made."""
    from tollway.forge import data, recipe, steps, train
    from tollway.forge.convert import gguf_export
    from tollway.forge.models import gguf_base
    from tollway.kit.clock import SystemClock

    home, clock = Path(orders.folder), SystemClock()
    weights = Path(orders.base_weights)
    _note(say, said.say("tuning.preparing", "Preparing the base and the examples."))
    base = Path(orders.bases) / f"{weights.parent.parent.name}-{weights.parent.name}"
    if not (base / "model.safetensors").is_file():
        gguf_base.import_gguf(weights, base)
    shelf = workshop.datasets(home, clock)
    version = shelf.add("examples", _tables(orders), kinds={"messages": "json"}, source="upload")
    text = _recipe(orders, version.ref, base)
    plan = recipe.parse(text)
    run = workshop.runs(home, clock).begin(
        text, "fine-tuning", "chat", steps.Cost(), sink=lambda event: _relay(event, say)
    )
    run.seed, run.threads, run.stop_asked = orders.seed, orders.threads, stopped

    def prepare(desk: Any) -> dict[str, Any]:
        data.prepare(plan.data, "chat", shelf, desk)
        return {}

    def fit(desk: Any) -> dict[str, Any]:
        return dict(train.fit(plan.train, plan.model, "chat", data.Prepared(prepared), desk).figures)

    prepared = run.step("prepare", {"data": plan.data, "dataset": version.digest}, ("forge/data",), prepare)
    trained = run.step("train", {"train": plan.train, "after": prepared.name}, ("forge/train", "forge/models"), fit)
    _note(say, said.say("tuning.writing", "Writing the adapter and holding it against the trained model."))
    adapter = home / "adapter.gguf"
    figures = gguf_export.adapter(trained, adapter, weights, prompts_of=_Examples(data.Prepared(prepared)))
    run.finish("done")
    return {
        "adapter": str(adapter),
        "digest": version.digest,
        "run": run.id,
        "seconds": run.record.made_seconds,
        "recipe": text,
        "figures": {name: value for name, value in figures.items() if isinstance(value, int | float | str)},
        "training": {
            name: value for name, value in run.figures("train").items() if isinstance(value, int | float | str)
        },
    }


class _Examples:
    """The parity check's prompts are the beginnings of examples that were learned: there is no test split to spare."""

    def __init__(self, prepared: Any) -> None:
        self._prepared = prepared

    def read(self, split: str) -> Any:
        return self._prepared.read("train")


def _tables(orders: Orders) -> dict[str, Any]:
    """The examples as tables, one a split."""
    pa: Any = importlib.import_module("pyarrow")
    turn = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    tables = {}
    for split, path in (("train", orders.training), ("validation", orders.validation)):
        if path:
            with Path(path).open(encoding="utf-8") as file:
                rows = [json.loads(line)["messages"] for line in file if line.strip()]
            plain = [[{"role": one["role"], "content": one["content"]} for one in row] for row in rows]
            tables[split] = pa.table({"messages": pa.array(plain, turn)})
    return tables


def _recipe(orders: Orders, dataset: str, base: Path) -> str:
    return f"""[recipe]
name = "fine-tuning"
task = "chat"
seed = {orders.seed}
[data]
dataset = "{dataset}"
split = {{validation = 0.0, test = 0.0, by = "random"}}
[model]
base = {json.dumps(str(base))}
[train]
method = "lora"
epochs = {orders.epochs}
batch_rows = {orders.batch_rows}
learning_rate = {orders.learning_rate}
checkpoint_every_s = {CHECKPOINT_EVERY_S}
"""


def _relay(event: dict[str, Any], say: Any) -> None:
    """Of all that happens in a run, what a buyer may see: how far it is, and the loss."""
    if event.get("kind") == "progress" and event.get("step") == "train":
        figures = {name: event[name] for name in ("done", "total", "loss") if isinstance(event.get(name), int | float)}
        say({"kind": "progress", **figures})
    elif event.get("kind") == "metric" and isinstance(event.get("value"), int | float):
        say({"kind": "metric", "name": event["name"], "value": event["value"], "at": event.get("at")})


def _until_told(stop: threading.Event) -> None:
    """A line, or the end of our input, means: stop at the next step."""
    sys.stdin.buffer.readline()
    stop.set()


def _say(event: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(event, default=str) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main())
