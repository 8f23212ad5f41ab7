"""Names in texts: words, tags and their places fit together in English and Chinese."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway import inference
from tollway.inference import tokens
from tollway.kit.errors import BadRequest

ROWS = pa.table(
    {
        "tokens": [["Anna", "lives", "in", "Paris", "."], ["张", "伟", "住", "在", "北京"]],
        "tags": [["B-PER", "O", "O", "B-LOC", "O"], ["B-PER", "I-PER", "O", "O", "B-LOC"]],
    }
)


@pytest.fixture(scope="module")
def features():
    return inference.fit("token-classification", ROWS, {"min_count": 1, "max_length": 16})


def certain(features, row, tags):
    """Logits that say `tags` of the words, at every piece."""
    (encoded,) = features.encode([row])
    logits = np.full((1, len(encoded["input_ids"]), len(features.labels)), -9.0, dtype=np.float32)
    for place, word in enumerate(encoded["_words"].tolist()):
        if word >= 0:
            logits[0, place, features.labels.index(tags[word])] = 9.0
    return features.decode({"logits": logits}, [row], [encoded])[0]["entities"]


def test_entities_point_into_the_text(features):
    text = "Yesterday Anna-Marie met 张伟 in  Paris."
    words = tokens.words_of({"text": text}, 0)[0]
    tags = ["B-PER" if one in ("Anna-Marie", "张") else "I-PER" if one == "伟" else "B-LOC" if one == "Paris" else "O"
            for one in words]  # fmt: skip
    found = certain(features, {"text": text}, tags)
    assert [(one["text"], one["label"]) for one in found] == [("Anna-Marie", "PER"), ("张伟", "PER"), ("Paris", "LOC")]
    assert all(text[one["start"] : one["end"]] == one["text"] for one in found)


def test_tokens_are_joined_by_a_space(features):
    row = {"tokens": ["张", "伟", "住", "在", "北京"]}
    (one, other) = certain(features, row, ROWS["tags"].to_pylist()[1])
    assert (one["text"], one["start"], one["end"]) == ("张 伟", 0, 3)
    assert (other["text"], other["start"], other["end"]) == ("北京", 8, 10)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["B-A", "I-A", "I-A"], [(0, 3)]),
        (["B-A", "B-A", "O"], [(0, 1), (1, 2)]),
        (["I-A", "I-B", "I-B"], [(0, 1), (1, 3)]),  # an I- that follows nothing of its kind begins a span
        (["O", "I-A", "O"], [(1, 2)]),
        (["A", "A", "O"], [(0, 2)]),  # tags without marks
        (["S-A", "I-A", "O"], [(0, 1), (1, 2)]),  # a single one is never continued
    ],
)
def test_runs_of_tags_become_spans(tags, spans):
    words, starts = ["x", "y", "z"], [0, 2, 4]
    found = tokens.entities(tags, [1.0] * 3, words, starts, "x y z")
    assert [(one["start"] // 2, one["end"] // 2 + 1) for one in found] == spans


def test_labels_stand_at_the_first_piece_of_each_word():
    made = inference.fit("token-classification", ROWS, {"tokenizer": "characters", "min_count": 1})
    labels = made.targets(ROWS.to_pylist())["labels"]
    (anna, *_) = made.encode(ROWS.to_pylist())
    marked = labels[0][: len(anna["_words"])] != inference.IGNORE
    assert marked.sum() == 5
    assert made.labels[labels[0][0]] == "B-PER"


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=120))
def test_any_text_is_tagged_within_its_bounds(features, text):
    (encoded,) = features.encode([{"text": text}])
    logits = np.random.default_rng(0).standard_normal((1, len(encoded["input_ids"]), len(features.labels)))
    clean = text.encode("utf-8", "replace").decode()
    for one in features.decode({"logits": logits}, [{"text": text}], [encoded])[0]["entities"]:
        assert clean[one["start"] : one["end"]] == one["text"] != ""


@pytest.mark.parametrize("row", [{}, {"text": 3}, {"tokens": "Anna"}, {"tokens": [1, 2]}, {"text": None}])
def test_what_is_neither_text_nor_tokens_is_refused(features, row):
    with pytest.raises(BadRequest, match="Row 0"):
        features.encode([row])


def test_tags_that_do_not_fit_are_refused(features):
    with pytest.raises(BadRequest, match="1 tags for 2 tokens"):
        features.targets([{"tokens": ["a", "b"], "tags": ["O"]}])
    with pytest.raises(BadRequest, match="'B-GPE' is not one of"):
        features.targets([{"tokens": ["a"], "tags": ["B-GPE"]}])


def test_what_was_saved_encodes_the_same(features, tmp_path):
    features.save(tmp_path)
    again = inference.load_features(tmp_path)
    rows = [{"text": "Anna in 北京."}, {"text": ""}]
    assert [one["input_ids"].tolist() for one in again.encode(rows)] == [
        one["input_ids"].tolist() for one in features.encode(rows)
    ]
    assert again.labels == features.labels
