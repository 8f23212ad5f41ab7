"""`/v1/responses` through the unmodified OpenAI client, on the real chat model."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.clients.open_shop import CHAT, EMBED, FREE, OpenShop
from tollway.faces.http.response_words import ResponsesRequest
from tollway.faces.http.responses import Telling

pytestmark = [pytest.mark.engine, pytest.mark.clients]


@pytest.fixture(scope="module")
def client(open_shop: OpenShop) -> Iterator[openai.OpenAI]:
    key = open_shop.customer(FREE).key
    with openai.OpenAI(base_url=open_shop.base_url, api_key=key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def plain(client: openai.OpenAI, open_shop: OpenShop) -> Iterator[httpx.Client]:
    with open_shop.http(client.api_key) as made:
        yield made


def test_a_response_says_what_a_chat_says(client: openai.OpenAI, alone: None) -> None:
    chat = client.chat.completions.create(
        model=CHAT, temperature=0, max_tokens=12,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}],
    )  # fmt: skip
    made = client.responses.create(
        model=CHAT, temperature=0, max_output_tokens=12, instructions="Be brief.", input="Name a colour."
    )
    assert made.output_text == chat.choices[0].message.content
    assert made.id.startswith("resp_") and made.object == "response"
    assert chat.usage is not None and made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens) == (
        chat.usage.prompt_tokens,
        chat.usage.completion_tokens,
    )
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    expected = "incomplete" if chat.choices[0].finish_reason == "length" else "completed"
    assert made.status == made.output[0].status == expected  # type: ignore[union-attr]


def test_a_response_that_is_cut_off_says_so(client: openai.OpenAI) -> None:
    made = client.responses.create(model=CHAT, max_output_tokens=2, temperature=0, input="Tell me a long story.")
    assert made.status == "incomplete"
    assert made.incomplete_details is not None and made.incomplete_details.reason == "max_output_tokens"
    assert made.usage is not None and made.usage.output_tokens == 2
    assert [(one.type, one.status) for one in made.output] == [("message", "incomplete")]  # type: ignore[union-attr]
    events: Any = list(
        client.responses.create(model=CHAT, max_output_tokens=2, temperature=0, input="Tell me a long story.", stream=True)
    )
    assert [event.item.status for event in events if event.type == "response.output_item.added"] == ["in_progress"]
    assert [event.item.status for event in events if event.type == "response.output_item.done"] == ["incomplete"]
    assert events[-1].type == "response.incomplete" and events[-1].response.output[0].status == "incomplete"


def test_a_conversation_is_sent_as_items(client: openai.OpenAI, alone: None) -> None:
    items: Any = [
        {"role": "developer", "content": "Be brief."},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Name a "}, {"type": "input_text", "text": "colour."}],
        },
    ]
    first = client.responses.create(model=CHAT, temperature=0, max_output_tokens=8, input=items)
    same = client.responses.create(
        model=CHAT, temperature=0, max_output_tokens=8, instructions="Be brief.", input="Name a colour."
    )
    assert first.output_text == same.output_text
    items += [one.to_dict() for one in first.output]  # as clients go on when nothing is stored
    items.append({"role": "user", "content": "Another one."})
    second = client.responses.create(model=CHAT, temperature=0, max_output_tokens=8, input=items)
    assert second.usage is not None and first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


def test_the_events_of_a_stream_build_the_same_response(client: openai.OpenAI, alone: None) -> None:
    ask: dict[str, Any] = {"model": CHAT, "temperature": 0, "max_output_tokens": 12, "input": "Name a colour."}
    whole = client.responses.create(**ask)
    events = list(client.responses.create(**ask, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    opening = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert kinds[:4] == opening
    closing = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert kinds[-4:-1] == closing and kinds[-1] in ("response.completed", "response.incomplete")
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    last: Any = events[-1]
    assert last.response.output_text == whole.output_text and last.response.usage == whole.usage.model_copy(
        update={"input_tokens_details": last.response.usage.input_tokens_details}  # the second found a warm cache
    )
    with client.responses.stream(**ask | {"max_output_tokens": 300}) as stream:  # it ends by itself
        assert stream.get_final_response().output_text.startswith(whole.output_text)


def test_an_answer_is_held_to_a_form(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    form: Any = {"format": {"type": "json_schema", "name": "colour", "schema": schema}}
    made = client.responses.create(model=CHAT, temperature=0, input="Name a colour.", max_output_tokens=40, text=form)
    assert json.loads(made.output_text)["colour"] in ("red", "blue")


def test_functions_are_asked_for_as_items_of_their_own() -> None:
    asked = ResponsesRequest(model="m", input="x")
    telling = Telling(asked, "1", 0)
    chunks: list[dict[str, Any]] = [
        {"index": 0, "id": "call_a", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": '"Bern"}'}},
        {"index": 1, "id": "call_b", "function": {"name": "time", "arguments": "{}"}},
    ]
    group = [json.dumps({"choices": [{"delta": {"tool_calls": [one]}}]}).encode() for one in chunks]
    events = [*telling.begun(), *telling.told([*group, b"[DONE]"]), *telling.ended()]
    done = events[-1]["response"]["output"]
    assert [(one["type"], one["call_id"], one["name"], one["arguments"]) for one in done] == [
        ("function_call", "call_a", "weather", '{"city":"Bern"}'), ("function_call", "call_b", "time", "{}"),
    ]  # fmt: skip
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(deltas) == '{"city":"Bern"}{}'


def test_one_item_is_over_before_the_next_one_begins() -> None:
    """As OpenAI's streams are: a client may show an item when it is done. Cut off is what was being said last."""
    telling = Telling(ResponsesRequest(model="m", input="x"), "1", 0)
    deltas: list[dict[str, Any]] = [
        {"content": "Let me "}, {"content": "see."},
        {"tool_calls": [{"index": 0, "id": "call_a", "function": {"name": "weather", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 1, "id": "call_b", "function": {"name": "time", "arguments": '{"zo'}}]},
    ]  # fmt: skip
    group = [json.dumps({"choices": [{"delta": one}]}).encode() for one in deltas]
    group.append(b'{"choices": [{"delta": {}, "finish_reason": "length"}]}')
    events = [*telling.begun(), *telling.told(group), *telling.ended()]
    assert [(event["type"].removeprefix("response."), event.get("output_index")) for event in events] == [
        ("created", None), ("in_progress", None),
        ("output_item.added", 0), ("content_part.added", 0), ("output_text.delta", 0), ("output_text.delta", 0),
        ("output_text.done", 0), ("content_part.done", 0), ("output_item.done", 0),
        ("output_item.added", 1), ("function_call_arguments.delta", 1), ("function_call_arguments.done", 1),
        ("output_item.done", 1),
        ("output_item.added", 2), ("function_call_arguments.delta", 2), ("function_call_arguments.done", 2),
        ("output_item.done", 2),
        ("incomplete", None),
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    output = events[-1]["response"]["output"]
    assert [one["status"] for one in output] == ["completed", "completed", "incomplete"]
    assert output == [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert output[0]["content"][0]["text"] == "Let me see." and output[2]["arguments"] == '{"zo'


def test_what_is_said_behind_a_call_is_an_item_of_its_own() -> None:
    telling = Telling(ResponsesRequest(model="m", input="x"), "1", 0)
    call = {"tool_calls": [{"index": 0, "id": "call_a", "function": {"name": "weather", "arguments": "{}"}}]}
    group = [json.dumps({"choices": [{"delta": one}]}).encode() for one in ({"content": "a"}, call, {"content": "b"})]
    output = [*telling.told(group), *telling.ended()][-1]["response"]["output"]
    assert [one["type"] for one in output] == ["message", "function_call", "message"]
    assert len({one["id"] for one in output}) == 3 and output[2]["content"][0]["text"] == "b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"), ("conversation", "conv_1"), ("background", True), ("truncation", "auto"),
        ("include", ["reasoning.encrypted_content"]), ("prompt", {"id": "p"}), ("max_tool_calls", 1), ("top_logprobs", 2),
        ("colour", "red"), ("max_output_tokens", 0), ("temperature", 3),
    ],
)  # fmt: skip
def test_what_is_not_done_is_refused_by_name(plain: httpx.Client, name: str, value: Any) -> None:
    answer = plain.post("/v1/responses", json={"model": CHAT, "input": "hi", name: value})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == name


