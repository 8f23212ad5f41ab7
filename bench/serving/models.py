"""The models that are served: MiniLM with real weights, and three other kinds of shape. Each a folder as the factory makes it,
made once and kept in the bench's cache.

An untrained net costs what a trained one costs: only the encoder must be real, because its answers are compared.
"""

import random
import shutil
from pathlib import Path
from typing import Any, Final

from bench.rig import store
from bench.rig.processes import talk

KINDS: Final = ("minilm", "bilstm", "cnn", "tabular")
_MADE_BY: Final = 1  # raise it when what `_make` writes changes
_WORDS: Final = (
    "the of and a to in is was it for on with as his that at be by had not are but from or have an they which one you were her "
    "all she there would their we him been has when who will more no if out so said what up its about into than them can only "
    "other new some could time these two may then do first any my now such like our over man me even most made after also did"
)


def folder(kind: str) -> Path:
    """Where a model lies."""
    place = store.folder() / "serving" / f"{kind}-{_MADE_BY}"
    if not (place / ".ready").is_file():
        talk(f"bench: making {kind} (once)")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        _make(kind, place)
        (place / ".ready").touch()
    return place


def about(kind: str) -> dict[str, Any]:
    """What the shop must know of it."""
    if kind == "minilm":
        return {"kind": "embedding", "task": "sentence-embedding", "input": "text", "embedding_dimensions": 384,
                "context_tokens": 256}  # fmt: skip
    if kind == "bilstm":
        return {"kind": "classification", "task": "text-classification", "input": "text", "context_tokens": 256}
    if kind == "cnn":
        return {"kind": "image-classification", "task": "image-classification", "input": "image"}
    return {"kind": "classification", "task": "tabular-classification", "input": "row"}


def texts(count: int, seed: int = 11) -> list[str]:
    """English words in lengths as real traffic has them: tokens p50 20, mean 33, p99 204."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        length = min(250.0, chance.lognormvariate(3.0, 1.0))
        found.append(" ".join(chance.choices(_WORDS.split(), k=max(1, round(length) - 2))))
    return found


def _make(kind: str, place: Path) -> None:
    import torch

    from tollway.forge import models, recipe
    from tollway.forge.convert import flat, onnx

    torch.manual_seed(5)
    table, part, task, longest = _ingredients(kind)
    features = models.fit_features(part, task, table)
    net = models.create(part, task, features, 5)
    assert isinstance(part, recipe.Model)
    onnx.export(flat.source_of(net), place / "model.onnx", longest=longest)
    features.save(place)


def _ingredients(kind: str) -> tuple[Any, Any, str, int]:
    import pyarrow as pa

    from tollway.forge import recipe

    chance = random.Random(3)
    labels = [("good", "bad")[number % 2] for number in range(200)]
    if kind == "minilm":
        part = recipe.Model(base="minilm", options={"max_length": 256})
        return pa.table({"text": texts(50), "text_b": texts(50, 2)}), part, "sentence-embedding", 256
    if kind == "bilstm":
        part = recipe.Model(architecture="bilstm", options={"max_length": 256})
        return pa.table({"text": texts(200), "label": labels}), part, "text-classification", 256
    if kind == "cnn":
        pictures = [_picture(chance) for _ in labels]
        return (
            pa.table({"image": pictures, "label": labels}),
            recipe.Model(architecture="cnn"),
            "image-classification",
            0,
        )
    columns = {f"x{n}": [chance.random() for _ in labels] for n in range(12)} | {
        "kind": chance.choices("abcd", k=len(labels))
    }
    return pa.table({**columns, "label": labels}), recipe.Model(architecture="tabular"), "tabular-classification", 0


def _picture(chance: random.Random) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.frombytes("L", (28, 28), chance.randbytes(784)).save(out, "PNG")
    return out.getvalue()
