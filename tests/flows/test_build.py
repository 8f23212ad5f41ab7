"""The factory line's first look: everything wrong with a recipe is told at once, before anything is made."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tollway.flows import build
from tollway.forge import data
from tollway.kit.errors import BadRequest
from tollway.kit.settings import Settings
from tollway.shop import Shop

RECIPE = """
[recipe]
name = "films"
task = "text-classification"
[data]
dataset = "films"
split = {by = "time:wehn"}
augment = ["synonim:0.1"]
[model]
architecture = "bilsm"
[train]
options = {rnk = 3}
[convert]
formats = ["gguf"]
[evaluate]
slices = ["langage"]
[explain]
methods = ["shapp"]
"""
TOLD = ("no column 'wehn'; did you mean 'when'", "synonym", "Did you mean bilstm", "there is no rnk", "gguf holds",
        "no column 'langage'; did you mean 'language'", "[explain] methods has shapp")  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with Shop.open(Settings(tmp_path / "home", environment={})) as opened:
        (tmp_path / "films.csv").write_text(
            "text,label,when,language\n"
            + "".join(f"a fine film {n},{n % 2},2026-01-{n:02d},en\n" for n in range(1, 21))
        )
        shelf = data.Shelf(opened.settings.home / "datasets", opened.clock)
        data.import_(shelf, tmp_path / "films.csv", "films")
        yield opened


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "films.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_cannot_work_is_told_at_once(shop: Shop, tmp_path: Path) -> None:
    recipe = build.read(shop, written(tmp_path, RECIPE))
    with pytest.raises(BadRequest) as caught:
        build.check(shop, recipe)
    assert not [one for one in TOLD if one not in str(caught.value)]


def test_what_is_written_wrongly_does_not_hide_what_cannot_work(shop: Shop, tmp_path: Path) -> None:
    text = RECIPE.replace("[train]", '[train]\nepochs = -1\noptimiser = "adam"')
    with pytest.raises(BadRequest) as caught:
        build.build(shop, written(tmp_path, text))
    said = str(caught.value)
    assert "has 2 problems" in said and "did you mean optimizer?" in said and "epochs" in said
    assert not [one for one in TOLD if one not in said]
    assert not list((shop.settings.home / "runs").glob("run_*"))


def test_a_part_that_fell_away_whole_is_not_blamed(shop: Shop, tmp_path: Path) -> None:
    text = RECIPE.replace('architecture = "bilsm"', 'architecture = "bilstm"\nbase = "minilm"')
    with pytest.raises(BadRequest) as caught:
        build.read(shop, written(tmp_path, text))
    said = str(caught.value)
    assert "not both" in said and "there is no rnk" in said and "needs" not in said


def test_too_little_left_to_look_at_is_no_reason_to_fall_over(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="has 2 problems"):
        build.read(shop, written(tmp_path, '[recipe]\nname = "x"\ntask = "poetry"\n'))


def test_figures_and_students_that_cannot_be_are_refused_before_the_data_is_prepared(shop: Shop, tmp_path: Path) -> None:
    text = """
