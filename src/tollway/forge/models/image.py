"""Networks for pictures: mlp and cnn."""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from tollway.forge.models.net import Head, ModelSpec, Net
from tollway.inference import Features, ImageFeatures


class ImageNet(Net):
    """Pixels -> a vector (`trunk`) -> the answer."""

    def __init__(self, spec: ModelSpec, features: ImageFeatures, trunk: nn.Module, width: int) -> None:
        super().__init__(spec, features)
        self.trunk = trunk
        self.width = width
        self.head = Head(width, spec.task, features)
        self.drop = nn.Dropout(float(spec.options.get("dropout", 0.1)))

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        return self.head(self.drop(self.trunk(arrays["pixel_values"])))  # type: ignore[no-any-return]

    def layers(self) -> list[nn.Module]:
        return list(self.trunk.children())


def block(before: int, after: int) -> nn.Sequential:
    """Two convolutions with normalisation, then half the size."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
    )  # fmt: skip


def create_mlp(spec: ModelSpec, features: Features) -> ImageNet:
    """Layers of neurons on the bare pixels."""
    assert isinstance(features, ImageFeatures)
    width = features.channels * features.size**2
    layers: list[nn.Module] = [nn.Flatten()]
    for hidden in spec.options["hidden"]:
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(float(spec.options["dropout"]))]
        width = hidden
    return ImageNet(spec, features, nn.Sequential(*layers), width)


def create_cnn(spec: ModelSpec, features: Features) -> ImageNet:
    """Convolution blocks, then the mean over the picture."""
    assert isinstance(features, ImageFeatures)
    options: dict[str, Any] = spec.options
    widths = [features.channels, *options["filters"]]
    layers: list[nn.Module] = [block(one, other) for one, other in pairwise(widths)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    width = widths[-1]
    if options["hidden"]:
        layers += [nn.Linear(width, options["hidden"]), nn.ReLU()]
        width = options["hidden"]
    return ImageNet(spec, features, nn.Sequential(*layers), width)
