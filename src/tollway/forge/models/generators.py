"""vae and gan: pictures from noise. `forward(noise)` gives `image` (0..1); a VAE also shows a picture as it sees it.

With `conditional = true` both are told the class (Mirza and Osindero 2014): the painter beside the noise, the critic as one
more channel, learnt for each class. A GAN shows its slow painter, the running mean of the one that learns (Yazıcı et al. 2019):
two halves that work against each other never rest, and their mean draws more kinds of pictures than any moment of them.
"""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models.net import ModelSpec, Net
from tollway.inference import Features, ImageFeatures

_SLOW = 0.999  # share of the slow painter that is kept at each step, once there were some thousand
_REAL = 0.9  # one-sided label smoothing (Salimans et al. 2016): the critic may not become too sure


class Painter(nn.Module):
    """Noise (and a class) to a picture: a small field of features, doubled twice."""

    def __init__(self, noise: int, channels: int, size: int, filters: int, classes: int = 0) -> None:
        super().__init__()
        self.size, self.field, self.filters, self.classes = size, math.ceil(size / 4), filters, classes
        self.enter = nn.Linear(noise + classes, 2 * filters * self.field**2)
        self.norm = nn.BatchNorm2d(2 * filters)
        self.body = nn.Sequential(
            nn.ReLU(), nn.ConvTranspose2d(2 * filters, filters, 4, 2, 1, bias=False), nn.BatchNorm2d(filters),
            nn.ReLU(), nn.ConvTranspose2d(filters, channels, 4, 2, 1),
        )  # fmt: skip

    def forward(self, noise: Tensor, classes: Tensor | None = None) -> Tensor:
        """Logits of the pixels."""
        if classes is not None:
            noise = torch.cat([noise, F.one_hot(classes, self.classes).to(noise.dtype)], dim=1)
        field = self.enter(noise).unflatten(1, (2 * self.filters, self.field, self.field))
        return self.body(self.norm(field))[:, :, : self.size, : self.size]  # type: ignore[no-any-return]


class Critic(nn.Module):
    """A picture to `outputs` numbers: two convolutions that halve the size, one linear layer."""

    def __init__(self, channels: int, size: int, filters: int, outputs: int, dropout: float, classes: int = 0) -> None:
        super().__init__()
        field = math.ceil(size / 4)
        self.body = nn.Sequential(
            nn.Conv2d(channels + bool(classes), filters, 4, 2, 1), nn.LeakyReLU(0.2), nn.Dropout2d(dropout),
            nn.Conv2d(filters, 2 * filters, 4, 2, 1), nn.LeakyReLU(0.2), nn.Dropout2d(dropout), nn.Flatten(),
        )  # fmt: skip
        self.pad = (0, 4 * field - size, 0, 4 * field - size)
        self.out = nn.Linear(2 * filters * field**2, outputs)
        self.plane = nn.Embedding(classes, size**2) if classes else None

    def forward(self, pixels: Tensor, classes: Tensor | None = None) -> Tensor:
        if self.plane is not None:
            shown = self.plane(classes).view(-1, 1, *pixels.shape[2:]).to(pixels.dtype)
            pixels = torch.cat([pixels, shown], dim=1)
        return self.out(self.body(F.pad(pixels, self.pad)))  # type: ignore[no-any-return]


class Vae(Net):
    """Variational auto-encoder (Kingma and Welling 2014)."""

    def __init__(self, spec: ModelSpec, features: ImageFeatures) -> None:
        super().__init__(spec, features)
        options = spec.options
        noise, filters = int(features.options["noise"]), int(options["filters"])
        kinds = len(features.labels)
        self.critic = Critic(features.channels, features.size, filters, 2 * noise, float(options["dropout"]), kinds)
        self.painter = Painter(noise, features.channels, features.size, filters, kinds)
        self.beta = float(options["beta"])

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        noise, classes = arrays.get("noise"), arrays.get("classes")
        if noise is None:
            noise = self.critic(arrays["pixel_values"], classes).chunk(2, dim=1)[0]
        return {"image": self.painter(noise, classes).float().sigmoid()}

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        pixels, classes = batch["pixel_values"], batch.get("classes")
        mean, spread = self.critic(pixels, classes).float().chunk(2, dim=1)
        spread = spread.clamp(-12, 8)
        noise = mean + torch.randn_like(mean) * (spread / 2).exp() if self.training else mean
        logits = self.painter(noise, classes).float()
        rows = len(pixels)
        drawn = F.binary_cross_entropy_with_logits(logits, pixels.clamp(0, 1), reduction="sum") / rows
        order = -0.5 * (1 + spread - mean.square() - spread.exp()).sum() / rows
        return drawn + self.beta * order, {"reconstruction": float(drawn.detach()), "kl": float(order.detach())}


