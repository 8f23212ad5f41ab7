"""The unmodified `openai` package for Python: everything this API promises, by changing base URL and key."""

import asyncio
import json
import math
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.open_shop import CHAT, EMBED, FREE, OpenShop
from tollway.sell import catalog

HELLO = [{"role": "user", "content": "Say hello in one short sentence."}]


@pytest.fixture
def client(open_shop: OpenShop) -> Iterator[OpenAI]:
    """The client as its documentation says."""
    with OpenAI(base_url=open_shop.base_url, api_key=open_shop.key, max_retries=0, timeout=300) as made:
        yield made


class Fruit(BaseModel):
    """What a model is made to say."""

    name: str
    ripe: bool


# -- models --------------------------------------------------------------------------------------------------------------


def test_models_are_listed_and_found(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {CHAT, EMBED} <= set(names)
    found = client.models.retrieve(CHAT)
    assert found.id == CHAT and found.object == "model" and found.created > 1_600_000_000


# -- chat ----------------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered_with_its_usage(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=20, temperature=0)
    assert answer.object == "chat.completion" and answer.model == CHAT and answer.id.startswith("chatcmpl-")
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason in ("stop", "length")
    assert answer.usage and 1 <= answer.usage.completion_tokens <= 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI, alone: None) -> None:
    asked = {"model": CHAT, "messages": HELLO, "max_tokens": 24, "temperature": 0, "seed": 7}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage and whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert len({c.id for c in chunks}) == 1, "all chunks of one answer carry one id"
    assert {c.model for c in chunks} == {CHAT} and {c.object for c in chunks} == {"chat.completion.chunk"}
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason


def test_a_stream_with_continuous_usage_counts_on_every_chunk(client: OpenAI) -> None:
    asked = {"model": CHAT, "messages": [{"role": "user", "content": "Count to five."}], "max_tokens": 8, "temperature": 0}
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=options))  # type: ignore[call-overload]
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == chunks[-2].usage.completion_tokens == 8
    assert chunks[0].usage.prompt_tokens == chunks[-1].usage.prompt_tokens > 0


def test_a_stream_without_include_usage_has_none(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=5, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_the_stream_helper_gathers_the_answer(client: OpenAI, alone: None) -> None:
    with client.chat.completions.stream(model=CHAT, messages=HELLO, max_tokens=200, temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in kinds and final.choices[0].message.content


def test_leaving_a_stream_early_is_no_error(client: OpenAI) -> None:
    with client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=200, stream=True) as stream:
        assert next(iter(stream)).choices
    assert client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=1).choices


def test_several_choices(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=12, n=3, temperature=1, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)
    assert len({choice.message.content for choice in answer.choices}) > 1, "each choice has a seed of its own"
    assert answer.usage and 3 <= answer.usage.completion_tokens <= 36


def test_several_choices_streamed(client: OpenAI) -> None:
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=CHAT, messages=HELLO, max_tokens=8, n=2, temperature=0, stream=True, stream_options=options
        )
    )
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts[0] and texts[1] and len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens <= 16


def test_stop_ends_the_answer_before_the_word(client: OpenAI, alone: None) -> None:
    asked = {"model": CHAT, "messages": HELLO, "max_tokens": 24, "temperature": 0}
    text = client.chat.completions.create(**asked).choices[0].message.content or ""
    word = text.split()[2]
    stopped = client.chat.completions.create(**asked, stop=[word]).choices[0]
    assert word not in (stopped.message.content or "") and stopped.finish_reason == "stop"
    assert text.startswith((stopped.message.content or "").rstrip())


def test_a_seed_repeats_the_answer_and_another_does_not(client: OpenAI, alone: None) -> None:
    def say(seed: int) -> str | None:
        asked = {"model": CHAT, "messages": HELLO, "max_tokens": 24, "temperature": 1.5, "seed": seed}
        return client.chat.completions.create(**asked).choices[0].message.content

    assert say(11) == say(11)
    assert len({say(11), say(12), say(13)}) > 1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_answer_is_bounded(client: OpenAI, name: str) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=HELLO, temperature=0, **{name: 3})
    assert answer.usage and answer.usage.completion_tokens == 3 and answer.choices[0].finish_reason == "length"


def test_sampling_parameters_are_taken(client: OpenAI) -> None:
    more = {"top_p": 0.9, "frequency_penalty": 0.5, "presence_penalty": 0.5, "user": "u-1", "metadata": {"a": "b"}}
    answer = client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=4, temperature=0.5, **more)
    assert answer.choices


def test_logit_bias_can_forbid_the_usual_first_word(client: OpenAI) -> None:
    asked = {"model": CHAT, "messages": HELLO, "max_tokens": 1, "temperature": 0}
    first = client.chat.completions.create(**asked, logprobs=True).choices[0]
    assert first.logprobs and first.logprobs.content
    # the id of every token that starts the usual answer is not public; a bias on all low ids changes what comes
    barred = client.chat.completions.create(**asked, logit_bias={str(token): -100 for token in range(20_000)}).choices[
        0
    ]
    assert barred.message.content != first.message.content


