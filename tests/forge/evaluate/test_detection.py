"""mAP by COCO's definition: the published worked example, pycocotools on random boxes, the bootstrap, and the baselines."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.forge.models import worlds
from tollway.forge.evaluate import Rows, Wishes, baselines, detection, examine
from tollway.forge.evaluate.detection import Curve

ONE = np.ones((1, 7))


def scene(seed, pictures=6, labels=("cat", "dog", "owl")):
    """Random objects, and what a detector that is often wrong makes of them."""
    rng = np.random.default_rng(seed)
    truth, given_ = [], []
    for _ in range(pictures):
        wanted = []
        for _ in range(rng.integers(0, 6)):
            left, top, wide, tall = rng.uniform(0, 60), rng.uniform(0, 60), rng.uniform(5, 40), rng.uniform(5, 40)
            wanted.append({"label": str(rng.choice(labels)), "box": [left, top, left + wide, top + tall]})
        found = []
        for one in wanted:
            for _ in range(rng.integers(0, 3)):
                box = np.asarray(one["box"]) + rng.normal(0, 3, 4)
                if box[2] > box[0] and box[3] > box[1]:
                    label = one["label"] if rng.random() < 0.8 else str(rng.choice(labels))
                    found.append(
                        {"label": label, "box": box.tolist(), "score": float(rng.choice([0.2, 0.5, rng.random()]))}
                    )
        for _ in range(rng.integers(0, 3)):
            left, top = rng.uniform(0, 60, 2)
            found.append(
                {
                    "label": str(rng.choice(labels)),
                    "box": [left, top, left + 20, top + 20],
                    "score": float(rng.random()),
                }
            )
        truth.append(wanted)
        given_.append(found)
    return truth, given_


def judged_by_pycocotools(truth, found):
    """AP, AP50 and AP75 over all sizes, as the reference implementation gives them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = sorted({one["label"] for row in (*truth, *found) for one in row})

    def boxes(rows):
        return [
            {"id": number, "image_id": image, "category_id": names.index(one["label"]) + 1, "iscrowd": 0,
             "bbox": [one["box"][0], one["box"][1], one["box"][2] - one["box"][0], one["box"][3] - one["box"][1]],
             "area": 1000.0, **({"score": one["score"]} if "score" in one else {})}
            for number, (image, one) in enumerate(((image, one) for image, row in enumerate(rows, 1) for one in row), 1)
        ]  # fmt: skip

    with contextlib.redirect_stdout(io.StringIO()):
        wanted = COCO()
        wanted.dataset = {"images": [{"id": at} for at in range(1, len(truth) + 1)], "annotations": boxes(truth),
                          "categories": [{"id": at, "name": name} for at, name in enumerate(names, 1)]}  # fmt: skip
        wanted.createIndex()
        judge = COCOeval(wanted, wanted.loadRes(boxes(found)), "bbox")
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, 2]  # thresholds, points, labels; all sizes, 100 boxes

    def mean(part):
        return float(part[part > -1].mean())

    return {"map": mean(precision), "map@50": mean(precision[0]), "map@75": mean(precision[5])} | {
        f"ap.{name}": mean(precision[:, :, at]) for at, name in enumerate(names) if (precision[:, :, at] > -1).any()
    }


@pytest.mark.parametrize("seed", range(6))
def test_the_figures_are_those_of_pycocotools(seed):
    truth, found = scene(seed)
    ours = {one.name: one.value(len(truth)) for one in detection.measures(truth, found)}
    for name, value in judged_by_pycocotools(truth, found).items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name


def test_more_than_a_hundred_boxes_of_a_label_count_as_a_hundred():
    truth = [[{"label": "cat", "box": [0, 0, 10, 10]}]]
    noise = [{"label": "cat", "box": [30, 30, 40, 40], "score": 0.9 - number / 1000} for number in range(120)]
    found = [[*noise, {"label": "cat", "box": [0, 0, 10, 10], "score": 0.1}]]
    assert judged_by_pycocotools(truth, found)["map"] == 0.0
    assert detection.measures(truth, found)[0].value(1) == 0.0


# the worked example of Padilla et al., "A Survey on Performance Metrics for Object-Detection Algorithms" (2020): x, y, w, h
TRUE_BOXES = {
    1: [(25, 16, 38, 56), (129, 123, 41, 62)], 2: [(123, 11, 43, 55), (38, 132, 59, 45)],
    3: [(16, 14, 35, 48), (123, 30, 49, 44), (99, 139, 47, 47)], 4: [(53, 42, 40, 52), (154, 43, 31, 34)],
    5: [(59, 31, 44, 51), (48, 128, 34, 52)], 6: [(36, 89, 52, 76), (62, 58, 44, 67)], 7: [(28, 31, 55, 63), (58, 67, 50, 58)],
}  # fmt: skip
FOUND_BOXES = {
    1: [(.88, 5, 67, 31, 48), (.70, 119, 111, 40, 67), (.80, 124, 9, 49, 67)],
    2: [(.71, 64, 111, 64, 58), (.54, 26, 140, 60, 47), (.74, 19, 18, 43, 35)],
    3: [(.18, 109, 15, 77, 39), (.67, 86, 63, 46, 45), (.38, 160, 62, 36, 53), (.91, 105, 131, 47, 47), (.44, 18, 148, 40, 44)],
    4: [(.35, 83, 28, 28, 26), (.78, 28, 68, 42, 67), (.45, 87, 89, 25, 39), (.14, 10, 155, 60, 26)],
    5: [(.62, 50, 38, 28, 46), (.44, 95, 11, 53, 28), (.95, 29, 131, 72, 29), (.23, 29, 163, 72, 29)],
    6: [(.45, 43, 48, 74, 38), (.84, 17, 155, 29, 35), (.43, 95, 110, 25, 42)],
    7: [(.48, 16, 20, 101, 88), (.95, 33, 116, 37, 49)],
}  # fmt: skip


