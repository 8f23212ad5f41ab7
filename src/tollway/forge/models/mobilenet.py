"""mobilenet-v2 (Sandler et al. 2018): small, fast, good at photos. From scratch, or as the base "mobilenet-v2" that has seen
ImageNet. Tensors have torchvision's names.
"""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from tollway.forge.models import folders
from tollway.forge.models.image import ImageNet
from tollway.forge.models.net import ModelSpec
from tollway.inference import Features, ImageFeatures

# growth inside a block, channels, blocks, stride of the first
_STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_FIRST, _LAST = 32, 1280


def unit(before: int, after: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride, (size - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU6(),
    )


class Inverted(nn.Module):
    """Wide inside, narrow outside; the input is carried around where the shapes allow it."""

    def __init__(self, before: int, after: int, stride: int, growth: int) -> None:
        super().__init__()
        inner = before * growth
        layers: list[nn.Module] = [unit(before, inner, 1)] if growth > 1 else []
        layers += [unit(inner, inner, 3, stride, inner), nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after)]
        self.conv = nn.Sequential(*layers)
        self.carried = stride == 1 and before == after

    def forward(self, states: Tensor) -> Tensor:
        made: Tensor = self.conv(states)
        return states + made if self.carried else made


def trunk(channels: int) -> nn.Sequential:
    """The layers below the mean over the picture."""
    layers: list[nn.Module] = [unit(channels, _FIRST, 3, 2)]
    before = _FIRST
    for growth, after, blocks, stride in _STAGES:
        for number in range(blocks):
            layers.append(Inverted(before, after, stride if number == 0 else 1, growth))
            before = after
    return nn.Sequential(*layers, unit(before, _LAST, 1))


def create(spec: ModelSpec, features: Features) -> ImageNet:
    """Fresh weights."""
    assert isinstance(features, ImageFeatures)
    body = nn.Sequential(trunk(features.channels), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for one in body.modules():
        if isinstance(one, nn.Conv2d):
            nn.init.kaiming_normal_(one.weight, mode="fan_out")
    return MobileNet(spec, features, body, _LAST)


class MobileNet(ImageNet):
    """The stack below the head, layer by layer."""

    def layers(self) -> list[nn.Module]:
        stack = next(self.trunk.children())
        return list(stack.children())


def create_from(spec: ModelSpec, features: Features, folder: Path) -> ImageNet:
    """The weights of the base below a fresh head."""
    net = create(spec, features)
    state = folders.read_weights(folder / folders.WEIGHTS)
    below = {name.removeprefix("features."): one for name, one in state.items() if name.startswith("features.")}
    net.trunk.get_submodule("0").load_state_dict(below)
    return net


def convert(source: str, out: str) -> dict[str, int]:
    """A torchvision .pth as safetensors. Runs in a limited process, with torch's reader that builds tensors and nothing else."""
    state = torch.load(source, map_location="cpu", weights_only=True)
    folders.write_state(state, Path(out))
    return {"tensors": len(state)}
