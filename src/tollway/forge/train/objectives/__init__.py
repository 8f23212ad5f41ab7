"""Objectives: what the loss is, where it is more than the net's own (`Net.loss`), and what its rows look like.

For `train.fit` and for whoever adds one: a module of this folder with a class that has `name`, `tasks`, `prepare` and
`loss`, named in `_WHERE`. `prepare` makes the material of one split; `loss` returns the scalar to minimise and figures.
"""

import difflib
import importlib
from typing import TYPE_CHECKING, Any, Protocol

from tollway.kit.errors import BadRequest

if TYPE_CHECKING:
    import torch

    from tollway.forge.train.material import Material


class Objective(Protocol):
    """Turns a prepared dataset into material, and a batch of it into a loss."""

    name: str

    def prepare(self, prepared: Any, features: Any, split: str) -> "Material | None":
        """The rows of a split, encoded, with targets; None when the split is empty."""
        ...

    def loss(self, net: Any, batch: "dict[str, torch.Tensor]", turn: str = "all") -> "tuple[torch.Tensor, dict[str, float]]":
        """The scalar to minimise (a mean over rows or tokens), and figures worth showing."""
        ...


# objective name -> "module:class" of this folder; imported only when asked for
_WHERE: dict[str, str] = {
    "supervised": "supervised:Supervised",
    "causal": "causal:Causal",
    "masked": "masked:Masked",
    "next-sentence": "next_sentence:NextSentence",
    "rotation": "pictures:Rotation",
    "masked-image": "pictures:MaskedImage",
    "sft": "sft:Sft",
    "dpo": "dpo:Dpo",
}

# What [train] options each takes; a table, so that a recipe is checked without torch (a test holds it to the classes).
OPTIONS: dict[str, tuple[str, ...]] = {
    "causal": ("length",), "sft": ("length",), "masked": ("share",), "next-sentence": ("share",), "dpo": ("beta",),
}  # fmt: skip
_PICTURES = ("rotation", "masked-image")
OF_A_BASE = ("masked", "next-sentence", *_PICTURES)

_OF_TASK = {"language-modeling": "causal", "chat": "sft", "preference": "dpo"}


def named(name: str | None, task: str) -> str:
    """The objective that is meant: `name`, or the task's usual one. Raises BadRequest when it cannot be. Without torch."""
    wanted = name or _OF_TASK.get(task, "supervised")
    if wanted not in _WHERE:
        close = difflib.get_close_matches(wanted, _WHERE, n=1)
        raise BadRequest(
            f"There is no objective {wanted!r}" + (f"; did you mean {close[0]!r}?" if close else "."),
            param="train.objective", hint=f"Take one of {', '.join(_WHERE)}, or leave it out.",
        )
    if wanted in _PICTURES and task and not task.startswith("image-"):
        raise BadRequest(
            f"The objective {wanted!r} learns from pictures; {task} has none.", param="train.objective",
            hint="Leave it out, or choose a task of pictures.",
        )
    return wanted


def get(name: str | None, task: str, **options: Any) -> Objective:
    """The objective called `name`, or the task's usual one. `options` go to its class."""
    module, cls = _WHERE[named(name, task)].split(":")
    found: Objective = getattr(importlib.import_module(f"{__name__}.{module}"), cls)(**options)
    return found