@pytest.mark.parametrize(("points", "published"), [(0, 0.2456), (11, 0.2684)])
def test_average_precision_is_the_published_worked_example(points, published):
    """Its boxes include their last pixel, hence the + 1."""
    truth = [
        [{"label": "object", "box": (x, y, x + w + 1, y + h + 1)} for x, y, w, h in TRUE_BOXES[at]]
        for at in range(1, 8)
    ]
    found = [
        [{"label": "object", "score": s, "box": (x, y, x + w + 1, y + h + 1)} for s, x, y, w, h in FOUND_BOXES[at]]
        for at in range(1, 8)
    ]
    assert Curve.of("object", truth, found, [0.3], points).areas(ONE)[0, 0] == pytest.approx(published, abs=1e-4)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), draw=st.integers(0, 10_000))
def test_a_weight_of_two_is_a_picture_that_is_there_twice(seed, draw):
    """So that resampled counts are a bootstrap of the pictures."""
    truth, found = scene(seed)
    for row in found:  # equal scores are in the order of the pictures, which copies change
        for number, one in enumerate(row):
            one["score"] = float(np.random.default_rng([seed, id(row) % 7, number]).random())
    counts = np.random.default_rng(draw).integers(0, 3, len(truth))
    places = np.repeat(np.arange(len(truth)), counts)
    again = detection.measures([truth[at] for at in places], [found[at] for at in places], labels=("cat", "dog", "owl"))
    for ours, copied in zip(detection.measures(truth, found, labels=("cat", "dog", "owl")), again, strict=True):
        if len(places):
            assert ours.at(counts[None].astype(float))[0] == pytest.approx(copied.value(len(places)), nan_ok=True), (
                ours.name
            )


def test_what_a_caller_meets_is_counted_at_the_threshold():
    truth = [[{"label": "cat", "box": [0, 0, 10, 10]}, {"label": "cat", "box": [20, 0, 30, 10]}], []]
    found = [
        [{"label": "cat", "box": [0, 0, 10, 9], "score": 0.9}, {"label": "cat", "box": [20, 0, 30, 10], "score": 0.29},
         {"label": "dog", "box": [20, 0, 30, 10], "score": 0.8}],
        [{"label": "cat", "box": [0, 0, 5, 5], "score": 0.35}],
    ]  # fmt: skip
    made = {one.name: one.value(2) for one in detection.measures(truth, found, 0.3)}
    assert (made["precision"], made["recall"], made["f1"]) == pytest.approx((1 / 3, 1 / 2, 2 / 5))


class Knows:
    """Answers with the truth, or with some of it moved."""

    def __init__(self, rows, moved=0.0):
        self.boxes, self.moved = {row["image"]: row["boxes"] for row in rows}, moved

    def predict(self, rows):
        assert all(set(row) == {"image"} for row in rows), "nobody is shown the truth"
        return [
            {"detections": [{**one, "box": (np.asarray(one["box"]) + self.moved).tolist(), "score": 0.9} for one in self.boxes[row["image"]]]}
            for row in rows
        ]  # fmt: skip


def test_an_examination_compares_with_what_hardly_looks_and_judges_gates_by_label():
    rows = worlds.TABLES["object-detection"].to_pylist()
    wishes = Wishes(require={"map": ">=0.99", "vs.baseline.low": ">0.2", "ap.small": ">=0.99"}, bootstrap=40, noise=())
    scores = examine("object-detection", Knows(rows), Rows(rows, rows), wishes)
    assert scores.primary == "map" and scores.passed
    assert (scores.metrics["map"].low, scores.metrics["map"].high) == (1.0, 1.0)
    named = {one.name: one for one in scores.comparisons}
    assert list(named) == ["usual-boxes", "blobs+logistic"]
    assert named["usual-boxes"].metrics["map"] < named["blobs+logistic"].metrics["map@50"]
    assert scores.examples["best"][0]["truth"]["boxes"] and scores.examples["best"][0]["answer"]["boxes"]
    off = examine(
        "object-detection", Knows(rows, moved=1.5), Rows(rows, rows), Wishes(bootstrap=0, baseline=False, noise=())
    )
    assert 0 < off.metrics["map"].value < off.metrics["map@50"].value


def test_blobs_finds_what_stands_out():
    rows = worlds.TABLES["object-detection"].to_pylist()
    blobs = baselines.simple("object-detection", rows)["blobs+logistic"]
    found = blobs.predict([{"image": row["image"]} for row in rows])
    truth = [row["boxes"] for row in rows]
    shapes = [[{**one, "label": "square"} for one in answer["detections"]] for answer in found]
    squares = [[{**one, "label": "square"} for one in row] for row in truth]
    assert detection.measures(squares, shapes)[1].value(len(rows)) > 0.8  # where they are; the two labels look the same
