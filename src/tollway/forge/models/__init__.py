"""Models: what is trained. Architectures from scratch, pre-trained bases, adapters; each a `Net` with named arrays in and out.

    features = models.fit_features(recipe.model, task, train_table)
    net = models.create(recipe.model, task, features, seed)       # or models.load(folder)
    models.save(net, folder);  models.TorchPredictor(net).predict(rows)

torch is loaded when one of these is called, not before: recipes are checked without it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollway.forge import digests
from tollway.forge.models import bases, options
from tollway.forge.models.options import default_architecture
from tollway.kit import lazy

if TYPE_CHECKING:
    from tollway.forge.models.adapters import adapt, merge
    from tollway.forge.models.building import create, load, save, trainable, untrained
    from tollway.forge.models.net import ModelSpec, Net
    from tollway.forge.models.predictor import TorchPredictor
    from tollway.forge.models.pretext import masked_image, rotation
    from tollway.inference import Features

FEATURES = "features.json"
_LAZY = {
    "adapt": "adapters", "merge": "adapters", "masked_image": "pretext", "rotation": "pretext", "create": "building",
    "load": "building", "save": "building", "trainable": "building", "ModelSpec": "net", "Net": "net",
    "TorchPredictor": "predictor", "untrained": "building",
}  # fmt: skip

__all__ = [
    "ModelSpec", "Net", "TorchPredictor", "adapt", "base", "check", "create", "default_architecture", "fit_features", "grows",
    "load", "masked_image", "merge", "options", "origins", "rotation", "save", "trainable", "untrained",
]  # fmt: skip

__getattr__ = lazy.parts(__name__, _LAZY)
base: Callable[..., Path] = bases.find  # "minilm", a folder, a Hugging Face id -> a folder


def check(part: options.Part, task: str, home: Path | None = None) -> options.Options:
    """The validated options of a recipe's [model]; BadRequest lists every problem. Without torch."""
    chosen = options.read(part, task, home)[1]
    if part.base:
        bases.look(part.base, home)
    return chosen


def origins(part: options.Part, home: Path | None = None) -> list[Any]:
    """What a net starts from besides its recipe, as it is now: a base, a file of word vectors. For the digest of a step."""
    vectors = str(part.options.get("vectors") or "")
    return [bases.state(part.base, home) if part.base else None, digests.stamp(Path(vectors)) if vectors else None]


def grows(part: options.Part, task: str, home: Path | None = None) -> bool:
    """Does it go on from a net of one of our architectures? Those are small, or convolutional, and keep the pace they learn at
    from nothing; pre-trained transformers want small steps, and so does what follows on a language model."""
    if not part.base or task in options.LANGUAGE_TASKS:
        return False
    return options.read(part, task, home)[0] != options.BASE


def fit_features(part: options.Part, task: str, table: Any, home: Path | None = None) -> "Features":
    """Learn how rows become arrays: with the base's tokenizer or picture size where there is a base. A base that was made
    here keeps all it knows of its rows; only what is to be predicted is looked at anew."""
    from tollway.inference import features_of, load_features

    given = check(part, task, home).model_dump()
    mine = bases.own(part.base, home) if part.base else None
    if mine is not None and (mine / FEATURES).is_file():
        known = load_features(mine)
        if known.kind == features_of(task).kind:
            return known.retarget(task, table)
    if part.base:
        given |= bases.feature_options(part.base, task, given, home)
    return features_of(task).fit(task, table, given)
