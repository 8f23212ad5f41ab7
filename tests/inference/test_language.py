"""Language features: labels only where something is learned, the template in a sandbox, tokens as everybody counts them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway import inference
from tollway.inference import IGNORE, lm_tokenizer
from tollway.inference.language import LanguageFeatures, render
from tollway.kit.errors import BadRequest

TEXTS = ["Tollway turns a model into a subscription API.", "价格按每百万个词元计算，精确到一次。", "2026: 1,250.00 EUR"] * 5
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is a whale?"},
    {"role": "assistant", "content": "A mammal."},
    {"role": "user", "content": "鲸鱼吃什么？"},
    {"role": "assistant", "content": "磷虾。"},
]


@pytest.fixture(scope="module", params=lm_tokenizer.KINDS)
def features(request: pytest.FixtureRequest) -> LanguageFeatures:
    rows = pa.table({"messages": [json.dumps(CHAT), json.dumps([{"role": "user", "content": text} for text in TEXTS])]})
    return LanguageFeatures.fit("chat", rows, {"tokenizer": request.param, "vocabulary": 400, "max_length": 128})


@pytest.mark.parametrize("kind", lm_tokenizer.KINDS)
def test_the_same_texts_make_the_same_tokenizer(kind: str) -> None:
    made = [lm_tokenizer.train(TEXTS, kind=kind, vocabulary=350).to_str() for _ in range(3)]
    assert made[0] == made[1] == made[2]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_bytes_lose_nothing(text: str) -> None:
    tokenizer = _bytes()
    text = text.encode("utf-8", "replace").decode()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def _bytes() -> object:
    if not hasattr(_bytes, "made"):
        _bytes.made = lm_tokenizer.train(TEXTS, vocabulary=320)  # type: ignore[attr-defined]
    return _bytes.made  # type: ignore[attr-defined]


def test_pieces_do_not_take_what_is_unknown_for_the_end_of_a_text() -> None:
    made = lm_tokenizer.train(["only small letters"] * 9, kind="unigram", vocabulary=300)
    ids = made.encode("Ж\n{x}", add_special_tokens=False).ids
    assert made.token_to_id(lm_tokenizer.END) not in ids and ids.count(made.token_to_id(lm_tokenizer.UNKNOWN)) == 1
    assert lm_tokenizer.fertility(made, ["Ж\n{x}"])["unknown_share"] == pytest.approx(1 / len(ids))


def test_orders_that_make_no_sense_are_all_named() -> None:
    with pytest.raises(BadRequest, match=r"'wordpiece' is no kind.*; a vocabulary of 10 is not"):
        lm_tokenizer.train(TEXTS, kind="wordpiece", vocabulary=10)
    with pytest.raises(BadRequest, match="no text to learn"):
        lm_tokenizer.train(["", ""], vocabulary=300)


def test_only_what_the_assistant_says_is_learned(features: LanguageFeatures) -> None:
    (one,) = features.encode([{"messages": CHAT}])
    asked = one["_labels"] != IGNORE
    said = features.tokenizer.decode(one["_labels"][asked].tolist(), skip_special_tokens=False)
    # Unigram writes a space where a piece begins a word; the words are what counts
    assert said.replace(" ", "") == "Amammal.<|im_end|>磷虾。<|im_end|>"
    assert one["input_ids"][0] == features.bos
    assert np.array_equal(one["input_ids"][1:][asked[:-1]], one["_labels"][:-1][asked[:-1]])
    asks = features.tokenizer.decode(one["_prompt"].tolist(), skip_special_tokens=False)
    assert asks.rstrip().endswith("<|im_start|>assistant") and "磷虾" not in asks


def test_a_conversation_cut_before_its_answer_teaches_nothing(features: LanguageFeatures) -> None:
    (one,) = features.encode([{"messages": [{"role": "user", "content": "word " * 400}, CHAT[2]]}])
    assert (one["_labels"] == IGNORE).all() and len(one["input_ids"]) <= 129


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "at least one"),
        ("[", "list of {role, content}"),
        ([{"role": "robot", "content": "x"}], "turn 0 needs a role"),
        ([{"role": "user", "content": None}], "turn 0 needs"),
        ([{"role": "user", "content": "x"}, "y"], "turn 1 needs"),
    ],
)
def test_a_conversation_that_is_none_is_refused_with_its_row(features: LanguageFeatures, messages: object, why: str) -> None:
    with pytest.raises(BadRequest, match=f"Row 1.*{why}"):
        features.encode([{"messages": CHAT}, {"messages": messages}])


def test_a_template_cannot_reach_out() -> None:
    turns = [{"role": "user", "content": "x"}]
    for evil in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{% include '/etc/passwd' %}", "{{ raise_exception('no') }}"):
        with pytest.raises(BadRequest, match="refuses this conversation"):
            render(evil, turns, ask=False, config={})
    marked = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    assert render(marked, turns, ask=False, config={}) == "x"
    with pytest.raises(BadRequest, match="no chat template"):
        render("", turns, ask=True, config={})


def test_what_was_saved_encodes_the_same_here_and_in_transformers(features: LanguageFeatures, tmp_path: Path) -> None:
    import transformers

    features.save(tmp_path)
    again = inference.load_features(tmp_path)
    rows = [{"messages": CHAT}]
    assert np.array_equal(again.encode(rows)[0]["input_ids"], features.encode(rows)[0]["input_ids"])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert theirs(text).input_ids == features.ids(text)
    assert theirs.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True) == features.write(CHAT[:2], ask=True)
