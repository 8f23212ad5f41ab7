"""The detector's loss and targets, by hand where a hand can follow, and what it has learnt after a minute's worth of steps."""

import numpy as np
import pytest
import torch

from tests.forge.models import worlds
from tollway.forge.models import detector, measure
from tollway.forge.models.found import agreement


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize(
    ("one", "two", "value"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # side by side: no overlap, and no air between
        ((0, 0, 10, 10), (20, 0, 30, 10), -1 / 3),  # a third of the hull is air
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (2, 2, 4, 4), 0.04),
    ],
)
def test_giou_by_hand(one, two, value):
    assert float(detector.giou(tensor(one), tensor(two))) == pytest.approx(value)


def test_a_bump_is_one_in_the_middle_and_wider_for_wider_objects():
    boxes = tensor((4, 4, 60, 12), (0, 0, 0, 0))[None]
    bump = detector.bumps(boxes, torch.tensor([[True, False]]), torch.Size((16, 16)))[0]
    assert divmod(int(bump[0].argmax()), 16) == (2, 8) and float(bump[0, 2, 8]) == 1.0
    assert bump[0, 2, 9] == bump[0, 2, 7] > 0.5 > bump[0, 3, 8]  # 56 wide, 8 tall
    assert float(bump[1].abs().max()) == 0.0  # what is only padding warms nothing


def answer(boxes, labels, sure=6.0, moved=0.0):
    """What a net would say that sees each object in the cell of its middle."""
    heat, edges = torch.full((1, 2, 16, 16), -6.0), torch.zeros(1, 4, 16, 16)
    for box, label in zip(boxes[0], labels[0], strict=True):
        if label >= 0:
            across, down = (int((box[side] + box[side + 2]) / 2 // 4) for side in (0, 1))
            heat[0, label, down, across] = sure
            edges[0] = torch.where(torch.arange(16)[None, None, :] < 8, edges[0], (box + moved)[:, None, None])
            edges[0, :, :, :8] = (boxes[0, 0] + moved)[:, None, None]
    return heat, edges


def test_the_loss_is_small_for_the_truth_and_grows_with_each_kind_of_error():
    boxes, labels = tensor((4, 4, 20, 20), (40, 30, 60, 50))[None], torch.tensor([[0, 1]])
    right, figures = detector.detection_loss(*answer(boxes, labels), boxes, labels)
    assert figures["edges"] == pytest.approx(0, abs=1e-5) and figures["heat"] < 1.0
    unsure, _ = detector.detection_loss(*answer(boxes, labels, sure=-3.0), boxes, labels)
    _, shifted = detector.detection_loss(*answer(boxes, labels, moved=4.0), boxes, labels)
    _, renamed = detector.detection_loss(*answer(boxes, 1 - labels), boxes, labels)
    assert unsure > right + 1 and shifted["edges"] > 0.3 and renamed["heat"] > figures["heat"] + 2


def test_a_batch_without_objects_has_a_loss_too():
    nothing, labels = torch.zeros(1, 1, 4), torch.full((1, 1), -100)
    loss, _ = detector.detection_loss(torch.zeros(1, 2, 16, 16), torch.zeros(1, 4, 16, 16), nothing, labels)
    calm, _ = detector.detection_loss(torch.full((1, 2, 16, 16), -6.0), torch.zeros(1, 4, 16, 16), nothing, labels)
    assert torch.isfinite(loss) and loss > 10 * calm


def test_mirrored_pictures_take_their_boxes_along():
    torch.manual_seed(0)
    pixels = torch.zeros(64, 1, 32, 32)
    pixels[:, :, 4:8, 2:10] = 1
    turned, boxes = detector.mirrored(pixels, tensor((2, 4, 10, 8)).expand(64, 1, 4))
    lefts = boxes[:, 0, 0]
    assert set(lefts.tolist()) == {2.0, 22.0}
    for picture, (left, top, right, bottom) in zip(turned, boxes[:, 0].int().tolist(), strict=True):
        assert float(picture.sum()) == 32.0 == float(picture[0, top:bottom, left:right].sum())


def test_a_conversion_is_judged_by_the_objects_that_are_found():
    """F1 at the package's threshold: of a model that sees what is there, half of it, or everything as something else."""
    net = worlds.make("object-detection", architecture="centernet", options={"filters": 8})
    assert 10_000 < net.count() < 500_000
    rows = worlds.TABLES["object-detection"].to_pylist()
    sample, targets = measure.Sample.of(net.features, rows), net.features.targets(rows)
    cells = net.features.size // 4
    outputs = []
    for boxes, labels in zip(targets["true_boxes"], targets["true_labels"], strict=True):
        heat, edges = np.full((2, cells, cells), -9.0), np.zeros((4, cells, cells))
        for box, label in zip(boxes[labels >= 0], labels[labels >= 0], strict=True):
            across, down = (int((box[side] + box[side + 2]) / 2 // 4) for side in (0, 1))
            heat[label, down, across], edges[:, down, across] = 4.0, box
        outputs.append({"heat": heat, "boxes": edges})

    def found(heat):
        made = [{"heat": heat(one["heat"]), "boxes": one["boxes"]} for one in outputs]
        figure = measure.quality(made, sample)
        assert (figure.name, figure.higher_is_better) == ("found", True)
        return figure.value

    assert found(lambda heat: heat) == 1.0
    assert found(lambda heat: heat - 4.9) == 0.0  # a score of 0.29: below the threshold
    assert found(lambda heat: heat[::-1]) == 0.0
    large = sum(box["label"] == "large" for row in rows for box in row["boxes"])
    alone = found(lambda heat: np.stack([heat[0], np.full_like(heat[1], -9.0)]))
    assert alone == pytest.approx(2 * large / (2 * large + len(rows)))


def test_two_answers_agree_as_far_as_they_see_objects_in_the_same_cells():
    one, other = np.full((2, 4, 4), -5.0), np.full((2, 4, 4), -5.0)
    assert agreement(one, other) == 1.0
    one[0, 1, 1] = one[1, 2, 2] = other[0, 1, 1] = 2.0
    assert agreement(one, other) == 0.5
