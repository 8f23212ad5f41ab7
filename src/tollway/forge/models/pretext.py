"""Pre-training pictures without labels: which way up is it (Gidaris et al. 2018), and what is behind the patches (masked
images, as in He et al. 2022 but convolutional). Each wraps an image net, whose trunk learns; the wrapper is thrown away.

    goal = pretext.rotation(net)      # or pretext.masked_image(net)
    loss, figures = goal.loss({"pixel_values": pixels})
"""

import copy
from typing import Final

import torch
from torch import Tensor, nn

from tollway.forge.models.image import ImageNet
from tollway.forge.models.net import Net, loss_of
from tollway.kit.errors import BadRequest

_PATCH_SHARE: Final = 4  # patches a side
_MASKED: Final = 0.5


class Pretext(Net):
    """A goal that needs no labels. `wanted` is the net that it teaches; it shares its trunk."""

    def __init__(self, net: ImageNet) -> None:
        super().__init__(copy.copy(net.spec), net.features)
        self.wanted = net

    def layers(self) -> list[nn.Module]:
        return self.wanted.layers()


class Rotation(Pretext):
    """Tell by how many quarters a picture was turned."""

    def __init__(self, net: ImageNet) -> None:
        super().__init__(net)
        self.guess = nn.Linear(net.width, 4)

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        return {"logits": self.guess(self.wanted.trunk(arrays["pixel_values"]))}

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        pixels = batch["pixel_values"]
        turned = torch.cat([torch.rot90(pixels, quarters, (2, 3)) for quarters in range(4)])
        label = torch.arange(4, device=pixels.device).repeat_interleave(len(pixels))
        return loss_of(self(pixel_values=turned), {"label": label})


class MaskedImage(Pretext):
    """Paint what was covered, from the vector of what was not."""

    def __init__(self, net: ImageNet) -> None:
        super().__init__(net)
        channels, size = int(net.features.options["channels"]), int(net.features.options["size"])
        self.shape = (channels, size, size)
        self.paint = nn.Sequential(nn.Linear(net.width, 256), nn.GELU(), nn.Linear(256, channels * size * size))

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        return {"image": self.paint(self.wanted.trunk(arrays["pixel_values"])).unflatten(1, self.shape)}

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        pixels = batch["pixel_values"]
        covered = torch.rand(len(pixels), 1, _PATCH_SHARE, _PATCH_SHARE, device=pixels.device) < _MASKED
        covered = nn.functional.interpolate(covered.float(), self.shape[1:], mode="nearest")
        painted = self(pixel_values=pixels * (1 - covered))["image"].float()
        apart = ((painted - pixels).square() * covered).sum() / (covered.sum() * self.shape[0]).clamp(min=1)
        return apart, {"rmse": float(apart.detach().sqrt())}


def rotation(net: Net) -> Rotation:
    """The goal of telling rotations. Raises BadRequest when the net is no image network."""
    return Rotation(_image(net))


def masked_image(net: Net) -> MaskedImage:
    """The goal of painting covered patches."""
    return MaskedImage(_image(net))


def _image(net: Net) -> ImageNet:
    if not isinstance(net, ImageNet):
        raise BadRequest(f"{net.spec.architecture} is no image network; this goal is for pictures.")
    return net
