"""The input that buyers copy: a real row, as a caller would send it, with personal data covered and small enough to paste."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tollway.forge.evaluate import examples


def png(side: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_a_row_is_whole_covered_and_says_nothing_of_the_truth():
    rows = [
        {"age": None, "note": "first", "label": "good", "x_town": "Jena"},
        {"age": 41, "note": "call 138-1234-5678 or write to li.wei@example.com", "label": "bad", "x_town": "Ulm"},
    ]
    call = examples.to_call("tabular-classification", rows, ["age", "note"])
    assert call == {"age": 41, "note": "call [PHONE] or write to [EMAIL]"}
    assert examples.to_call("tabular-classification", rows[:1], ["age", "note"]) == {"note": "first"}


def test_one_text_is_sent_as_it_is_and_a_long_one_ends_with_a_word():
    assert (
        examples.to_call("text-classification", [{"text": "a lovely film", "label": "good"}], ["text"])
        == "a lovely film"
    )
    long = examples.to_call("text-classification", [{"text": "word " * 200}], ["text"])
    assert len(long) <= examples.CALL_TEXT_MAX and long.endswith("word")
    asked = {"context": "It is in Ulm.", "question": "Where is it?", "answer": "Ulm"}
    assert examples.to_call("question-answering", [asked], ["context", "question"]) == {
        "context": "It is in Ulm.",
        "question": "Where is it?",
    }
    tagged = examples.to_call("token-classification", [{"tokens": ["Ada", "lives"], "tags": ["B", "O"]}], ["tokens"])
    assert tagged == {"tokens": ["Ada", "lives"]}


@pytest.mark.parametrize("side", [8, 400])
def test_a_picture_is_small_enough_to_paste_and_still_a_picture(side):
    call = examples.to_call("image-classification", [{"image": png(side), "label": "a"}], ["image"])
    head, _, body = call["image"].partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64") and len(body) < 8_000
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (min(side, 64),) * 2
    json.dumps(call)


def test_recommendations_are_asked_for_a_user_and_generators_for_nothing():
    rows = [{"user": "u7", "item": "i1", "rating": 4.0}]
    assert examples.to_call("recommendation", rows, ["user", "item", "top", "exclude"]) == "u7"
    assert examples.to_call("image-generation", [{"image": png(8)}], ["seed"]) is None
    assert examples.to_call("chat", [{"messages": []}], ["messages"]) is None
    assert examples.to_call("text-classification", [], ["text"]) is None
