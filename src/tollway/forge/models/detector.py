"""centernet: objects as points (Zhou et al. 2019), in the form that learns quickly on CPUs (TTFNet, Liu et al. 2020).

A picture is read at four sizes, each half of the one before; what the small ones understood is added to the larger ones
(a feature pyramid, Lin et al. 2017). On the finest of the three grids each cell says how sure it is that an object of each
label has its middle there, and how far that object reaches to the left, top, right and bottom. There are no anchors.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models.net import ModelSpec, Net
from tollway.inference import DetectionFeatures, Features

CELL = 4  # pixels of the model a cell of the grid is wide
_REACH = (-4.0, 5.0)  # logarithm of the cells an object may reach, so that a step of training cannot leap to infinity
_NARROW = 0.54  # TTFNet's alpha: how much of an object its bump covers
_LEAST = 0.05  # of a bump: below, a cell does not answer for the object's edges
_EDGES = 5.0  # weight of the edges beside the heat map


class CenterNet(Net):
    """Pixels -> `heat` [rows, labels, cells, cells] (logits) and `boxes` [rows, 4, cells, cells] (pixels of the model)."""

    def __init__(self, spec: ModelSpec, features: DetectionFeatures) -> None:
        super().__init__(spec, features)
        width, labels = int(spec.options["filters"]), len(features.labels)
        self.flip = bool(spec.options["flip"])
        self.enter = _halved(features.channels, width)
        self.fine = nn.Sequential(_halved(width, 2 * width), _block(2 * width, 2 * width))
        self.middle = nn.Sequential(_halved(2 * width, 4 * width), _block(4 * width, 4 * width))
        self.coarse = nn.Sequential(_halved(4 * width, 4 * width), _block(4 * width, 4 * width))
        self.join_middle = nn.Conv2d(4 * width, 4 * width, 1)
        self.join_coarse = nn.Conv2d(4 * width, 4 * width, 1)
        self.bring = nn.Conv2d(4 * width, 2 * width, 1)
        self.twice = nn.Upsample(scale_factor=2, mode="nearest")
        self.drop = nn.Dropout2d(float(spec.options["dropout"]))
        self.look = _block(2 * width, 2 * width)
        self.heat, self.reach = nn.Conv2d(2 * width, labels, 1), nn.Conv2d(2 * width, 4, 1)
        nn.init.constant_(self.heat.bias, -3.0)  # type: ignore[arg-type]  # hardly any cell is an object's middle
        nn.init.zeros_(self.reach.weight)
        nn.init.constant_(self.reach.bias, 1.0)  # type: ignore[arg-type]
        cells = features.size // CELL
        at = (torch.arange(cells, dtype=torch.float32) + 0.5) * CELL
        down, across = torch.meshgrid(at, at, indexing="ij")
        self.register_buffer("grid", torch.stack([across, down]), persistent=False)

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        fine = self.fine(self.enter(arrays["pixel_values"]))
        middle = self.middle(fine)
        coarse = self.join_coarse(self.coarse(middle))
        seen = self.look(self.drop(fine + self.twice(self.bring(self.join_middle(middle) + self.twice(coarse)))))
        reach = CELL * self.reach(seen).float().clamp(*_REACH).exp()
        grid: Tensor = self.grid  # type: ignore[assignment]
        boxes = torch.cat([grid - reach[:, :2], grid + reach[:, 2:]], dim=1)
        return {"heat": self.heat(seen).float(), "boxes": boxes}

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        pixels, truth = batch["pixel_values"], batch["true_boxes"]
        if self.flip and self.training:
            pixels, truth = mirrored(pixels, truth)
        made = self(pixel_values=pixels)
        return detection_loss(made["heat"], made["boxes"], truth, batch["true_labels"])


def create(spec: ModelSpec, features: Features) -> CenterNet:
    """The detector of a spec."""
    assert isinstance(features, DetectionFeatures)
    return CenterNet(spec, features)


def _halved(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def mirrored(pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the pictures, drawn anew each time, with left and right exchanged, and their boxes with them."""
    turned = torch.rand(len(pixels), device=pixels.device) < 0.5
    pixels = torch.where(turned[:, None, None, None], pixels.flip(3), pixels)
    wide = float(pixels.shape[3])
    other = torch.stack([wide - boxes[..., 2], boxes[..., 1], wide - boxes[..., 0], boxes[..., 3]], dim=-1)
    return pixels, torch.where(turned[:, None, None], other, boxes)


