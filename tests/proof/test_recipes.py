"""The reference recipes: each names a figure it must reach, and those that take seconds are run here, every time.

The others take minutes each and are run by `make recipes`, nightly.
"""

import base64
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tollway import inference
from tollway.flows import build, release, sample_calls
from tollway.forge import data
from tollway.forge import recipe as recipes
from tollway.forge.data import samples
from tollway.inference import answers
from tollway.kit.errors import TollwayError
from tollway.kit.settings import Settings
from tollway.shop import Shop

FOLDER = Path(__file__).parents[2] / "recipes"
ALL = sorted(path.stem for path in FOLDER.glob("*.toml"))
QUICK = ("credit-risk", "digits-mlp", "hello-linear", "mnist-mlp")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with Shop.open(Settings(tmp_path_factory.mktemp("home"), environment={})) as opened:
            yield opened


@pytest.mark.parametrize("name", ALL)
def test_every_recipe_can_be_followed_and_names_the_figure_it_must_reach(name: str) -> None:
    recipe = recipes.load(FOLDER / f"{name}.toml")
    assert recipe.recipe.name == name
    assert recipe.evaluate.require, "a reference recipe without a gate proves nothing"
    assert recipe.data.dataset in samples.SAMPLES
    assert f"`{name}`" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_recipe_reaches_its_figure(shop: Shop, name: str) -> None:
    path = FOLDER / f"{name}.toml"
    dataset = tomllib.loads(path.read_text(encoding="utf-8"))["data"]["dataset"]
    samples.load(dataset, data.Shelf(shop.settings.home / "datasets", shop.clock))
    run = build.build(shop, path)
    gates = run.record.metrics["gates"]
    assert gates and all(gate["passed"] for gate in gates)
    package = shop.store.get(name)
    assert shop.store.verify(package).ok and package.manifest.lineage.recipe == name
    assert package.manifest.parity["serve"] == package.manifest.serves == "onnx"  # how far it is from its source
    assert 0 <= package.manifest.parity["onnx.max_difference"] < 0.01
    assert package.manifest.lineage.training_ms > 0 and package.manifest.lineage.datasets
    call = sample_calls.of(shop.store, shop.settings, release.deploy(shop, name))[0]
    features = inference.load_features(package.folder)
    rows = answers.rows_of(call.body["input"], features, package.manifest.input)
    features.check(rows)  # what the replica does with it
    assert call.path == "/v1/classify" and inference.load(package.folder).predict(rows)
    real = data.Prepared(run.runs.output(run.record, "prepare")).read("test").to_pylist()
    assert any(all(_sent(row[field]) == value for field, value in rows[0].items()) for row in real)


def _sent(value: object) -> object:
    return "data:image/png;base64," + base64.b64encode(value).decode() if isinstance(value, bytes) else value


def test_a_recipe_that_misses_its_figure_fails_and_leaves_no_package(shop: Shop, tmp_path: Path) -> None:
    text = (FOLDER / "hello-linear.toml").read_text(encoding="utf-8")
    worse = text.replace('name = "hello-linear"', 'name = "hello-worse"').replace('r2 = ">=0.3"', 'r2 = ">=0.99"')
    assert worse.count("hello-worse") == worse.count("0.99") == 1
    samples.load("diabetes", data.Shelf(shop.settings.home / "datasets", shop.clock))
    (tmp_path / "worse.toml").write_text(worse, encoding="utf-8")
    with pytest.raises(TollwayError, match=r"r2 is 0\.\d+, wanted >=0\.99"):
        build.build(shop, tmp_path / "worse.toml")
    assert "hello-worse" not in {one.manifest.name for one in shop.store.list()}
