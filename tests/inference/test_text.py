"""Texts to token numbers: nothing breaks it, everything is bounded, what was saved encodes the same."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway import inference
from tollway.inference import vocabulary
from tollway.kit.errors import BadRequest, NotFound

ROWS = pa.table(
    {
        "text": ["A lovely film, truly lovely.", "a dull film", "这部电影非常好看", "这部电影很难看", "lovely 电影"]
        * 4,
        "label": ["good", "bad", "good", "bad", "good"] * 4,
    }
)
KINDS = vocabulary.KINDS


@pytest.fixture(scope="module", params=KINDS)
def features(request):
    return inference.fit("text-classification", ROWS, {"tokenizer": request.param, "vocabulary": 400, "max_length": 16})


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_becomes_between_one_and_max_length_tokens(features, text):
    (row,) = features.encode([{"text": text}])
    assert 1 <= features.length(row) <= 16
    assert row["input_ids"].max() < features.vocabulary_size


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=8))
def test_a_batch_holds_each_row_as_it_is_alone(features, texts):
    encoded = features.encode([{"text": one} for one in texts])
    batch = features.collate(encoded)
    assert batch["input_ids"].shape[1] == max(len(one["input_ids"]) for one in encoded)
    for number, text in enumerate(texts):
        alone = features.encode([{"text": text}])[0]["input_ids"]
        assert batch["attention_mask"][number].sum() == len(alone)
        assert (batch["input_ids"][number, : len(alone)] == alone).all()


def test_words_that_training_never_saw_are_the_unknown_token():
    made = inference.fit("text-classification", ROWS, {"min_count": 1})
    (row,) = made.encode([{"text": "lovely zyzzyva"}])
    assert row["input_ids"].tolist()[1] == made.unknown_id != row["input_ids"][0]


def test_chinese_characters_stand_alone():
    made = inference.fit("text-classification", ROWS, {"min_count": 1})
    assert len(made.encode([{"text": "电影好看"}])[0]["input_ids"]) == 4


def test_half_a_character_is_replaced_not_a_crash(features):
    assert features.encode([{"text": "bad \ud800 half"}])


def test_a_megabyte_of_text_costs_no_more_than_a_page(features):
    (row,) = features.encode([{"text": "lovely film " * 100_000}])
    assert features.length(row) == 16


@pytest.mark.parametrize("value", [None, b"bytes", ["a"], {"a": 1}, True, float("nan")])
def test_what_is_no_text_is_refused_with_row_and_field(features, value):
    with pytest.raises(BadRequest, match=r"Row 1, 'text'") as caught:
        features.encode([{"text": "fine"}, {"text": value}])
    assert caught.value.param == "text"


def test_a_misspelt_field_is_refused_with_the_known_ones(features):
    with pytest.raises(BadRequest, match=r"no such field. Known: text"):
        features.check([{"txt": "hello"}])
    with pytest.raises(BadRequest, match="an object"):
        features.check(["hello"])  # type: ignore[list-item]


def test_what_was_saved_encodes_and_answers_the_same(features, tmp_path):
    features.save(tmp_path)
    again = inference.load_features(tmp_path)
    rows = [{"text": "a lovely film"}, {"text": ""}, {"text": "电影 zzz " * 9}]
    for one, other in zip(features.encode(rows), again.encode(rows), strict=True):
        assert one["input_ids"].tolist() == other["input_ids"].tolist()
    logits = {"logits": np.array([[2.0, 0.0]], dtype=np.float32)}
    assert again.decode(logits) == features.decode(logits)
    assert again.labels == ["bad", "good"]


def test_answers_are_shares_that_sum_to_one(features):
    (answer,) = features.decode({"logits": np.array([[1.0, 3.0]], dtype=np.float32)})
    assert answer["label"] == "good"
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-6)
    assert answer["score"] == max(answer["scores"].values())


def test_targets_are_the_places_of_the_labels(features):
    assert features.targets([{"label": "good"}, {"label": "bad"}])["label"].tolist() == [1, 0]
    with pytest.raises(BadRequest, match=r"Row 0, 'label': 'goood' is not one of bad, good"):
        features.targets([{"label": "goood"}])


def test_one_class_is_too_few():
    with pytest.raises(BadRequest, match="at least two classes"):
        inference.fit("text-classification", pa.table({"text": ["a", "b"], "label": ["x", "x"]}))


def test_a_column_that_is_missing_is_named_with_those_there_are():
    with pytest.raises(BadRequest, match="no column 'text'; it has review"):
        inference.fit("text-classification", pa.table({"review": ["a"], "label": ["x"]}))


def test_a_target_that_is_not_finite_is_refused():
    with pytest.raises(BadRequest, match="not finite"):
        inference.fit("text-regression", pa.table({"text": ["a", "b"], "target": [1.0, float("inf")]}))


def test_a_folder_of_something_else_is_told_apart(tmp_path):
    with pytest.raises(NotFound, match=r"features\.json"):
        inference.load_features(tmp_path)
    (tmp_path / "features.json").write_text(json.dumps({"kind": "poem"}))
    with pytest.raises(BadRequest, match="cannot be read"):
        inference.load_features(tmp_path)
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(BadRequest, match="cannot be read"):
        inference.load_features(tmp_path)


def test_a_damaged_tokenizer_is_refused(tmp_path):
    inference.fit("text-classification", ROWS).save(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "9"}')
    with pytest.raises(BadRequest, match="not a tokenizer"):
        inference.load_features(tmp_path)


def test_pairs_are_encoded_only_where_sentences_are_compared(features):
    assert "input_ids_b" not in features.encode([{"text": "a", "text_b": "b"}])[0]
    pairs = inference.fit(
        "sentence-embedding", pa.table({"text": ["a b", "c d"], "text_b": ["a", "d"]}), {"min_count": 1}
    )
    batch = pairs.collate(pairs.encode([{"text": "a b", "text_b": "d"}]))
    assert batch["input_ids"].shape == (1, 2)
    assert batch["input_ids_b"].shape == (1, 1)
    assert pairs.targets([{"label": 0.5}])["target"].tolist() == [0.5]
