"""Pictures with boxes: COCO's files are understood, everything that is wrong is told at once, and mosaics follow their seed."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.forge.made import desk, told
from tollway.forge import data
from tollway.forge.data import boxes, images, mosaics
from tollway.forge.recipe import Data, Split
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest

GOOD = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}, {"id": 2, "file_name": "sub/b.jpg"}],
    "categories": [{"id": 7, "name": "bag"}, {"id": 9, "name": "shoe"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 3, 10, 20]},
        {"id": 2, "image_id": 1, "category_id": 9, "bbox": [30, 20, 10.4, 10]},
        {"id": 3, "image_id": 1, "category_id": 9, "bbox": [0, 0, 40, 30], "iscrowd": 1},
    ],
}


@pytest.fixture
def shelf(tmp_path):
    return data.Shelf(tmp_path / "shelf", SystemClock())


def folder(root, document, name="annotations.json", pictures=("a.png", "sub/b.jpg")):
    for one in pictures:
        (root / one).parent.mkdir(parents=True, exist_ok=True)
        made = io.BytesIO()
        Image.new("RGB", (40, 30), (90, 20, len(one))).save(made, "PNG" if one.endswith("png") else "JPEG")
        (root / one).write_bytes(made.getvalue())
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(document))
    return root


def with_(**parts):
    return json.loads(json.dumps(GOOD)) | parts


def problems_of(shelf, root):
    with pytest.raises(BadRequest) as refused:
        data.import_(shelf, root, "things")
    assert shelf.list() == []
    return refused.value.message


def test_pictures_and_boxes_become_rows(shelf, tmp_path):
    done = data.import_(shelf, folder(tmp_path / "in", GOOD), "things")
    rows = done.version.read("train").to_pylist()
    assert done.format == "coco" and [row["file"] for row in rows] == ["a.png", "sub/b.jpg"]
    assert json.loads(rows[0]["boxes"]) == [
        {"label": "bag", "box": [2, 3, 12, 23]}, {"label": "shoe", "box": [30, 20, 40, 30]},  # cut at the edge
    ]  # fmt: skip
    assert json.loads(rows[1]["boxes"]) == [] and rows[1]["image"].startswith(b"\x89PNG")
    assert any("1 boxes around crowds" in note for note in done.notes)


def test_a_file_for_each_split_in_the_usual_places(shelf, tmp_path):
    root = folder(
        tmp_path / "in", GOOD, "annotations/instances_train2017.json", ("train2017/a.png", "train2017/sub/b.jpg")
    )
    folder(root, GOOD, "annotations/instances_val2017.json", ("val2017/a.png", "val2017/sub/b.jpg"))
    done = data.import_(shelf, root, "things")
    assert done.version.splits == ("train", "validation")


def test_everything_that_is_wrong_is_told_at_once(shelf, tmp_path):
    wrong = with_(
        images=[
            *GOOD["images"], {"id": 3, "file_name": "gone.png"}, {"id": 4, "file_name": "../../etc/passwd"}, {"id": 1, "file_name": "a.png"},
            {"id": 5, "file_name": "text.png"}, {"id": 6, "file_name": "large.png", "width": 80, "height": 60}, {"file_name": "x.png"},
            {"id": 7, "file_name": "link.png"},
        ],
        categories=[*GOOD["categories"], {"id": 11, "name": " "}, {"id": 9, "name": "boot"}, {"id": 12, "name": "hat"}],
        annotations=[
            *GOOD["annotations"],
            {"image_id": 1, "category_id": 7, "bbox": [35, 3, 10, 20]},
            {"image_id": 1, "category_id": 7, "bbox": [5, 3, 0, 20]},
            {"image_id": 1, "category_id": 7, "bbox": [5, 3, 10]},
            {"image_id": 1, "category_id": 7, "bbox": [5, 3, 10, "20"]},
            {"image_id": 2, "category_id": 8, "bbox": [5, 3, 10, 20]},
            {"image_id": 99, "category_id": [7], "bbox": [5, 3, 10, 20]},
            "nothing",
        ],
    )  # fmt: skip
    root = folder(tmp_path / "in", wrong, pictures=("a.png", "sub/b.jpg", "large.png"))
    (root / "text.png").write_text("this is no picture")
    (tmp_path / "secret.png").write_bytes((root / "a.png").read_bytes())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    message = problems_of(shelf, root)
    for part in (
        "a picture is missing", "gone.png", "link.png", "a file_name leads out of the folder", "a picture's id is there twice",
        "an image cannot be read", "text.png", "80 x 60 in the file, 40 x 30 in truth", "a picture has no id or no file_name",
        "a category has no id or no name", "categories[2]", "a category is there twice", "a category has no box", "'hat'",
        "a.png is 40 x 30, the box [35, 3, 45, 23]", "annotations[4]", "annotations[5]", "annotations[6]", "category_id 8", "image_id 99", "image_id None",
    ):  # fmt: skip
        assert part in message, part


@pytest.mark.parametrize("side", [10**400, -(10**400), 2**70, 1e308, -1e308])
def test_boxes_beyond_all_measure_are_told(shelf, tmp_path, side):
    wrong = with_(annotations=[*GOOD["annotations"], {"image_id": 1, "category_id": 7, "bbox": [side, side, side, side]}])
    assert "annotations[3]" in problems_of(shelf, folder(tmp_path / "in", wrong))
    if isinstance(side, int):
        with pytest.raises(ValueError, match=r"no area|four numbers"):
            boxes.read([{"label": "bag", "box": [side, side, side, side]}])


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "/".join(["d"] * 3000) + "/x.png", "a.png/b.png", "sub", ".", "a\nb.png"])
def test_names_that_no_disk_has_are_told(shelf, tmp_path, name):
    wrong = with_(images=[*GOOD["images"], {"id": 3, "file_name": name}])
    assert "a picture is missing" in problems_of(shelf, folder(tmp_path / "in", wrong))


@pytest.mark.parametrize("broken", [OverflowError, IndexError, TypeError])
def test_a_reader_of_pictures_that_stumbles_is_told(shelf, tmp_path, monkeypatch, broken):
    """Pillow's rarer readers stumble over what they do not expect in many ways."""

    def stumble(*_):
        raise broken("inside")

    monkeypatch.setattr(Image, "open", stumble)
    with pytest.raises(ValueError, match="damaged"):
        images.normal(b"GIF89a")


