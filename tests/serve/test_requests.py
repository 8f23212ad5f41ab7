"""Requests: what can be asked is done or refused by name, bounds hold, and what the engine is sent says it all."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.kit import decoding
from tollway.kit.errors import BadRequest
from tollway.serve.engines import Caps
from tollway.serve.requests import (
    CHOICES_MAX,
    INPUTS_MAX,
    PROMPTS_MAX,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Generation,
)

ALL = Caps(
    chat=True,
    completions=True,
    embeddings=True,
    json_schema=True,
    tools=True,
    logprobs=True,
    logit_bias=True,
    reasoning=True,
    token_timings=True,
    embedding_dimensions=384,
)
HI = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def chat(**more: Any) -> ChatRequest:
    """A decoded chat request."""
    return msgspec.json.decode(json.dumps({"model": "m", "messages": [HI], **more}), type=ChatRequest)


def completion(**more: Any) -> CompletionRequest:
    """A decoded completion request."""
    return msgspec.json.decode(json.dumps({"model": "m", "prompt": "p", **more}), type=CompletionRequest)


def embedding(**more: Any) -> EmbeddingRequest:
    """A decoded embedding request."""
    return msgspec.json.decode(json.dumps({"model": "m", "input": "x", **more}), type=EmbeddingRequest)


def without(**lacking: bool) -> Caps:
    """An engine that cannot do this."""
    return msgspec.structs.replace(ALL, **lacking)


REFUSED: list[tuple[Any, Caps, str]] = [
    (chat(), without(chat=False), "model"),
    (completion(), without(completions=False), "model"),
    (embedding(), without(embeddings=False), "model"),
    (chat(tools=[TOOL]), without(tools=False), "tools"),
    (chat(tool_choice="required"), without(tools=False), "tools"),
    (chat(logprobs=True), without(logprobs=False), "logprobs"),
    (chat(top_logprobs=2), ALL, "top_logprobs"),
    (chat(response_format={"type": "json_object"}), without(json_schema=False), "response_format"),
    (chat(response_format={"type": "xml"}), ALL, "response_format.type"),
    (chat(response_format={}), ALL, "response_format.type"),
    (chat(response_format={"type": "json_schema"}), ALL, "response_format.json_schema"),
    (chat(response_format={"type": "json_schema", "json_schema": {"schema": "x"}}), ALL, "response_format.json_schema"),
    (chat(logit_bias={"5": 1}), without(logit_bias=False), "logit_bias"),
    (chat(reasoning_effort="low"), without(reasoning=False), "reasoning_effort"),
    (chat(verbosity="low"), without(reasoning=False), "verbosity"),
    (chat(modalities=["text", "audio"]), ALL, "modalities"),
    (chat(stream_options={"include_usage": True}), ALL, "stream_options"),
    (chat(messages=[{"role": "function", "content": "x"}]), ALL, "messages[0].role"),
    (chat(messages=[HI, {"role": "user"}]), ALL, "messages[1].content"),
    (chat(messages=[HI, {"role": "user", "content": [{"type": "image_url"}]}]), ALL, "messages[1].content"),
    (chat(messages=[{"role": "assistant", "content": "x", "audio": {"id": "a"}}]), ALL, "messages[0].audio"),
    (completion(echo=True), ALL, "echo"),
    (completion(suffix="s"), ALL, "suffix"),
    (completion(best_of=3), ALL, "best_of"),
    (completion(logprobs=1), without(logprobs=False), "logprobs"),
    (completion(prompt=[]), ALL, "prompt"),
    (completion(prompt=[1, 2]), ALL, "prompt"),
    (completion(prompt=["x"] * (PROMPTS_MAX + 1)), ALL, "prompt"),
    (completion(prompt=["x"] * 20, n=8), ALL, "n"),
    (embedding(input=[]), ALL, "input"),
    (embedding(input=[[1, 2]]), ALL, "input"),
    (embedding(input=["a", " \n"]), ALL, "input"),
    (embedding(input=["x"] * (INPUTS_MAX + 1)), ALL, "input"),
    (embedding(dimensions=10), ALL, "dimensions"),
]


@pytest.mark.parametrize(
    ("request_", "caps", "param"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_cannot_be_done_is_refused_by_name(request_: Any, caps: Caps, param: str) -> None:
    with pytest.raises(BadRequest) as told:
        request_.refuse_unsupported(caps)
    assert told.value.param == param and param in str(told.value) and told.value.code == "unsupported_parameter"


@pytest.mark.parametrize(
    "request_", [REFUSED[index][0] for index in (0, 1, 2, 3, 4, 5, 7, 12, 13, 14, 24)], ids=lambda _: ""
)
def test_the_same_is_done_where_the_engine_can(request_: Any) -> None:
    request_.refuse_unsupported(ALL)


@pytest.mark.parametrize("ask", [chat, completion])
@pytest.mark.parametrize("token", ["100", "999999999", "4294967301", "9" * 5000, "-1", "1.5", "word", "٣", "", " 5"])
def test_a_bias_is_for_a_token_that_the_model_has(ask: Any, token: str) -> None:
    caps = without(vocabulary=100)
    with pytest.raises(BadRequest, match="100 tokens, with ids from 0 to 99") as told:
        ask(logit_bias={"0": 1, "99": -100, token: 1}).refuse_unsupported(caps)
    assert (told.value.param, told.value.code) == ("logit_bias", "invalid_value")
    assert repr(token[:40]) in str(told.value)
    ask(logit_bias={"0": 1, "99": -100}).refuse_unsupported(caps)


@pytest.mark.parametrize(("token", "passes"), [("999999999", True), ("4294967301", False), ("-1", False), ("word", False)])
def test_where_nobody_knows_the_vocabulary_a_bias_is_for_a_number(token: str, passes: bool) -> None:
    if passes:
        return completion(logit_bias={token: 1}).refuse_unsupported(ALL)
    with pytest.raises(BadRequest, match="whole numbers from 0"):
        completion(logit_bias={token: 1}).refuse_unsupported(ALL)
    return None


@pytest.mark.parametrize("bias", [100.5, -101, 1e300, "5", None, True])
def test_a_bias_is_a_number_from_minus_100_to_100(bias: Any) -> None:
    body = json.dumps({"model": "m", "prompt": "p", "logit_bias": {"5": bias}}).encode()
    with pytest.raises(BadRequest, match="logit_bias") as told:
        decoding.decode(msgspec.json.Decoder(CompletionRequest), body)
    assert (told.value.param, told.value.code) == ("logit_bias", "invalid_value")


DONE: dict[str, Any] = {
    "temperature": 0.3,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.1,
    "frequency_penalty": 1,
    "presence_penalty": -1,
    "seed": 5,
    "stop": ["a"],
    "logit_bias": {"5": 2.0},
}
CHAT_ONLY: dict[str, Any] = {
    "logprobs": True,
    "top_logprobs": 2,
    "response_format": SCHEMA,
    "tools": [TOOL],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "verbosity": "low",
}
WITHOUT_EFFECT = {
    "user": "u",
    "metadata": {"a": "b"},
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "service_tier": "auto",
    "store": False,
}


def test_everything_that_is_taken_reaches_the_engine_or_is_known_to_have_no_effect() -> None:
    """No field of the types may be forgotten between the caller and the engine."""
    own = {
        "model",
        "messages",
        "prompt",
        "stream",
        "stream_options",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "modalities",
    }
    refused = {"echo", "suffix", "best_of"}
    assert {field.name for field in msgspec.structs.fields(ChatRequest)} == own - {"prompt"} | set(DONE) | set(
        CHAT_ONLY
    ) | set(WITHOUT_EFFECT)
    plain = {field.name for field in msgspec.structs.fields(CompletionRequest)}
    assert plain == own - {"messages", "max_completion_tokens", "modalities"} | set(DONE) | set(
        WITHOUT_EFFECT
    ) | refused | {"logprobs"}
    (work,) = chat(**DONE, **CHAT_ONLY, **WITHOUT_EFFECT).engine_calls(
        "engine-name", ALL, 17, stream=False, defaults={}
    )
    sent = json.loads(work.body)
    assert {name: sent[name] for name in DONE | CHAT_ONLY} == DONE | CHAT_ONLY
    assert not set(WITHOUT_EFFECT) & set(sent), "who asked is nobody's business behind the gateway"
    assert (sent["model"], sent["max_tokens"], sent["messages"]) == ("engine-name", 17, [HI])


@pytest.mark.parametrize("stop", ["", [""], ["a", ""]])
def test_a_stop_that_every_answer_begins_with_is_refused(stop: Any) -> None:
    """The engine would answer nothing, and that is paid."""
    with pytest.raises(msgspec.ValidationError, match="stop"):
        msgspec.convert({"model": "m", "messages": [HI], "stop": stop}, ChatRequest)


def test_the_models_defaults_give_way_to_the_caller() -> None:
    defaults = {"temperature": 0.2, "top_p": 0.9}
    (work,) = chat(temperature=0).engine_calls("m", ALL, 5, stream=False, defaults=defaults)
    sent = json.loads(work.body)
    assert sent["temperature"] == 0 and sent["top_p"] == 0.9


def test_streams_ask_the_engine_for_usage_and_timings() -> None:
    (work,) = chat().engine_calls("m", ALL, 5, stream=True, defaults={})
    sent = json.loads(work.body)
    assert (
        sent["stream"] is True
        and sent["stream_options"] == {"include_usage": True}
        and sent["timings_per_token"] is True
    )
    (work,) = chat().engine_calls("m", without(token_timings=False), 5, stream=True, defaults={})
    assert "timings_per_token" not in json.loads(work.body)


def test_each_choice_is_a_call_with_a_seed_of_its_own() -> None:
    bodies = [json.loads(work.body) for work in chat(n=3, seed=40).engine_calls("m", ALL, 5, stream=True, defaults={})]
    assert [body["seed"] for body in bodies] == [40, 41, 42] and all("n" not in body for body in bodies)
    works = completion(prompt=["a", "b"], n=2).engine_calls("m", ALL, 5, stream=True, defaults={})
    assert [json.loads(work.body)["prompt"] for work in works] == ["a", "a", "b", "b"]
    assert completion(prompt=["a", "b"], n=2).answers == 4


@pytest.mark.parametrize("seed", [2**63 - 1, 2**32 - 2, -1, -(2**63), 0])
def test_any_seed_is_one_the_engine_knows_and_never_the_one_that_means_any(seed: int) -> None:
    bodies = [
        json.loads(work.body) for work in chat(n=3, seed=seed).engine_calls("m", ALL, 5, stream=True, defaults={})
    ]
    assert all(0 <= body["seed"] < 2**32 - 1 for body in bodies) and len({body["seed"] for body in bodies}) == 3


def test_messages_reach_the_engine_as_it_knows_them() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = chat(
        messages=[
            {"role": "developer", "content": "d"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "x", "name": "n"},
        ]
    )
    plain = json.loads(msgspec.json.encode(request.plain_messages()))
    assert plain == [
        {"role": "system", "content": "d"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "x", "name": "n"},
    ]


def test_tool_calls_of_earlier_answers_are_passed_on() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    request = chat(
        messages=[
            HI,
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "7"},
        ]
    )
    request.refuse_unsupported(ALL)
    assert json.loads(msgspec.json.encode(request.plain_messages()))[1]["tool_calls"] == calls
    for broken in (
        [{}],
        [{"type": "function"}],
        [{"type": "function", "function": {"name": 5}}],
        [{"type": "odd", "function": {"name": "f"}}],
    ):
        with pytest.raises(msgspec.ValidationError):
            chat(messages=[{"role": "assistant", "content": None, "tool_calls": broken}])


@given(st.text(max_size=200), st.lists(st.text(max_size=30), max_size=5))
def test_the_bound_on_input_is_at_least_its_bytes(text: str, more: list[str]) -> None:
    text, *rest = (one.encode("utf-8", "ignore").decode() for one in (text, *more))
    size = len(text.encode()) + sum(len(one.encode()) for one in rest)
    messages = [{"role": "user", "content": one} for one in (text, *rest)]
    assert chat(messages=messages).input_bytes() >= size
    assert completion(prompt=[text, *rest]).input_bytes() >= size
    assert embedding(input=[text, *rest]).input_bytes() >= size
    assert chat(tools=[TOOL]).input_bytes() > chat().input_bytes()


BOUNDS: list[tuple[str, float, float]] = [
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("frequency_penalty", -2, 2),
    ("presence_penalty", -2, 2),
    ("n", 1, CHOICES_MAX),
    ("max_tokens", 1, 10_000_000),
    ("top_logprobs", 0, 20),
    ("top_k", 0, 100_000),
]


@pytest.mark.parametrize(("name", "low", "high"), BOUNDS)
def test_bounds_hold_on_both_sides(name: str, low: float, high: float) -> None:
    for good in (low, high):
        chat(**{name: good})
    step = 1 if isinstance(low, int) and high > 2 else 0.001
    for bad in (low - step, high + step, "x", [], True if name in ("n", "top_k") else {}):
        with pytest.raises(msgspec.ValidationError):
            chat(**{name: bad})


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest, EmbeddingRequest])
def test_unknown_names_are_refused_not_ignored(kind: type[Generation]) -> None:
    body = {"model": "m", "messages": [HI], "prompt": "p", "input": "x"}
    known = {field.name for field in msgspec.structs.fields(kind)}
    good = {name: value for name, value in body.items() if name in known}
    msgspec.convert(good, kind)
    with pytest.raises(msgspec.ValidationError, match="unknown field `functions`"):
        msgspec.convert(good | {"functions": []}, kind)


def test_max_completion_tokens_goes_before_max_tokens() -> None:
    assert chat(max_tokens=5, max_completion_tokens=3).output_max == 3
    assert chat(max_tokens=5).output_max == 5 and chat().output_max is None
