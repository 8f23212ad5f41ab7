"""What is known of a model before it is trained: its layers, and what can be removed of it. Without torch, for `plan.check`.

A recipe that wants more of a model than there is would otherwise be told so after the training.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tollway.forge.models import bases, options

_LAYERED: Final = ("rnn", "gru", "lstm", "bilstm", "transformer", "seq2seq", "tabular", "llama", "bert")
_UNITS: Final[dict[str, tuple[str, ...] | None]] = {
    "transformer": ("heads", "neurons"), "seq2seq": ("heads", "neurons"), "tabular": ("neurons",), "mlp": ("neurons",),
    "cnn": ("channels", "neurons"), "llama": None, "bert": None,
}  # fmt: skip
_COUNTS: Final = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers")  # in config.json
TAUGHT: Final = (
    "text-classification", "text-regression", "sentence-embedding", "image-classification", "recommendation",
    "tabular-classification", "tabular-regression",
)  # fmt: skip
"""Tasks whose answer is one vector for each row: what a student learns from."""


@dataclass(frozen=True)
class Outline:
    """None: not known before the model is there."""

    layers: int | None = None
    units: tuple[str, ...] | None = None
    architecture: str = ""


def of(part: options.Part, task: str, home: Path | None = None, *, read_base: bool = True) -> Outline:
    """The outline of a recipe's [model]. `read_base`: look into a base too, whose weights are held against their hash for
    that. Raises BadRequest where it cannot be read."""
    name, chosen = options.read(part, task, home)
    if name == options.BASE:
        return Outline(_of_config(part.base, home) if read_base else None)
    return Outline(int(getattr(chosen, "layers", 0)) if name in _LAYERED else 0, _UNITS.get(name, ()), name)


def converted(model: Outline, part: Any) -> str:
    """The architecture that conversion will meet: the last student's, where `[compress]` teaches one of another kind."""
    students = [step.removeprefix("distil:") for step in (part.steps if part is not None else ()) if step.startswith("distil:")]
    return next((name for name in reversed(students) if not name.isdigit()), model.architecture)


def _of_config(base: str, home: Path | None) -> int | None:
    """What the base's config.json says; a base that would have to be fetched or made first is not asked."""
    local = base in bases.PACKAGED or bases.own(base, home) is not None or Path(base).expanduser().is_dir()
    if not local:
        return None
    path = bases.find(base, home) / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return next((int(config[name]) for name in _COUNTS if isinstance(config.get(name), int)), None)