def test_what_cannot_be_read_may_be_left_out(shelf, tmp_path):
    wrong = with_(images=[*GOOD["images"], {"id": 3, "file_name": "gone.png"}])
    wrong["annotations"].append({"image_id": 2, "category_id": 7, "bbox": [35, 3, 10, 20]})
    root = folder(tmp_path / "in", wrong)
    done = data.import_(shelf, root, "things", data.Options(skip_bad=True))
    assert done.version.read("train").column("file").to_pylist() == [
        "a.png"
    ]  # half of a picture's boxes would teach errors


def test_an_empty_category_is_a_doubt_that_may_be_waved_through(shelf, tmp_path):
    root = folder(tmp_path / "in", with_(categories=[*GOOD["categories"], {"id": 12, "name": "hat"}]))
    assert data.import_(shelf, root, "things", anyway=True).new  # that it is told: see above


def prepared(shelf, tmp_path, given):
    rows = mosaics.of(np.full((2, 8, 8), 200, np.uint8), ["a", "b"], len(given), mosaics.Canvas(32, (1, 1), (8, 12)), 1)
    shelf.add(
        "things", {"train": rows.set_column(1, "boxes", [[json.dumps(one) for one in given]])}, kinds={"boxes": "json"}
    )
    place = desk(tmp_path / "desk")
    part = Data(dataset="things", split=Split(validation=0.2, test=0.2))
    return data.prepare(part, "object-detection", shelf, place), place


def test_prepared_rows_hold_boxes_and_count_them(shelf, tmp_path):
    one = [{"label": "a", "box": [1, 2, 8, 9]}]
    made, place = prepared(
        shelf, tmp_path, [one, one, [], one, one, one, one, one, one, [{"label": "b", "box": [0, 0, 5, 5]}, *one]]
    )
    assert made.labels == ["a", "b"] and sum(sum(split.values()) for split in made.meta["classes"].values()) == 10
    assert made.read("train").to_pylist()[0]["boxes"][0].keys() == {"label", "box"}
    assert made.rows("test") == 2 and told(place) is not None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([{"label": "a", "box": [5, 2, 3, 9]}], "has no area"),
        ([{"label": "", "box": [1, 2, 8, 9]}], "no label"),
        ([{"box": [1, 2, 8, 9]}], "no label"),
        ({"label": "a"}, "a list of boxes"),
        ([{"label": "a", "box": [1, 2, 8, None]}], "is not four numbers"),
        ([{"label": "a", "box": [1, 2, 8, float("inf")]}], "is not four numbers"),
    ],
)
def test_what_is_no_box_is_refused(given, why):
    with pytest.raises(ValueError, match=why):
        boxes.read(given)


def test_boxes_from_elsewhere_are_held_against_their_pictures_all_at_once(shelf, tmp_path):
    far = [{"label": "a", "box": [1, 2, 40, 9]}]
    with pytest.raises(BadRequest, match="leaves its picture \\(10 times\\)") as refused:
        prepared(shelf, tmp_path, [far] * 10)
    assert "a [1.0, 2.0, 40.0, 9.0] in 32 x 32" in refused.value.message


def test_pictures_without_any_box_teach_nothing(shelf, tmp_path):
    with pytest.raises(BadRequest, match="there is nothing to learn"):
        prepared(shelf, tmp_path, [[]] * 6)


def test_mosaics_follow_their_seed_and_their_boxes_hold_the_objects():
    pixels = np.zeros((3, 8, 8), np.uint8)
    pixels[:, 2:6, 1:7] = 255
    canvas = mosaics.Canvas(side=48, objects=(2, 4), sides=(10, 16))
    one, same, other = (mosaics.of(pixels, ["a", "b", "c"], 5, canvas, seed) for seed in (3, 3, 4))
    assert one.equals(same) and not one.equals(other)
    for row in one.to_pylist():
        picture = np.asarray(Image.open(io.BytesIO(row["image"])), dtype=float)
        objects = json.loads(row["boxes"])
        assert 1 <= len(objects) <= 4
        for found in objects:
            left, top, right, bottom = found["box"]
            assert 0 <= left < right <= 48 and 0 <= top < bottom <= 48
            middle = picture[(top + bottom) // 2, (left + right) // 2]
            assert middle > np.median(picture) + 20  # the object is bright, the canvas dim
