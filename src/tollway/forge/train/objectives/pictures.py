"""Pre-training on pictures without their labels: rotation and masked-image. What is saved is the net itself, whose trunk
has learnt; it can be the `base` of a classifier afterwards.
"""

from typing import Any, ClassVar

from torch import Tensor

from tollway.forge.train.material import Material

_BLOCK = 1024  # pictures turned into arrays at a time


class Pictures:
    """Rows are pictures alone; the goal's wrapper around the net knows the loss."""

    name: ClassVar[str]

    def __init__(self, **_: Any) -> None:
        pass

    def prepare(self, prepared: Any, features: Any, split: str) -> Material | None:
        """Pictures without their labels."""
        if not prepared.rows(split):
            return None
        rows = [{"image": each} for each in prepared.read(split).column("image").to_pylist()]
        encoded = [each for at in range(0, len(rows), _BLOCK) for each in features.encode(rows[at : at + _BLOCK])]
        return Material(encoded, {}, features.collate, [1] * len(encoded))

    def wrap(self, net: Any, seed: int) -> Any:
        """The net under the goal's layers."""
        import torch

        from tollway.forge import models

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return (models.rotation if self.name == "rotation" else models.masked_image)(net)

    def loss(self, net: Any, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        loss, figures = net.loss(batch, turn)
        return loss, figures


class Rotation(Pictures):
    """By how many quarters was the picture turned?"""

    name = "rotation"


class MaskedImage(Pictures):
    """What is behind the covered patches?"""

    name = "masked-image"
