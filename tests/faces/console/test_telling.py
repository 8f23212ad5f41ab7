"""Reasons and errors are said with a code and figures, and read in the reader's language."""

import ast
from pathlib import Path
from string import Formatter

import pytest

import tollway
from tollway.faces.console.telling import failure, sentence
from tollway.forge.evaluate import enforce_figures
from tollway.kit.errors import Conflict, NotFound, PaymentRequired
from tollway.kit.said import Said, coded, listed, say, sentences

SOURCE = Path(tollway.__file__).parent


def spoken() -> dict[str, set[str]]:
    """Every code in the source, with the placeholders of its English words."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and "say" in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
                first = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
                if len(first) == 2:
                    names = {name for _, name, _, _ in Formatter().parse(first[1]) if name}
                    assert found.setdefault(first[0], names) == names, first[0]
    return found


def test_every_code_has_a_chinese_sentence_with_the_same_figures():
    chinese = {
        code: {n for _, n, _, _ in Formatter().parse(text) if n}
        for code, text in sentences("zh").items()
        if not code.startswith("code.")
    }
    english = spoken()
    assert len(english) > 100
    assert chinese == english


def test_errors_of_calls_are_told_by_their_code_and_every_such_code_is_in_the_source():
    source = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    codes = [one.removeprefix("code.") for one in sentences("zh") if one.startswith("code.")]
    assert len(codes) > 15 and not [one for one in codes if f'"{one}"' not in source]
    empty = PaymentRequired(
        "This call may cost up to 1.00 USD, the wallet has 0.20 USD free.", hint="Top up the wallet."
    )
    assert failure("zh", empty) == "钱包余额不足以支付这次调用。请充值，或调低最长回答。"
    assert "1.00 USD" in failure("en", empty)


def test_a_reason_made_of_reasons_is_said_whole_in_both_languages():
    slow = say("rollout.latency", "answers within {seen_ms} (95 of 100) against {usual_ms}, at most {limit_ms} allowed",
               seen_ms=340.0, usual_ms=120.0, limit_ms=180.0)  # fmt: skip
    bad = say("rollout.ratings", "{bad} of {rated} ratings bad ({seen_share}) against {usual_share}", bad=1200, rated=2000,
              seen_share=0.6, usual_share=None)  # fmt: skip
    why = listed([slow, bad])
    assert why == (
        "answers within 340 ms (95 of 100) against 120 ms, at most 180 ms allowed; "
        "1,200 of 2,000 ratings bad (60.0 %) against none"
    )
    told = sentence("zh", str(why), coded(why))
    assert told == (
        "95% 的回答在 340 ms 内完成，稳定版为 120 ms，上限 180 ms；2,000 个评分中差评 1,200 个（60.0 %），稳定版为 –"
    )
    assert sentence("en", str(why), coded(why)) == why


def test_times_roles_and_states_are_words_of_the_language_too():
    assert sentence("zh", say("rollout.kept_loaded", "kept loaded for {grace_s}", grace_s=300)) == "继续保温 5 分钟"
    assert sentence("zh", say("rollout.became", "it became the {role}", role="canary")) == "它转为金丝雀"
    ended = say("job.ended_already", "The job has ended already: {state}.", state="succeeded")
    assert sentence("zh", ended) == "任务已经结束：已完成。"


@pytest.mark.parametrize(
    ("words_", "kept"),
    [
        ("promoted by hand, years ago", None),  # a row of an older release
        ("said by a newer release", {"code": "no.such", "figures": {}}),
        ("said with other figures", {"code": "rollout.kept_loaded", "figures": {}}),
        ("and with none", {"code": "rollout.grace_over"} | {"figures": None, "code": "no.such"}),
    ],
)
def test_what_has_no_words_here_is_shown_as_it_is_and_marked_as_english(words_, kept):
    assert sentence("zh", words_, kept) == f'<span lang="en">{words_}</span>'
    assert sentence("en", words_, kept) == words_


def test_what_an_engine_said_stands_marked_inside_the_sentence_and_is_escaped():
    why = say("rollout.not_up", "its replica does not come up: {failure}", failure="bad <magic> in the file")
    assert sentence("zh", why) == '副本无法启动：<span lang="en">bad &lt;magic&gt; in the file</span>'
    inner = say("replica.ended", "its process ended with code {status}", status=-9)
    why = say("rollout.keeps_dying", "its replica keeps dying ({times} times): {failure}", times=3, failure=inner)
    assert sentence("zh", str(why), coded(why)) == "副本反复退出（3 次）：进程已退出，代码\u00a0-9"


def test_an_error_is_told_with_its_next_step_and_one_without_words_by_its_kind():
    known = Conflict(
        say("invoice.paid_already", "The invoice {number} is paid already.", number="TW-1"),
        hint=say("invoice.book_top_up", "Book the money as a top-up of the wallet."),
    )
    assert failure("en", known) == "The invoice TW-1 is paid already. Book the money as a top-up of the wallet."
    assert failure("zh", known) == "账单 TW-1 已付款。请把这笔钱作为钱包充值入账。"
    assert type(known.message) is str and type(known.hint) is str
    unknown = NotFound("There is no dataset 'a'.", hint="`tollway dataset list` shows all.")
    assert failure("zh", unknown) == '未找到（<span lang="en">There is no dataset &#39;a&#39;.</span>）'


def test_gates_that_were_missed_are_told_line_by_line_in_both_languages():
    asked = {"name": "accuracy", "rule": ">=0.9", "value": 0.8123, "passed": False}
    usual = {"rule": ">0", "value": -0.02, "passed": False, "usual": True}
    gates_ = [
        asked, asked | {"name": "low.f1", "value": None, "why": "it could not be computed from these rows"}, asked | {"passed": True},
        usual | {"name": "vs.majority", "why": "no better than majority, the simplest model there is"},
        usual | {"name": "vs.baseline.high", "rule": ">=0", "why": "surely worse than tfidf+logistic"},
    ]  # fmt: skip
    with pytest.raises(Conflict) as caught:
        enforce_figures({"gates": gates_}, "text-regression", "the report")
    assert caught.value.message.splitlines() == [
        "4 of 5 gates failed:", "  accuracy is 0.8123, wanted >=0.9",
        "  low.f1 is unknown, wanted >=0.9 (it could not be computed from these rows)",
        "  vs.majority is -0.02, wanted >0 (no better than majority, the simplest model there is)",
        "  vs.baseline.high is -0.02, wanted >=0 (surely worse than tfidf+logistic)",
    ]  # fmt: skip
    assert str(sentence("zh", "", coded(caught.value.said))).splitlines() == [
        "5 项门槛中有 4 项未通过：", "  accuracy 为 0.8123，要求 &gt;=0.9", "  low.f1 未知，要求 &gt;=0.9（用这些行无法计算）",
        "  vs.majority 为 -0.02，要求 &gt;0（不优于最简单的模型 majority）",
        "  vs.baseline.high 为 -0.02，要求 &gt;=0（确定不如 tfidf+logistic）",
    ]  # fmt: skip
    assert 'require = {"vs.majority" = ">=-0.05"}.' in caught.value.hint


def test_a_sentence_is_a_string_and_survives_what_is_done_with_strings():
    import copy
    import json
    import pickle

    why = say("a.b", "{count} of them in {took_s}", count=1200, took_s=7200)
    assert why == "1,200 of them in 2 h" and json.loads(json.dumps(why)) == str(why)
    for other in (copy.copy(why), pickle.loads(pickle.dumps(why))):
        assert isinstance(other, Said) and other.coded() == why.coded()
    assert coded("plain words") is None
