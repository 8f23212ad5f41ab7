"""Folding: what is assembled from a stream is what the engine would have said in one piece; weaving keeps choices apart."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.forge.convert import starter
from tollway.kit.clock import SystemClock
from tollway.serve import fold
from tollway.serve.engines import LlamaCpp
from tollway.serve.replica import Replica
from tollway.serve.requests import ChatRequest, CompletionRequest
from tollway.serve.wire import Pool

HELLO = [{"role": "user", "content": "Say hello in one short sentence."}]
CHATS: list[dict[str, Any]] = [
    {"max_tokens": 20},
    {"max_tokens": 3},
    {"max_tokens": 20, "stop": [" you"]},
    {"max_tokens": 6, "logprobs": True, "top_logprobs": 3},
    {"max_tokens": 40, "response_format": {"type": "json_object"}},
    {"max_tokens": 30, "messages": [{"role": "user", "content": "Répète: 你好 🙂 мир"}]},
    {"max_tokens": 24, "temperature": 1.3, "seed": 99},
]
COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": "One, two, three,", "max_tokens": 8},
    {"prompt": "The sky is", "max_tokens": 8, "logprobs": 2},
    {"prompt": "A B C", "max_tokens": 12, "stop": ["E", "F"]},
    {"prompt": "", "max_tokens": 4},
]


def events_of(text: bytes) -> list[bytes]:
    """The payloads of a finished stream."""
    lines = [block.removeprefix(b"data: ") for block in text.split(b"\n\n") if block.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]"
    return lines[:-1]


def folded(events: list[bytes]) -> fold.Folded:
    """A choice of these events."""
    choice = fold.Folded()
    for event in events:
        choice.add(event)
    return choice


@pytest.mark.engine
async def test_a_folded_stream_is_the_engines_own_answer() -> None:
    weights = starter.locate_smollm2()
    assert weights is not None, "the starter model is not installed: make setup"
    replica = Replica(LlamaCpp(weights, "smol", model_context_tokens=2048, slots=1, context_tokens=2048), SystemClock())
    await replica.start()
    try:
        pool, prefix = Pool(replica.address.url), replica.address.prefix
        for path, cases in (("/chat/completions", CHATS), ("/completions", COMPLETIONS)):
            for case in cases:
                body = {"model": "smol", "temperature": 0, "cache_prompt": False} | case
                body |= {"messages": body.get("messages", HELLO)} if path.startswith("/chat") else {}
                whole = await pool.post(prefix + path, msgspec.json.encode(body))
                assert whole.status == 200, whole.body
                stream = await pool.post(prefix + path, msgspec.json.encode(body | {"stream": True}))
                _same(path, case, msgspec.json.decode(whole.body)["choices"][0], folded(events_of(stream.body)))
        pool.close()
    finally:
        await replica.stop()


def _same(path: str, case: dict[str, Any], said: dict[str, Any], choice: fold.Folded) -> None:
    if path.startswith("/chat"):
        request = ChatRequest(model="m", messages=[], logprobs=case.get("logprobs"))
        ours = choice.chat_choice(0, request)
        assert ours["message"]["content"] == said["message"]["content"], case
        assert ours["message"]["role"] == said["message"]["role"] == "assistant"
        tokens = [entry["token"] for entry in (said.get("logprobs") or {}).get("content") or []]
        assert [entry["token"] for entry in (ours["logprobs"] or {}).get("content") or []] == tokens, case
        assert bool(tokens) is bool(case.get("logprobs"))
    else:
        ours = choice.completion_choice(0, CompletionRequest(model="m", prompt="", logprobs=case.get("logprobs")))
        assert ours["text"] == said["text"], case
        if case.get("logprobs"):
            assert "".join(ours["logprobs"]["tokens"]) == said["text"]
    assert ours["finish_reason"] == said["finish_reason"], case


# -- any stream --------------------------------------------------------------------------------------------------------------


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """A text in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One event of a chat stream."""
    return json.dumps(
        {
            "id": "x",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}],
        }
    ).encode()


@given(st.data(), st.text(), st.text(max_size=20), st.sampled_from(["stop", "length", "tool_calls"]))
def test_pieces_of_any_size_make_the_same_answer(data: st.DataObject, text: str, thought: str, finish: str) -> None:
    text, thought = (one.encode("utf-8", "ignore").decode() for one in (text, thought))
    events = [chunk({"role": "assistant", "content": None})]
    events += [chunk({"reasoning_content": piece}) for piece in data.draw(cut(thought))]
    events += [chunk({"content": piece}) for piece in data.draw(cut(text))]
    events += [chunk({}, finish)]
    message = folded(events).chat_choice(0, ChatRequest(model="m", messages=[]))
    assert message["message"]["content"] == text and message["finish_reason"] == finish
    assert message["message"].get("reasoning_content", "") == thought


CALLS = st.lists(
    st.tuples(
        st.text("abc_", min_size=1, max_size=8), st.dictionaries(st.text("xyz", max_size=3), st.integers(), max_size=3)
    ),
    min_size=1,
    max_size=3,
)


@given(st.data(), CALLS)
def test_tool_calls_are_put_together_by_their_index(
    data: st.DataObject, calls: list[tuple[str, dict[str, int]]]
) -> None:
    lanes = []
    for index, (name, arguments) in enumerate(calls):
        first = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
        lane = [
            first,
            *({"index": index, "function": {"arguments": piece}} for piece in data.draw(cut(json.dumps(arguments)))),
        ]
        lanes.append(lane)
    events = []
    while any(lanes):
        lane = data.draw(st.sampled_from([lane for lane in lanes if lane]))
        events.append(chunk({"tool_calls": [lane.pop(0)]}))
    message = folded([*events, chunk({}, "tool_calls")]).chat_choice(0, ChatRequest(model="m", messages=[]))["message"]
    assert message["content"] is None
    made = [
        (call["id"], call["type"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message["tool_calls"]
    ]
    assert made == [(f"call_{index}", "function", name, arguments) for index, (name, arguments) in enumerate(calls)]


TOKENS = st.lists(st.tuples(st.text(max_size=5), st.floats(-20, 0)), min_size=1, max_size=12)


@given(st.data(), TOKENS)
def test_woven_logprobs_add_up_to_the_folded_ones(data: st.DataObject, tokens: list[tuple[str, float]]) -> None:
    """However a stream is grouped into events, tokens and offsets together are those of the whole answer."""
    request = CompletionRequest(model="m", prompt="p", logprobs=1)
    entries = [
        {"id": 5, "token": token, "logprob": value, "top_logprobs": [{"id": 5, "token": token, "logprob": value}]}
        for token, value in tokens
    ]
    places = sorted({0, len(entries), *data.draw(st.lists(st.integers(0, len(entries)), max_size=5))})
    groups = [entries[start:end] for start, end in itertools.pairwise(places)]
    events = [
        json.dumps(
            {"choices": [{"index": 0, "text": "".join(e["token"] for e in group), "logprobs": {"content": group}}]}
        ).encode()
        for group in groups
    ]
    whole = folded(events).completion_choice(0, request)["logprobs"]
    weave, seen = (
        fold.Weave("call", 7, request),
        {"tokens": [], "token_logprobs": [], "text_offset": [], "top_logprobs": []},
    )
    for event in events:
        shown = json.loads(weave.event(event, 3))
        assert shown["id"] == "cmpl-call" and shown["created"] == 7 and shown["choices"][0]["index"] == 3
        for name, values in shown["choices"][0]["logprobs"].items():
            seen[name] += values
    assert seen == whole


def test_a_whole_answer_has_openais_shape_and_no_token_ids() -> None:
    entry = {
        "id": 9,
        "token": "a",
        "logprob": -1.0,
        "bytes": [97],
        "top_logprobs": [{"id": 9, "token": "a", "logprob": -1.0}],
    }
    choice = folded([chunk({"content": "a"}, "stop", logprobs={"content": [entry]})])
    request = ChatRequest(model="smol", messages=[], logprobs=True)
    made = json.loads(fold.whole(request, [choice, choice], "7", 123, {"prompt_tokens": 1}))
    assert (made["id"], made["object"], made["created"], made["model"]) == (
        "chatcmpl-7",
        "chat.completion",
        123,
        "smol",
    )
    assert [one["index"] for one in made["choices"]] == [0, 1] and made["usage"] == {"prompt_tokens": 1}
    assert "id" not in json.dumps(made["choices"][0]["logprobs"])


def test_an_empty_stream_is_an_empty_answer() -> None:
    assert folded([]).chat_choice(0, ChatRequest(model="m", messages=[]))["message"]["content"] == ""
