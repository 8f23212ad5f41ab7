"""Ensemble: several trained nets that answer as one: their probabilities (or values) are averaged.

    net = ensemble.of([net_a, net_b]);  models.save(net, folder)      # members/0, members/1 are whole model folders

For training with `members` above 1. It is a Net like any other, so it is exported, evaluated and served like any other.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models import options
from tollway.forge.models.net import ModelSpec, Net
from tollway.inference import Features
from tollway.kit.errors import BadRequest

NAME: Final = "ensemble"  # the architecture in model.toml
_MEMBERS: Final = "members"


class Ensemble(Net):
    """The mean of its members."""

    def __init__(self, spec: ModelSpec, features: Features, members: Sequence[Net]) -> None:
        super().__init__(spec, features)
        self.members = nn.ModuleList(members)

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        outputs = [member(**arrays) for member in self.members]
        return {name: _mean(name, [each[name] for each in outputs]) for name in outputs[0]}


def of(nets: Sequence[Net]) -> Ensemble:
    """An ensemble of trained nets of one case. Raises BadRequest for tasks whose answers have no mean."""
    first = nets[0]
    if first.spec.task in options.SINGLE:
        raise BadRequest(
            f"Models for {first.spec.task} write their answer step by step or draw it: such answers have no mean.",
            param="train.members", hint="Set soup = true, which averages the weights instead, or members = 1.",
        )  # fmt: skip
    spec = ModelSpec(NAME, first.spec.task, {"members": len(nets), "of": first.spec.architecture}, list(first.spec.labels))
    spec.parent = first.spec.parent
    made = Ensemble(spec, first.features, nets)
    spec.parameters = made.count()
    return made.eval()


def save(net: Ensemble, folder: Path, save_member: Callable[[Net, Path], None]) -> None:
    """Each member as a model folder of its own."""
    for number, member in enumerate(net.members):
        save_member(cast(Net, member), folder / _MEMBERS / str(number))


def load(spec: ModelSpec, features: Features, folder: Path, load_member: Callable[[Path], Net]) -> Ensemble:
    """What `save` wrote."""
    count = int(spec.options["members"])
    made = Ensemble(spec, features, [load_member(folder / _MEMBERS / str(number)) for number in range(count)])
    return made.eval()


def _mean(name: str, parts: Sequence[Tensor]) -> Tensor:
    """Of logits: the logarithm of the mean probability. Of embeddings: the mean direction. Else the mean."""
    if name.endswith("logits"):
        shares = torch.stack([part.float().log_softmax(-1) for part in parts])
        return shares.exp().mean(0).log()
    middle = torch.stack([part.float() for part in parts]).mean(0)
    return F.normalize(middle, dim=-1) if name == "embedding" else middle