[recipe]
name = "films"
task = "text-classification"
[data]
dataset = "films"
[model]
architecture = "transformer"
[train]
members = 2
[compress]
steps = ["distil:2"]
[evaluate]
metrics = ["acuracy"]
require = {"vs.parent" = ">=0", "gap.language" = "<=1", "f1.1" = ">=0"}
"""
    with pytest.raises(BadRequest) as caught:
        build.build(shop, written(tmp_path, text))
    said = str(caught.value)
    for one in ("Did you mean accuracy", "vs.parent", "the model has 2 layers", "an ensemble of 2 models"):
        assert one in said
    assert "gap.language: " not in said and "f1.1: " not in said
    assert not list((shop.settings.home / "runs" / "steps").glob("*"))


HEAD = '[recipe]\nname = "{}"\ntask = "image-classification"\n[data]\ndataset = "bars"\n[model]\n'


def bars(shop: Shop, folder: Path) -> None:
    """Ninety little pictures, half of them with a bright bar, as the dataset `bars`."""
    random = np.random.default_rng(0)
    pictures, labels = random.integers(0, 60, (90, 8, 8), dtype=np.uint8), np.arange(90, dtype=np.uint8) % 2
    pictures[labels == 1, :, 2:5] += 180
    np.savez(folder / "bars.npz", x_train=pictures[:60], y_train=labels[:60], x_test=pictures[60:], y_test=labels[60:])
    data.import_(data.Shelf(shop.settings.home / "datasets", shop.clock), folder / "bars.npz", "bars")


def test_methods_that_look_inside_bring_the_format_that_they_need_in_service(shop: Shop, tmp_path: Path) -> None:
    bars(shop, tmp_path)
    text = HEAD.format("lit") + """
architecture = "mlp"
options = {hidden = [8]}
[train]
epochs = 6
precision = "fp32"
[convert]
formats = ["safetensors"]
[evaluate]
bootstrap = 20
baseline = false
[explain]
methods = ["integrated-gradients"]
rows = 1
"""
    made = build.build(shop, written(tmp_path, text))
    manifest = shop.store.get("lit").manifest
    assert sorted(manifest.formats) == ["pt2", "safetensors"] and manifest.weights.format == "safetensors", "first as it was"
    events = build.workshop.runs(shop.settings.home, shop.clock).events(made.record)
    assert [one["said"]["code"] for one in events if one["kind"] == "note" and "pt2 is made too" in one["text"]] == ["convert.pt2_too"]

    for old, new, wanted in (('"integrated-gradients"', '"shap"', ["safetensors"]), ('["safetensors"]', '["pt2", "onnx"]', ["pt2", "onnx"])):
        recipe = build.able_to_look_inside(build.read(shop, written(tmp_path, text.replace(old, new))), shop.settings.home)
        assert recipe.convert is not None and list(recipe.convert.formats) == wanted


def test_a_recurrent_network_is_explained_in_the_report_alone(shop: Shop, tmp_path: Path) -> None:
    text = RECIPE.replace("wehn", "when").replace("synonim", "synonym").replace("bilsm", "bilstm").replace("rnk = 3", "")
    text = text.replace('"gguf"', '"onnx"').replace("langage", "language").replace("shapp", "integrated-gradients")
    recipe = build.able_to_look_inside(build.read(shop, written(tmp_path, text)), shop.settings.home)
    assert recipe.convert is not None and list(recipe.convert.formats) == ["onnx"]


def test_pictures_learnt_without_their_labels_make_a_base(shop: Shop, tmp_path: Path) -> None:
    """It knows no label yet: no simple model is held against it, and the next recipe goes on from it."""
    bars(shop, tmp_path)
    head = HEAD
    base = head.format("trunk") + """
architecture = "cnn"
options = {filters = [4], hidden = 0}
[train]
objective = "rotation"
steps = 2
precision = "fp32"
[convert]
formats = ["safetensors"]
"""
    with pytest.raises(BadRequest, match=r"vs\.majority: there is no such figure"):
        build.check(shop, build.read(shop, written(tmp_path, base + '[evaluate]\nrequire = {"vs.majority" = ">0"}\n')))
    made = build.build(shop, written(tmp_path, base))
    assert made.record.package == "trunk@1" and not made.figures("evaluate").get("vs.majority")
    above = head.format("bars") + 'base = "trunk"\n[train]\nsteps = 2\nprecision = "fp32"\n[evaluate]\nbaseline = false\n'

    def trained_again() -> bool:
        return not build.build(shop, written(tmp_path, above)).record.steps[1]["cached"]

    assert trained_again() and not trained_again()
    assert build.build(shop, written(tmp_path, base.replace("steps = 2", "steps = 3"))).record.package == "trunk@2"
    assert trained_again(), "the name means another package now"