@pytest.mark.parametrize("biases", [{"49152": 1}, {"999999999": 1}, {"-1": 1}, {"5": 101}])
def test_a_bias_that_would_do_nothing_is_refused(client: OpenAI, biases: dict[str, int]) -> None:
    with pytest.raises(openai.BadRequestError, match=r"49152 tokens|100") as told:
        client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=1, logit_bias=biases)
    assert (told.value.param, told.value.code) == ("logit_bias", "invalid_value")
    with pytest.raises(openai.BadRequestError, match=r"49152 tokens|100"):
        client.completions.create(model=CHAT, prompt="a", max_tokens=1, logit_bias=biases)


def test_logprobs(client: OpenAI) -> None:
    asked = {"model": CHAT, "messages": HELLO, "max_tokens": 4, "temperature": 0}
    choice = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3).choices[0]
    assert choice.logprobs and choice.logprobs.content
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    for entry in choice.logprobs.content:
        assert entry.logprob <= 0 and bytes(entry.bytes or []).decode(errors="replace") == entry.token
        assert len(entry.top_logprobs) == 3
        assert math.isclose(entry.top_logprobs[0].logprob, entry.logprob, abs_tol=1e-4), "greedy takes the likeliest"


def test_logprobs_in_a_stream(client: OpenAI, alone: None) -> None:
    asked = {"model": CHAT, "messages": HELLO, "max_tokens": 4, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked).choices[0]
    seen = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            seen += (choice.logprobs and choice.logprobs.content) or []
    assert whole.logprobs and [entry.token for entry in seen] == [entry.token for entry in whole.logprobs.content or []]


def test_json_object(client: OpenAI) -> None:
    asked = [{"role": "user", "content": "Name one fruit as a small JSON object."}]
    more = {"max_tokens": 60, "temperature": 0}
    choice = client.chat.completions.create(
        model=CHAT, messages=asked, response_format={"type": "json_object"}, **more
    ).choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)
    else:
        assert (choice.message.content or "").lstrip().startswith("{")


def test_a_schema_is_kept_and_parsed(client: OpenAI) -> None:
    asked = [{"role": "user", "content": "Name one fruit."}]
    answer = client.chat.completions.parse(
        model=CHAT, messages=asked, response_format=Fruit, max_tokens=80, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Fruit)


def test_roles_and_content_parts(client: OpenAI) -> None:
    messages = [
        {"role": "developer", "content": "You are brief."},
        {"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "yes."}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Again."},
    ]
    assert client.chat.completions.create(model=CHAT, messages=messages, max_tokens=4).choices


def test_text_in_every_script(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "请说“你好”。🙂 Grüße, мир — ‎\u202e"}]
    assert (
        client.chat.completions.create(model=CHAT, messages=messages, max_tokens=8).choices[0].message.role
        == "assistant"
    )


async def test_asynchronous_calls_side_by_side(open_shop: OpenShop) -> None:
    async with AsyncOpenAI(base_url=open_shop.base_url, api_key=open_shop.key, max_retries=0, timeout=300) as client:

        async def stream() -> str:
            came = await client.chat.completions.create(
                model=CHAT, messages=HELLO, max_tokens=8, temperature=0, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in came])

        names = [model.id async for model in client.models.list()]
        texts = await asyncio.gather(*(stream() for _ in range(6)))
        vectors = await client.embeddings.create(model=EMBED, input="toll")
    assert CHAT in names and len(vectors.data[0].embedding) == 384
    assert all(texts)


# -- plain completions -----------------------------------------------------------------------------------------------------


def test_completions_of_several_prompts(client: OpenAI) -> None:
    asked = {"model": CHAT, "max_tokens": 6, "temperature": 0}
    answer = client.completions.create(prompt=["One, two, three,", "The sky is"], **asked)
    assert [choice.index for choice in answer.choices] == [0, 1] and answer.object == "text_completion"
    first, second = (choice.text for choice in answer.choices)
    assert first and second and first != second, "each prompt is continued, not the other one"
    assert answer.usage and answer.usage.completion_tokens <= 12
    assert answer.id.startswith("cmpl-")


def test_completions_streamed_with_logprobs(client: OpenAI, alone: None) -> None:
    asked = {"model": CHAT, "prompt": "The sky is", "max_tokens": 6, "temperature": 0, "logprobs": 2}
    whole = client.completions.create(**asked).choices[0]
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.text
    assert whole.logprobs and whole.logprobs.tokens and "".join(whole.logprobs.tokens) == whole.text
    assert whole.logprobs.top_logprobs and all(1 <= len(top) <= 2 for top in whole.logprobs.top_logprobs)
    streamed = [
        token
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.tokens or []
    ]
    offsets = [
        at
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
        for at in choice.logprobs.text_offset or []
    ]
    assert streamed == whole.logprobs.tokens
    assert offsets == whole.logprobs.text_offset, "offsets count from the start of the text, streamed or not"
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 6