def test_items_that_have_no_place_in_a_chat_are_refused_by_their_place(plain: httpx.Client) -> None:
    picture = {"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/a.png"}]}
    cases = [
        ([picture], "input[0].content"),
        ([{"role": "user", "content": "a"}, {"type": "web_search_call"}], "input[1].type"),
        ([{"role": "king", "content": "a"}], "input[0].role"),
        ([{"role": "user", "content": "a", "colour": 1}], "input[0].colour"),
        ([{"type": "function_call_output", "output": "x"}], "input[0].call_id"),
        ([{"type": "function_call", "call_id": 5, "name": "x"}], "input[0]"),
    ]
    for items, param in cases:
        answer = plain.post("/v1/responses", json={"model": CHAT, "input": items})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert plain.post("/v1/responses", json={"model": CHAT, "input": []}).status_code == 400
    assert plain.post("/v1/responses", json={"model": EMBED, "input": "x"}).json()["error"]["param"] == "model"
    tools = [{"type": "web_search"}]
    refused = plain.post("/v1/responses", json={"model": CHAT, "input": "x", "tools": tools})
    assert refused.json()["error"]["param"] == "tools[0].type"
    assert (
        plain.post(
            "/v1/responses", json={"model": CHAT, "input": "x", "store": True, "max_output_tokens": 1}
        ).status_code
        == 200
    )
