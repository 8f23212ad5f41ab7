"""Questions about a text: answers are found in whichever window holds them, and never outside the text."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway import inference
from tollway.kit.errors import BadRequest

TEXT = "The tower was built in 1889 by Gustave Eiffel. It stands in Paris. 它高三百三十米。"
ROWS = pa.table(
    {
        "context": [TEXT] * 3,
        "question": ["When was it built?", "Where does it stand?", "Who ate it?"],
        "answer": ["1889", "Paris", ""],
    }
)


@pytest.fixture(scope="module")
def features():
    return inference.fit("question-answering", ROWS, {"min_count": 1, "max_length": 32, "doc_stride": 8})


def certain(features, row, first, last):
    """The answer when the model is sure of the characters first..last."""
    (encoded,) = features.encode([row])
    windows = np.split(np.arange(len(encoded["input_ids"])), np.cumsum(encoded["_windows"])[:-1])
    width = max(len(one) for one in windows)
    outputs = {name: np.full((len(windows), width), -9.0, dtype=np.float32) for name in ("start_logits", "end_logits")}
    for number, places in enumerate(windows):
        for at, place in enumerate(places):
            low, high = encoded["_offsets"][place]
            if encoded["token_type_ids"][place] == 1 and high > low:
                outputs["start_logits"][number, at] += 18.0 * (low == first)
                outputs["end_logits"][number, at] += 18.0 * (high == last)
    return features.decode(outputs, [row], [encoded])[0]


def test_an_answer_far_into_a_long_text_is_found(features):
    text = "Nothing is said here. " * 60 + TEXT
    first = text.index("Gustave")
    answer = certain(features, {"context": text, "question": "Who built it?"}, first, first + len("Gustave Eiffel"))
    assert answer["answer"] == "Gustave Eiffel"
    assert text[answer["start"] : answer["end"]] == answer["answer"]


def test_training_rows_use_the_one_window_that_holds_the_answer(features):
    text = "Nothing is said here. " * 60 + TEXT
    row = {"context": text, "question": "When?", "answer": "1889", "answer_start": text.index("1889")}
    (encoded,) = features.encode([row])
    target = features.targets([row])
    assert len(encoded["_windows"]) == 1
    low, high = encoded["_offsets"][int(target["start"][0])][0], encoded["_offsets"][int(target["end"][0])][1]
    assert text[low:high] == "1889"


def test_no_answer_is_the_first_place(features):
    target = features.targets([{"context": TEXT, "question": "Who ate it?", "answer": "", "answer_start": -1}])
    assert (target["start"][0], target["end"][0]) == (0, 0)


def test_a_model_that_prefers_no_answer_says_so(features):
    row = {"context": TEXT, "question": "Who ate it?"}
    (encoded,) = features.encode([row])
    shape = (len(encoded["_windows"]), int(encoded["_windows"].max()))
    logits = np.zeros(shape, dtype=np.float32)
    logits[:, 0] = 9.0
    assert features.decode({"start_logits": logits, "end_logits": logits}, [row], [encoded])[0]["answer"] == ""


@settings(max_examples=40, deadline=None)
@given(context=st.text(max_size=300), question=st.text(max_size=300), seed=st.integers(0, 99))
def test_an_answer_is_always_a_part_of_the_text(features, context, question, seed):
    row = {"context": context, "question": question}
    (encoded,) = features.encode([row])
    batch = features.collate([encoded])
    assert batch["input_ids"].shape[1] <= 32
    noise = np.random.default_rng(seed).standard_normal((2, *batch["input_ids"].shape))
    (answer,) = features.decode({"start_logits": noise[0], "end_logits": noise[1]}, [row], [encoded])
    clean = context.encode("utf-8", "replace").decode()
    assert clean[answer["start"] : answer["end"]] == answer["answer"]


def test_both_fields_are_needed(features):
    with pytest.raises(BadRequest, match="'context'"):
        features.encode([{"question": "who?"}])
    with pytest.raises(BadRequest, match="'question'"):
        features.encode([{"context": "a text"}])
