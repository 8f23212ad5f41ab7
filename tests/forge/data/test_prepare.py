"""The first step of a run: canonical columns for every task, splits without leaks, and everything said that was done."""

import json
from types import SimpleNamespace

import pyarrow as pa
import pytest

from tollway.forge import data
from tollway.forge.data import samples
from tollway.kit.errors import BadRequest

CANONICAL = {
    "movies": {"text", "label"}, "reviews-zh": {"text", "label"}, "digits": {"image", "label"}, "moby-dick": {"text"},
    "ml-100k": {"user", "item", "rating", "time"}, "credit": {"label", "age_in_years", "purpose"}, "breast-cancer": {"label", "mean radius"},
}  # fmt: skip


@pytest.mark.parametrize("name", CANONICAL)
def test_real_data_of_every_kind_is_prepared(name, desk, wish):
    sample = samples.get(name)
    if not sample.available():
        pytest.skip(f"bring it with: {sample.bring}")
    version = samples.load(name)
    shelf = data.Shelf(version.folder.parent.parent, SimpleNamespace())
    place = desk()
    prepared = data.prepare(wish(name, rows_max=300), sample.task, shelf, place)
    assert prepared.splits == ("train", "validation", "test")
    for split in prepared.splits:
        table = prepared.read(split)
        assert 0 < table.num_rows == prepared.rows(split) <= 300 and set(table.column_names) >= CANONICAL[name]
        if sample.task not in ("tabular-classification",):
            assert all(one.startswith("x_") for one in set(table.column_names) - CANONICAL[name])
    again = data.prepare(wish(name, rows_max=300), sample.task, shelf, desk())
    assert again.digest == prepared.digest
    assert data.prepare(wish(name, rows_max=300), sample.task, shelf, desk(8)).digest != prepared.digest
    assert data.Prepared(place.out).labels == prepared.labels


def test_columns_are_found_or_asked_for_with_everything_that_is_wrong(shelf, desk, wish):
    shelf.add("odd", {"train": pa.table({"what was said": ["a b c d"] * 3, "n": [1, 2, 3], "why": ["x y", "z", "w"]})},
              kinds={"what was said": "text", "why": "text"})  # fmt: skip
    with pytest.raises(BadRequest) as told:
        data.prepare(wish("odd"), "text-classification", shelf, desk())
    assert "which column is the text?" in told.value.message and "which column is the label?" in told.value.message
    assert "what was said (text)" in told.value.hint
    with pytest.raises(BadRequest) as told:
        data.prepare(wish("odd", columns={"text": "what was sayd", "labl": "why"}), "text-classification", shelf, desk())
    assert "did you mean 'what was said'" in told.value.message and "did you mean 'label'" in told.value.message
    with pytest.raises(BadRequest, match="target = 'why' is of kind text"):
        data.prepare(wish("odd", columns={"text": "what was said", "target": "why"}), "text-regression", shelf, desk())


def test_equal_rows_never_lie_on_two_sides(shelf, desk, wish, reviews):
    shelf.add("twice", {"train": pa.concat_tables([reviews] * 5)}, kinds={"text": "text"})
    prepared = data.prepare(wish("twice"), "text-classification", shelf, desk())
    sides = [set(prepared.read(split)["text"].to_pylist()) for split in prepared.splits]
    assert sum(map(len, sides)) == 40 and sum(map(prepared.rows, prepared.splits)) == 200


def test_a_splits_leak_goes_from_train_not_from_test(shelf, desk, wish, reviews):
    shelf.add("leaky", {"train": reviews, "test": reviews.slice(0, 8)}, kinds={"text": "text"})
    prepared = data.prepare(wish("leaky", clean=["deduplicate"]), "text-classification", shelf, desk())
    assert prepared.rows("test") == 8 and prepared.rows("train") + prepared.rows("validation") == 32
    assert prepared.meta["split"] == {"by": "stratified", "made": ["validation"], "kept": ["test"], "seed": 7}


def test_a_translation_is_no_class_to_be_shared_out(shelf, desk, wish):
    words = [f"word {n}" for n in range(60)]
    shelf.add("words", {"train": pa.table({"source": words, "target": [one[::-1] for one in words]})},
              kinds={"source": "text", "target": "text"})  # fmt: skip
    prepared = data.prepare(wish("words"), "translation", shelf, desk())
    assert all(prepared.rows(split) >= 4 for split in ("train", "validation", "test"))


def test_groups_and_other_columns_go_along(shelf, desk, wish, reviews):
    shelf.add("shops", {"train": reviews}, kinds={"text": "text"})
    prepared = data.prepare(wish("shops", split={"by": "group:shop", "test": 0.2}), "text-classification", shelf, desk())
    shops = [set(prepared.read(split)["x_shop"].to_pylist()) for split in prepared.splits]
    assert set.union(*shops) == {0, 1, 4, 5} and sum(map(len, shops)) == 4


