"""How alike two answers are: labels, values, embeddings and texts, and what cannot be compared."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.flows.likeness import EMBEDDINGS, LABELS, TEXT, alike, compare, text_of


def rows(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"object": "list", "data": rows}).encode()


def chat(text: str, **more: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text, **more}}]}).encode()


def test_labels_count_by_input_and_scores_do_not() -> None:
    one = rows({"label": "good", "score": 0.9}, {"label": "bad", "score": 0.6})
    assert compare(one, rows({"label": "good", "score": 0.5}, {"label": "bad", "score": 0.9})) == (LABELS, 1.0)
    assert compare(one, rows({"label": "good"}, {"label": "good"})) == (LABELS, 0.5)
    assert not alike(LABELS, 0.5)
    assert compare(one, rows({"label": "good"})) == (LABELS, 0.0)


def test_values_may_differ_by_a_hundredth() -> None:
    assert compare(rows({"value": 100.0}), rows({"value": 100.9})) == (LABELS, 1.0)
    assert compare(rows({"value": 100.0}), rows({"value": 103.0})) == (LABELS, 0.0)
    assert compare(rows({"value": 100.0}), rows({"label": "x"})) == (LABELS, 0.0)


def test_embeddings_by_the_worst_cosine_in_either_coding() -> None:
    coded = base64.b64encode(struct.pack("<2f", 3.0, 4.0)).decode()
    kind, likeness = compare(rows({"embedding": [0.6, 0.8]}), rows({"embedding": coded})) or ("", 0)
    assert kind == EMBEDDINGS and likeness == pytest.approx(1.0)
    two = rows({"embedding": [1.0, 0.0]}, {"embedding": [0.0, 1.0]})
    assert compare(two, rows({"embedding": [1.0, 0.0]}, {"embedding": [1.0, 0.0]})) == (EMBEDDINGS, 0.0)
    assert compare(rows({"embedding": [1.0]}), rows({"embedding": [1.0, 0.0]})) == (EMBEDDINGS, 0.0)


def test_texts_by_their_words_whole_or_streamed() -> None:
    assert compare(chat("the toll road"), text_of("the toll road ")) == (TEXT, 1.0)
    found = compare(chat("one two three four five"), chat("one two three four six"))
    assert found == (TEXT, 0.8) and alike(*found)
    assert (compare(chat("yes"), chat("no at all")) or ("", 1))[1] == 0.0
    tools = {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    assert compare(chat("", **tools), chat("", **tools)) == (TEXT, 1.0)
    assert (compare(chat("", **tools), chat("")) or ("", 1))[1] < 1.0


@pytest.mark.parametrize("odd", [b"", b"RIFF....", b"[]", b"{}", b'{"data": []}', b'{"data": [{"b64_json": "x"}]}'])
def test_what_cannot_be_compared_is_not(odd: bytes) -> None:
    assert compare(odd, odd) is None


@given(st.text(max_size=60), st.text(max_size=60))
def test_likeness_is_a_share_and_the_same_is_one(one: str, other: str) -> None:
    assert compare(chat(one), chat(one)) == (TEXT, 1.0)
    found = compare(chat(one), chat(other))
    assert found is not None and 0.0 <= found[1] <= 1.0
