"""Adaptation: corrections become a dataset version, the recipe runs again, the gates decide, the next version is a canary."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.serve import tiny_models
from tollway.flows import adapt, build, release
from tollway.forge import data, recipe
from tollway.kit.errors import Conflict
from tollway.kit.settings import Settings
from tollway.sell import accounts, catalog, feedback
from tollway.shop import Shop

RECIPE = """
[recipe]
name = "mood"
task = "text-classification"
seed = 3
[data]
dataset = "films"
split = {validation = 0.1, test = 0.2, by = "stratified"}
[model]
architecture = "linear"
[train]
epochs = 3
[convert]
formats = ["onnx"]
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with Shop.open(Settings(tmp_path / "home", environment={})) as shop:
        shelf = data.Shelf(shop.settings.home / "datasets", shop.clock)
        texts = [f"{text} {extra}" for text in tiny_models.GOOD + tiny_models.BAD for extra in ("", "today", "again")]
        labels = [
            label for label, some in (("good", tiny_models.GOOD), ("bad", tiny_models.BAD)) for _ in some for _ in "123"
        ]
        shelf.add("films", {"train": pa.table({"text": texts, "label": labels})})
        yield shop


def said(shop: Shop, record_use: Callable[..., str], texts: dict[str, str]) -> None:
    now = shop.clock.now_ms()
    with shop.db.write() as conn:
        org = accounts.create_organization(conn, now, "Acme")
        sub = catalog.subscribe(conn, now, org.id, catalog.create_plan(conn, now, "p", "P", catalog.Terms()).id)
        for place, (text, label) in enumerate(texts.items()):
            event = record_use(conn, sub, model="mood", at_ms=now + place, operation="classification")
            feedback.give(conn, now, org.id, "key_1", event, -1, input=text, correction=label)


def test_corrections_become_rows_and_what_cannot_is_named(shop: Shop, record_use: Callable[..., str]) -> None:
    said(shop, record_use, {"a slow burner i liked": "good", "clever but cold": "bad", "hm": "ugly"})
    with shop.db.read() as conn:
        words = feedback.list_of(conn, model="mood", corrected=True)
    ref, taken, left_out = adapt.collect(shop, recipe.parse(RECIPE), words, least=2)
    assert (ref, taken, len(left_out)) == ("films@2", 2, 1)
    assert "ugly" not in left_out[0] and "bad, good" in left_out[0]
    version = data.Shelf(shop.settings.home / "datasets", shop.clock).get(ref)
    assert (version.parent, version.rows("train")) == ("films@1", 62)
    with pytest.raises(Conflict, match="at least 10"):
        adapt.collect(shop, recipe.parse(RECIPE), words)


def test_a_recipe_is_written_as_it_was_meant() -> None:
    once = recipe.parse(RECIPE)
    again = recipe.parse(adapt.written(once.model_dump(mode="json", exclude_none=True)))
    assert again == once


@pytest.mark.slow
def test_the_next_version_learned_what_was_corrected(shop: Shop, record_use: Callable[..., str]) -> None:
    path = shop.settings.home / "mood.toml"
    path.write_text(RECIPE)
    first = build.build(shop, path)
    assert first.record.package == "mood@1"
    release.deploy(shop, "mood")
    odd = {f"a zonky film number {number}": "good" for number in range(12)}
    said(shop, record_use, odd)
    made = adapt.adapt(shop, "mood", share=20)
    assert made.run.record.package == "mood@2"
    walked = release.lineage(shop, "mood", "2")["steps"]
    assert [step["package"] for step in walked] == ["mood@2", "mood@1"]
    assert list(walked[0]["datasets"]) == ["films@2"] and list(walked[1]["datasets"]) == ["films@1"]
    with shop.db.read() as conn:
        from tollway.serve import deployments, models

        assert models.get_model(conn, "mood").version == "1"
        canary = deployments.running(conn, "mood")["canary"]
    assert made.canary == canary and (canary.version, canary.share) == ("2", 20)