class Gan(Net):
    """DCGAN (Radford et al. 2016): a painter and a critic, in turns, with the non-saturating loss."""

    turns = ("discriminator", "generator")
    moving = ("slow",)

    def __init__(self, spec: ModelSpec, features: ImageFeatures) -> None:
        super().__init__(spec, features)
        options = spec.options
        self.noise, filters = int(features.options["noise"]), int(options["filters"])
        kinds = len(features.labels)
        self.critic = Critic(features.channels, features.size, filters, 1, float(options["dropout"]), kinds)
        self.painter = Painter(self.noise, features.channels, features.size, filters, kinds)
        for name, one in self.named_parameters():
            if one.dim() > 1:
                nn.init.normal_(one, std=0.02)
            elif "norm" not in name and name.endswith("bias"):
                nn.init.zeros_(one)
        self.slow = copy.deepcopy(self.painter).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        return {"image": self.slow(arrays["noise"], arrays.get("classes")).float().sigmoid()}

    def count(self) -> int:
        """The slow painter is the painter a second time."""
        return super().count() - sum(one.numel() for one in self.slow.parameters())

    @torch.no_grad()
    def _follow(self) -> None:
        """The slow painter goes a little way to where the painter is; at first a long one, for it knows nothing yet."""
        steps: Tensor = self.steps  # type: ignore[assignment]
        share = max(1 - _SLOW, 1 / (1 + 0.1 * int(steps)))
        steps += 1
        for mine, theirs in zip(self.slow.state_dict().values(), self.painter.state_dict().values(), strict=True):
            mine.lerp_(theirs, share) if mine.is_floating_point() else mine.copy_(theirs)

    def loss(self, batch: dict[str, Tensor], turn: str = "discriminator") -> tuple[Tensor, dict[str, float]]:
        real, classes = batch["pixel_values"], batch.get("classes")
        noise = torch.randn(len(real), self.noise, device=real.device)
        if turn == "generator":
            verdict = self.critic(self.painter(noise, classes).float().sigmoid(), classes).float()
            return F.binary_cross_entropy_with_logits(verdict, torch.ones_like(verdict)), {}
        if self.training:
            self._follow()
        with torch.no_grad():
            fake = self.painter(noise, classes).float().sigmoid()
        believed, doubted = self.critic(real, classes).float(), self.critic(fake, classes).float()
        loss = F.binary_cross_entropy_with_logits(believed, torch.full_like(believed, _REAL))
        loss = loss + F.binary_cross_entropy_with_logits(doubted, torch.zeros_like(doubted))
        right = ((believed.detach() > 0).float().mean() + (doubted.detach() < 0).float().mean()) / 2
        return loss, {"critic_right": float(right)}

    def parameters_of(self, turn: str = "all") -> Iterator[nn.Parameter]:
        part: nn.Module = {"discriminator": self.critic, "generator": self.painter}.get(turn, self)
        return (one for one in part.parameters() if one.requires_grad)


def create_vae(spec: ModelSpec, features: Features) -> Vae:
    """The auto-encoder of a spec."""
    assert isinstance(features, ImageFeatures)
    return Vae(spec, features)


def create_gan(spec: ModelSpec, features: Features) -> Gan:
    """The painter and critic of a spec."""
    assert isinstance(features, ImageFeatures)
    return Gan(spec, features)