def test_masking_covers_before_anything_is_written(shelf, desk, wish, reviews):
    texts = [f"{text} 电话13812345678 or mail me@example.com" for text in reviews["text"].to_pylist()]
    shelf.add("private", {"train": reviews.set_column(0, "text", pa.array(texts))}, kinds={"text": "text"})
    prepared = data.prepare(wish("private", mask=True), "text-classification", shelf, desk())
    assert prepared.meta["masked"] == {"phone": 40, "email": 40}
    for split in prepared.splits:
        assert all("[PHONE]" in one and "138" not in one and "@" not in one for one in prepared.read(split)["text"].to_pylist())


def test_only_train_is_augmented(shelf, desk, wish, reviews):
    shelf.add("few", {"train": reviews}, kinds={"text": "text"})
    plain = data.prepare(wish("few"), "text-classification", shelf, desk())
    more = data.prepare(wish("few", augment=["synonym:0.3", "swap:0.5"]), "text-classification", shelf, desk())
    assert more.rows("test") == plain.rows("test") and more.rows("train") > plain.rows("train")
    assert more.read("test")["text"].to_pylist() == plain.read("test")["text"].to_pylist()


def test_what_would_spoil_training_is_said_or_refused(shelf, desk, wish, reviews):
    labels = ["postive" if n == 3 else label for n, label in enumerate(reviews["label"].to_pylist())]
    typo = reviews.set_column(1, "label", pa.array(labels))
    shelf.add("typo", {"train": typo, "test": typo.slice(0, 5)}, kinds={"text": "text"})
    place = desk()
    data.prepare(wish("typo"), "text-classification", shelf, place)
    assert any("'postive' (2 rows) looks like 'positive'" in one and "rename:postive=positive" in one for one in place.warnings)
    place = desk()
    prepared = data.prepare(wish("typo", clean=["rename:postive=positive"]), "text-classification", shelf, place)
    assert prepared.labels == ["negative", "positive"] and not place.warnings
    shelf.add("one", {"train": reviews.filter(pa.compute.equal(reviews["label"], "positive"))}, kinds={"text": "text"})
    with pytest.raises(BadRequest, match=r"All .* the same label"):
        data.prepare(wish("one"), "text-classification", shelf, desk())
    gaps = reviews.set_column(1, "label", pa.array([None, *reviews["label"].to_pylist()[1:]], pa.string()))
    shelf.add("gaps", {"train": gaps}, kinds={"text": "text"})
    place = desk()
    assert sum(data.prepare(wish("gaps"), "text-classification", shelf, place).meta["rows"].values()) == 39
    assert "1 rows have no" in place.warnings[0]


def test_unknown_steps_stop_before_any_work(shelf, desk, wish, reviews):
    shelf.add("few", {"train": reviews}, kinds={"text": "text"})
    with pytest.raises(BadRequest, match="did you mean 'deduplicate'"):
        data.prepare(wish("few", clean=["dedupliacte"]), "text-classification", shelf, desk())
    with pytest.raises(BadRequest, match="no augmentation for text-classification"):
        data.prepare(wish("few", augment=["flip"]), "text-classification", shelf, desk())


def test_conversations_and_tags_are_read_from_json(shelf, desk, wish):
    turns = [[{"role": "user", "content": f"你好 {n}"}, {"role": "assistant", "content": "hello"}] for n in range(10)]
    shelf.add("talk", {"train": pa.table({"conversations": [json.dumps(one) for one in turns]})}, kinds={"conversations": "json"})
    prepared = data.prepare(wish("talk"), "chat", shelf, desk())
    assert prepared.read("train")["messages"][0].as_py()[1] == {"role": "assistant", "content": "hello"}
    words = pa.table({"words": [["a", f"{n}"] for n in range(10)], "ner_tags": [["O", "B"]] * 10})
    shelf.add("tags", {"train": words})
    assert data.prepare(wish("tags"), "token-classification", shelf, desk()).read("train").column_names == ["tokens", "tags"]
    shelf.add("broken", {"train": pa.table({"messages": ['[{"role": "user"}]'] * 5})}, kinds={"messages": "json"})
    with pytest.raises(BadRequest, match="5 rows cannot be read"):
        data.prepare(wish("broken"), "chat", shelf, desk())


def test_features_of_a_table_can_be_chosen(shelf, desk, wish):
    table = pa.table({"a": list(range(20)), "b": [0.5] * 20, "when": pa.array(range(20), pa.timestamp("s")), "y": ["p", "n"] * 10})
    shelf.add("t", {"train": table})
    assert data.prepare(wish("t"), "tabular-classification", shelf, desk()).read("train").column_names == ["label", "a", "b", "when"]
    chosen = wish("t", columns={"label": "y", "features": "a, when", "drop": "when"})
    assert data.prepare(chosen, "tabular-classification", shelf, desk()).read("train").column_names == ["label", "a"]
    with pytest.raises(BadRequest, match="no column 'bb'"):
        data.prepare(wish("t", columns={"drop": "bb"}), "tabular-classification", shelf, desk())
