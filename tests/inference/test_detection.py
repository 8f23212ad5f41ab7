"""Objects in pictures: pixels of the picture to pixels of the model and back, peaks, suppression, thresholds, refusals."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tollway import inference
from tollway.inference import answers, boxes
from tollway.kit.errors import BadRequest

LABELS = ["bag", "shoe"]


def picture(width=64, height=64, mode="L"):
    out = io.BytesIO()
    Image.new(mode, (width, height), 90).save(out, "PNG")
    return out.getvalue()


def table(*found, size=(64, 64)):
    objects = [{"label": label, "box": [1.0, 1.0, 9.0, 9.0]} for label in LABELS]
    return pa.table({"image": [picture(*size)] * 2, "boxes": [objects, list(found)]})


@pytest.fixture(scope="module")
def features():
    return inference.fit("object-detection", table())


def seen(features, row):
    """Outputs of a model that sees exactly what is there: one hot cell for each object, its edges there."""
    targets, cells = features.targets([row]), features.size // 4
    heat = np.full((1, len(features.labels), cells, cells), -9.0, dtype=np.float32)
    edges = np.zeros((1, 4, cells, cells), dtype=np.float32)
    for box, label in zip(targets["true_boxes"][0], targets["true_labels"][0], strict=True):
        if label >= 0:
            across, down = (int((box[side] + box[side + 2]) / 2 // 4) for side in (0, 1))
            heat[0, label, down, across] = 5.0
            edges[0, :, down, across] = box
    return {"heat": heat, "boxes": edges}


def test_the_side_is_a_multiple_of_what_the_model_halves_and_labels_are_those_of_the_boxes():
    made = inference.fit("object-detection", table(size=(50, 70)))
    assert (made.size, made.channels, made.labels) == (80, 1, LABELS)
    assert inference.fit("object-detection", table(size=(1000, 600))).size == 224


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(20, 400), height=st.integers(20, 400), left=st.floats(0, 0.7), top=st.floats(0, 0.7),
    wide=st.floats(0.1, 0.3), tall=st.floats(0.1, 0.3),
)  # fmt: skip
def test_a_box_comes_back_in_the_pixels_of_the_picture_that_was_sent(features, width, height, left, top, wide, tall):
    box = [left * width, top * height, (left + wide) * width, (top + tall) * height]
    row = {"image": picture(width, height), "boxes": [{"label": "shoe", "box": box}]}
    answer = features.decode(seen(features, row), [row], features.encode([row]))[0]
    assert (answer["width"], answer["height"]) == (width, height)
    assert [one["label"] for one in answer["detections"]] == ["shoe"]
    assert answer["detections"][0]["box"] == pytest.approx(box, abs=1e-3 * max(width, height))


def test_a_picture_that_is_not_square_is_padded_and_not_stretched(features):
    pixels = features.encode([{"image": picture(64, 32)}])[0]["pixel_values"]
    assert pixels.shape == (1, 64, 64)
    assert (pixels[0, :32] == 90).all() and (pixels[0, 32:] == round(features.mean[0] * 255)).all()


def test_of_two_boxes_on_one_object_the_surer_stays_unless_their_labels_differ():
    corners = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [20, 20, 30, 30]], dtype=float)
    assert boxes.suppressed(corners, np.array([0, 0, 1, 0]), 0.5) == [0, 2, 3]
    assert boxes.suppressed(corners, np.array([0, 0, 1, 0]), 0.9) == [0, 1, 2, 3]


def test_overlap_is_the_shared_part_of_the_whole():
    found = boxes.overlaps(
        np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 10], [0, 0, 10, 10], [10, 0, 20, 10], [3, 3, 3, 9]])
    )
    assert found[0].tolist() == pytest.approx([1 / 3, 1.0, 0.0, 0.0])


def test_a_heat_map_has_a_peak_where_no_neighbour_is_higher():
    heat = np.full((2, 5, 5), -9.0)
    heat[0, 1, 1], heat[0, 1, 2], heat[1, 1, 2], heat[0, 4, 4] = 3.0, 2.0, 1.0, 0.0
    labels, cells, scores = boxes.peaks(heat, most=10, least=0.01)
    assert list(zip(labels.tolist(), cells.tolist(), strict=True)) == [(0, 6), (1, 7), (0, 24)]
    assert scores == pytest.approx([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-1)), 0.5])
    assert len(boxes.peaks(heat, most=1, least=0.01)[0]) == 1
    assert len(boxes.peaks(heat, most=10, least=0.6)[0]) == 2


def test_what_is_shown_follows_the_packages_threshold_or_the_callers(features, tmp_path):
    found = [{"label": "bag", "score": score, "box": [0.0, 1.004, 2.0, 3.0]} for score in (0.9, 0.4, 0.2)]
    answer = {"width": 64, "height": 64, "detections": found}
    assert len(answers.detected(0, answer, features)["detections"]) == 2
    assert len(answers.detected(0, answer, features, threshold=0.1)["detections"]) == 3
    assert len(answers.detected(0, answer, features, threshold=0.0, top_k=1)["detections"]) == 1
    assert answers.detected(3, answer, features, 0.5) == {
        "object": "detection", "index": 3, "width": 64, "height": 64,
        "detections": [{"label": "bag", "score": 0.9, "box": [0.0, 1.0, 2.0, 3.0]}],
    }  # fmt: skip
    strict = inference.fit("object-detection", table(), {"threshold": 0.6, "overlap": 0.3})
    strict.save(tmp_path)
    again = inference.load_features(tmp_path)
    assert (again.options["threshold"], again.options["overlap"], again.labels) == (0.6, 0.3, LABELS)
    assert len(answers.detected(0, answer, again)["detections"]) == 1


def test_a_label_that_training_never_saw_is_only_missed(features):
    row = {"image": picture(), "boxes": [{"label": "hat", "box": [0, 0, 9, 9]}, {"label": "bag", "box": [0, 0, 9, 9]}]}
    assert features.targets([row])["true_labels"].tolist() == [[-100, 0]]


@pytest.mark.parametrize(
    ("box", "why"),
    [([1, 2, 3], "each box is"), ([1, 2, "x", 4], "each box is"), ([5, 5, 5, 9], "is no box"), ([0, 0, float("nan"), 4], "is no box"), (None, "each box is")],
)  # fmt: skip
def test_what_is_no_box_is_refused_with_its_row(box, why):
    with pytest.raises(BadRequest, match=why) as told:
        inference.boxes_of({"boxes": [{"label": "bag", "box": box}]}, 1)
    assert "Row 1" in told.value.message


def test_pictures_without_any_box_teach_nothing():
    with pytest.raises(BadRequest, match="nothing to learn"):
        inference.fit("object-detection", pa.table({"image": [picture()], "boxes": [[]]}))


@pytest.mark.parametrize(
    "image", [b"no picture", b"", "data:image/png;base64,AAAA", "https://example.com/a.png", 7, None]
)
def test_what_is_no_picture_is_refused(features, image):
    with pytest.raises(BadRequest) as told:
        features.encode([{"image": image}])
    assert told.value.param == "image"
