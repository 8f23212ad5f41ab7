"""Cleaning: every step does what its name says, says how much that was, and a step that does not exist is named."""

import pyarrow as pa
import pytest

from tollway.forge.data.clean import Roles, clean
from tollway.kit.errors import BadRequest

ROLES = Roles(texts=("text",), content=("text",), label="label")


def run(step, texts, labels=None):
    labels = labels or ["x"] * len(texts)
    table, done = clean(pa.table({"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.string())}), [step], ROLES)
    return table["text"].to_pylist(), table["label"].to_pylist(), done[0]


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        ("trim", "  好 \n", "好"),
        ("collapse-spaces", "a \u3000 b\n\n \n c", "a b\nc"),
        ("fix-unicode", "cafe\u0301", "café"),
        ("strip-html", "<p>5 &lt; 6 <b>yes</b></p><br/>ok", "\n5 < 6 yes\n\nok"),
        ("strip-html", "a < b and c > d", "a < b and c > d"),
        ("lowercase", "ABC 中文", "abc 中文"),
        ("half-width", "ＡＢＣ１２３，好！", "ABC123，好！"),
        ("remove-urls", "见 https://a.cn/x?y=1。谢谢", "见 。谢谢"),
        ("remove-control", "a\u200bb\x07c\td", "abc\td"),
        ("truncate:3", "abcdef", "abc"),
    ],
)
def test_texts(step, before, after):
    texts, _, done = run(step, [before, None])
    assert texts == [after, None] and done.changed == (before != after)


def test_rows():
    assert run("deduplicate", ["a", "b", "a"])[0] == ["a", "b"]
    assert run("drop-missing", ["a", None, " ", "b"], ["x", "x", "x", None])[0] == ["a"]
    assert run("drop-conflicts", ["a", "a", "b", "b"], ["x", "y", "x", "x"])[0] == ["b", "b"]
    assert run("min-length:2", ["a", "ab", "中文"])[0] == ["ab", "中文"]
    assert run("max-length:2", ["a", "abc"])[0] == ["a"]
    assert run("rename:postive=positive", ["a", "b"], ["postive", "bad"])[1] == ["positive", "bad"]
    assert run("drop-label:bad", ["a", "b"], ["good", "bad"])[1] == ["good"]
    texts = ["the quick brown fox jumps over the lazy dog today", "the quick brown fox jumps over the lazy dog toda", "quite another"]
    assert run("near-deduplicate:0.8", texts)[0] == [texts[0], texts[2]]
    assert run("deduplicate", ["a", "a"])[2].dropped == 1 and str(run("trim", ["a"])[2]) == "trim: nothing to do"


def test_every_wrong_step_is_named_at_once():
    with pytest.raises(BadRequest) as told:
        clean(pa.table({"text": ["a"]}), ["trimm", "min-length", "max-length:many", "rename:x", "trim"], ROLES)
    message = told.value.message
    assert "did you mean 'trim'" in message and "needs a value" in message and "'many'" in message and "rename:postive=positive" in message


def test_a_step_that_leaves_nothing_is_refused():
    with pytest.raises(BadRequest, match="leaves no row"):
        run("min-length:100", ["a"])