def detection_loss(heat: Tensor, boxes: Tensor, truth: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Focal loss of the heat map (CenterNet's, softened around each middle), and 1 - GIoU of the edges (Rezatofighi et al.
    2019) that the cells near each object's middle draw, those in the very middle counting most."""
    there = labels >= 0
    count = there.sum().clamp(min=1)
    bump = bumps(truth, there, heat.shape[2:])
    warm = _focal(heat, _wanted(bump, labels, heat)) / count
    owner = bump.argmax(
        dim=1, keepdim=True
    )  # where two objects overlap, a cell answers for the one whose middle is nearer
    mine = torch.zeros_like(bump).scatter_(1, owner, 1.0)
    weight = torch.where(bump > _LEAST, bump, 0.0) * mine
    weight = weight / weight.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    row, number, down, across = weight.nonzero(as_tuple=True)  # few cells have a say
    apart = 1 - giou(boxes[row, :, down, across], truth[row, number])
    edges = (apart * weight[row, number, down, across]).sum() / count
    return warm + _EDGES * edges, {"heat": float(warm.detach()), "edges": float(edges.detach())}


def bumps(boxes: Tensor, there: Tensor, cells: torch.Size) -> Tensor:
    """[rows, objects, cells, cells]: 1 in the cell of an object's middle, falling off with its width and height."""
    size = (boxes[..., 2:] - boxes[..., :2]) / CELL
    middle = ((boxes[..., :2] + boxes[..., 2:]) / 2 / CELL).floor()
    spread = ((size * _NARROW + 1) / 6).clamp(min=0.2)
    across = torch.arange(cells[1], device=boxes.device, dtype=boxes.dtype)
    down = torch.arange(cells[0], device=boxes.device, dtype=boxes.dtype)
    last = torch.tensor([cells[1] - 1, cells[0] - 1], device=boxes.device, dtype=boxes.dtype)
    middle = torch.minimum(middle.clamp(min=0), last)
    wide = (-((across - middle[..., :1]) ** 2) / (2 * spread[..., :1] ** 2)).exp()
    tall = (-((down - middle[..., 1:]) ** 2) / (2 * spread[..., 1:] ** 2)).exp()
    return tall[..., :, None] * wide[..., None, :] * there[..., None, None]


def _wanted(bump: Tensor, labels: Tensor, heat: Tensor) -> Tensor:
    """The heat map there should be: of each label the highest of its objects' bumps."""
    found = torch.zeros_like(heat)
    rows = torch.arange(len(heat), device=heat.device)
    for number in range(bump.shape[1]):
        label = labels[:, number].clamp(min=0)
        found[rows, label] = torch.maximum(found[rows, label], bump[:, number])
    return found


def _focal(heat: Tensor, wanted: Tensor) -> Tensor:
    sure = heat.sigmoid()
    middle = wanted >= 1
    hit = (1 - sure) ** 2 * F.logsigmoid(heat)
    miss = (1 - wanted) ** 4 * sure**2 * F.logsigmoid(-heat)
    return -torch.where(middle, hit, miss).sum()


def giou(one: Tensor, two: Tensor) -> Tensor:
    """Generalised intersection over union of boxes [..., 4]: 1 for the same, towards -1 the farther apart."""
    inner = (torch.minimum(one[..., 2:], two[..., 2:]) - torch.maximum(one[..., :2], two[..., :2])).clamp(min=0)
    outer = torch.maximum(one[..., 2:], two[..., 2:]) - torch.minimum(one[..., :2], two[..., :2])
    shared, hull = inner.prod(dim=-1), outer.prod(dim=-1).clamp(min=1e-6)
    areas = (one[..., 2:] - one[..., :2]).prod(dim=-1) + (two[..., 2:] - two[..., :2]).prod(dim=-1)
    whole = (areas - shared).clamp(min=1e-6)
    return shared / whole - (hull - whole) / hull
