"""Opening what is evaluated: the rows of a prepared folder, and the model of a folder in the format that will be served."""

import json
import random
import tomllib
from pathlib import Path
from typing import Any

from tollway.kit.errors import NotFound

WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "members/0/model.toml")  # the last one: of an ensemble
SERVED = ("onnx-int8", "onnx", "openvino-int8", "openvino", "litert-int8", "litert")


def rows(prepared: Any, split: str, limit: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """The rows of a split; a random part of them (the same each time) where there are more than `limit`."""
    if split not in prepared.splits:
        return []
    table = prepared.read(split)
    if limit is not None and table.num_rows > limit:
        table = table.take(sorted(random.Random(seed).sample(range(table.num_rows), limit)))  # noqa: S311
    return list(table.to_pylist())


def task_of(prepared: Any, folder: Path) -> str:
    """The task, from the prepared rows or the model's own description."""
    named = getattr(prepared, "task", None) or (getattr(prepared, "meta", None) or {}).get("task")
    return str(named or described(folder).get("task") or "")


def described(folder: Path) -> dict[str, Any]:
    """What `model.toml` says; nothing when there is none."""
    path = folder / "model.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def served(
    folder: Path, source: Path | None = None, threads: int = 1, home: Path | None = None
) -> tuple[Any, str]:  # fmt: skip
    """The predictor buyers will meet, and the name of its format; the torch reference when nothing was converted."""
    from tollway import inference
    from tollway.inference import runners

    chosen = _chosen(folder)
    for name in dict.fromkeys([*([chosen] if chosen else []), *SERVED]):
        if name not in runners.FORMATS:
            continue
        try:
            return inference.load(folder, format=name, threads=threads), name
        except NotFound:
            continue
    return reference(folder, source, home), "torch"


def _chosen(folder: Path) -> str:
    """The format that a conversion says is served."""
    path = folder / "parity.json"
    return str(json.loads(path.read_text(encoding="utf-8")).get("serve", "")) if path.is_file() else ""


def reference(folder: Path, source: Path | None = None, home: Path | None = None) -> Any:
    """The torch model of a folder, or of the trained model's folder that it was made from. Raises NotFound."""
    from tollway.forge import models

    for place in (folder, source):
        if place is not None and (place / "model.toml").is_file() and any((place / one).is_file() for one in WEIGHTS):
            return models.TorchPredictor(models.load(place, home=home))
    raise NotFound(f"{folder.name} holds no torch model.", hint='Add "safetensors" to [convert] formats of the recipe.')


def untrained(folder: Path, source: Path | None, task: str, home: Path | None) -> Any:
    """The base that a language model was made from, as it was before; None where nothing comparable was there before."""
    if task not in ("language-modeling", "chat", "preference"):
        return None
    from tollway.forge import models

    for place in (source, folder):
        if place is not None and described(place).get("parent"):
            return models.TorchPredictor(models.untrained(place, home))
    return None


class Beside:
    """What is served, with the torch net it was made from: for what only the net can tell (how it rebuilds a picture)."""

    def __init__(self, served: Any, reference: Any) -> None:
        self.predict, self.features, self.net = served.predict, served.features, reference.net