# -- embeddings ------------------------------------------------------------------------------------------------------------


def test_embeddings_arrive_as_base64_unless_asked_otherwise(client: OpenAI) -> None:
    texts = ["a toll road", "a paid highway", "raspberry jam"]
    packed = client.embeddings.create(model=EMBED, input=texts)
    plain = client.embeddings.create(model=EMBED, input=texts, encoding_format="float")
    assert [row.index for row in packed.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6) and len(one.embedding) == 384
        assert math.isclose(sum(x * x for x in one.embedding), 1, abs_tol=1e-3)
    road, highway, jam = (row.embedding for row in packed.data)
    assert _dot(road, highway) > _dot(road, jam)
    assert packed.usage.prompt_tokens > 0 and packed.model == EMBED


def test_dimensions_are_the_models_own_or_refused(client: OpenAI) -> None:
    assert client.embeddings.create(model=EMBED, input="x", dimensions=384).data
    with pytest.raises(openai.BadRequestError) as told:
        client.embeddings.create(model=EMBED, input="x", dimensions=10)
    assert told.value.param == "dimensions"


# -- headers -----------------------------------------------------------------------------------------------------------------


def test_raw_answers_carry_request_id_and_limits(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=CHAT, messages=HELLO, max_tokens=2)
    assert raw.headers["x-request-id"].startswith("req_") and raw.parse()._request_id == raw.headers["x-request-id"]
    for what in ("requests", "tokens"):
        limit = int(raw.headers[f"x-ratelimit-limit-{what}"])
        assert 0 <= int(raw.headers[f"x-ratelimit-remaining-{what}"]) < limit
        assert raw.headers[f"x-ratelimit-reset-{what}"].endswith("s")


# -- errors ------------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_an_authentication_error(open_shop: OpenShop) -> None:
    with (
        OpenAI(base_url=open_shop.base_url, api_key="tw_live_nonsense", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as told,
    ):
        stranger.models.list()
    assert told.value.code == "invalid_api_key" and told.value.status_code == 401


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as told:
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert told.value.code == "model_not_found" and told.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": 7}, "temperature"),
        ({"n": 0}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: OpenAI, more: dict[str, object], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        client.chat.completions.create(model=CHAT, messages=HELLO, **more)
    assert told.value.param == param and told.value.type == "invalid_request_error"
    assert param in told.value.message


def test_a_prompt_longer_than_the_context_is_told_so(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "word " * 40_000}])
    assert told.value.code == "context_length_exceeded"


def test_the_wrong_kind_of_model_is_a_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=EMBED, messages=HELLO)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=EMBED, prompt="x")
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=CHAT, input="x")


def test_a_rate_limit_names_the_time_to_wait(open_shop: OpenShop) -> None:
    customer = open_shop.customer(FREE, rpm=1)
    with OpenAI(base_url=open_shop.base_url, api_key=customer.key, max_retries=0) as client:
        client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=1)
        with pytest.raises(openai.RateLimitError) as told:
            client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=1)
    assert told.value.type == "rate_limit_error" and 1 <= int(told.value.response.headers["retry-after"]) <= 61


def test_an_empty_wallet_is_402(open_shop: OpenShop) -> None:
    terms = catalog.Terms(overage="wallet", charges=(catalog.Charge(meter="output_tokens", price_micros=1_000_000),))
    customer = open_shop.customer(terms, wallet_micros=0)
    with (
        OpenAI(base_url=open_shop.base_url, api_key=customer.key, max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as told,
    ):
        client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=50)
    assert told.value.status_code == 402 and told.value.type == "insufficient_quota"
    assert "retry-after" not in told.value.response.headers, "retrying does not help"


def test_a_key_without_the_scope_or_the_model_is_403(open_shop: OpenShop) -> None:
    looking = open_shop.customer(FREE, scopes=("usage",))
    with (
        OpenAI(base_url=open_shop.base_url, api_key=looking.key, max_retries=0) as client,
        pytest.raises(openai.PermissionDeniedError) as told,
    ):
        client.embeddings.create(model=EMBED, input="x")
    assert told.value.code == "missing_scope"
    narrow = open_shop.customer(FREE, models=(EMBED,))
    with OpenAI(base_url=open_shop.base_url, api_key=narrow.key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [EMBED]
        with pytest.raises(openai.PermissionDeniedError) as told:
            client.chat.completions.create(model=CHAT, messages=HELLO)
    assert told.value.code == "model_not_allowed"


def _dot(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))
