"""Batches through the unmodified openai client: answered, billed at the batch's price, cancelled, refused with every problem."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from tests.clients import buying
from tests.clients.open_shop import CHAT, EMBED, OpenShop
from tollway.kit.settings import Settings
from tollway.sell import api_keys, catalog, tables, usage
from tollway.shop import Shop

CHEAP = catalog.Terms(
    overage="wallet",
    charges=(
        catalog.Charge(meter="input_tokens", price_micros=1_000_000, included=10_000),
        catalog.Charge(meter="output_tokens", price_micros=2_000_000),
    ),
)
ENDED = ("completed", "failed", "expired", "cancelled")


def row(number: int, url: str = "/v1/embeddings", **body: Any) -> dict[str, Any]:
    return {"custom_id": f"c{number}", "method": "POST", "url": url, "body": body}


def embedding(number: int) -> dict[str, Any]:
    return row(number, model=EMBED, input=f"text number {number}")


def lines(rows: list[Any]) -> bytes:
    return b"\n".join(json.dumps(one, ensure_ascii=False).encode() for one in rows)


class Buyer(buying.Buyer):
    terms, purpose = CHEAP, "batch"

    def upload(self, content: bytes) -> Any:
        return self.send(content, "calls.jsonl")

    def begin(self, rows: list[Any], endpoint: Any = "/v1/embeddings", **more: Any) -> Any:
        file = self.upload(lines(rows))
        return self.client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)

    def ended(self, batch_id: str, within_s: float = 400) -> Any:
        end = time.monotonic() + within_s
        while (found := self.client.batches.retrieve(batch_id)).status not in ENDED and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def read(self, file_id: str | None) -> list[Any]:
        assert file_id is not None
        return [json.loads(line) for line in self.client.files.content(file_id).text.splitlines()]


@pytest.fixture
def buyer(open_shop: OpenShop) -> Iterator[Buyer]:
    one = Buyer(open_shop)
    yield one
    one.close()


@pytest.fixture
def other(open_shop: OpenShop) -> Iterator[Buyer]:
    one = Buyer(open_shop)
    yield one
    one.close()


def test_a_batch_is_answered_and_costs_half(buyer: Buyer, other: Buyer) -> None:
    rows = [embedding(number) for number in range(30)]
    rows[7]["body"]["dimensions"] = 5  # this model has no fewer: a call that is refused
    rows[9]["body"]["model"] = CHAT
    made = buyer.begin(rows, metadata={"why": "test"})
    assert (made.object, made.status, made.endpoint, made.metadata) == (
        "batch", "validating", "/v1/embeddings", {"why": "test"},
    )  # fmt: skip
    assert made.expires_at is not None and made.expires_at - made.created_at == 24 * 3600
    done = buyer.ended(made.id)
    assert done.status == "completed", done
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (30, 28, 2)
    answers = buyer.read(done.output_file_id)
    assert sorted(one["custom_id"] for one in answers) == sorted(f"c{n}" for n in range(30) if n not in (7, 9))
    alone = buyer.client.embeddings.create(model=EMBED, input="text number 3", encoding_format="float")
    third = next(one for one in answers if one["custom_id"] == "c3")
    assert third["error"] is None and third["response"]["status_code"] == 200
    mine = third["response"]["body"]["data"][0]["embedding"]
    assert sum(a * b for a, b in zip(mine, alone.data[0].embedding, strict=True)) > 0.999
    refused = {one["custom_id"]: one["response"] for one in buyer.read(done.error_file_id)}
    assert refused.keys() == {"c7", "c9"}
    assert all(one["status_code"] == 400 and one["body"]["error"]["message"] for one in refused.values())
    used = buyer.totals()
    single = alone.usage.prompt_tokens
    assert used.requests == 29
    assert used.price_picos == (used.input_tokens + used.cached_tokens - single) * 500_000, "half, and nothing free"
    request_id = third["response"]["request_id"]
    with Shop.open(Settings(buyer.shop.home, environment={})) as shop, shop.db.read() as conn:
        assert usage.find_event(conn, request_id, buyer.customer.org_id).tier == "batch"
    assert [one.id for one in buyer.client.batches.list()] == [made.id]
    assert not list(other.client.batches.list())
    for act in (other.client.batches.retrieve, other.client.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            act(made.id)
    with pytest.raises(openai.NotFoundError):
        other.client.files.content(str(done.output_file_id))
    assert {one.purpose for one in buyer.client.files.list()} == {"batch", "batch_output"}


def test_chats_in_a_batch(buyer: Buyer) -> None:
    ask = [{"role": "user", "content": "Say one word."}]
    rows = [row(n, "/v1/chat/completions", model=CHAT, messages=ask, max_tokens=4, temperature=0) for n in range(3)]
    done = buyer.ended(buyer.begin(rows, "/v1/chat/completions").id)
    assert done.status == "completed"
    for one in buyer.read(done.output_file_id):
        body = one["response"]["body"]
        assert body["choices"][0]["message"]["content"] and body["model"] == CHAT
        assert 0 < body["usage"]["completion_tokens"] <= 4


@pytest.mark.usefixtures("alone")
def test_who_comes_in_person_and_a_batch_of_chats_share_an_engine(buyer: Buyer, other: Buyer) -> None:
    """Twelve calls that come at once beside a batch of twenty: all are answered in full, each at its own price. Who goes first is
    the line's to show (tests/serve/test_line_fairness.py), where nobody's speed decides."""
    asked = [
        {"messages": [{"role": "user", "content": f"Tell a story about the number {number}."}], "max_tokens": 24, "temperature": 0}
        for number in range(32)
    ]
    rows = [row(number, "/v1/chat/completions", model=CHAT, **body) for number, body in enumerate(asked[:20])]
    made = buyer.begin(rows, "/v1/chat/completions")
    while buyer.totals().requests < 1:  # it is at work
        time.sleep(0.05)
    with ThreadPoolExecutor(12) as callers:
        live = list(callers.map(lambda body: other.client.chat.completions.create(model=CHAT, **body), asked[20:]))
    done = buyer.ended(made.id)
    assert (done.status, done.request_counts.completed) == ("completed", 20)
    answers = buyer.read(done.output_file_id)
    assert sorted(one["custom_id"] for one in answers) == sorted(f"c{number}" for number in range(20))
    for body in [one["response"]["body"] for one in answers] + [one.model_dump() for one in live]:
        assert body["choices"][0]["message"]["content"] and body["choices"][0]["finish_reason"] in ("stop", "length")
    mine, theirs = buyer.totals(), other.totals()
    assert mine.price_picos == 500_000 * (mine.input_tokens + mine.cached_tokens + 2 * mine.output_tokens), "half"
    assert theirs.price_picos == 2_000_000 * theirs.output_tokens, "the plan includes what so few calls read"
    with Shop.open(Settings(buyer.shop.home, environment={})) as shop, shop.db.read() as conn:
        event = tables.usage_event.c
        tiers = Counter(tuple(one) for one in conn.execute(sa.select(event.org_id, event.tier)))
    assert (tiers[buyer.customer.org_id, "batch"], tiers[buyer.customer.org_id, ""]) == (20, 0)
    assert (tiers[other.customer.org_id, "batch"], tiers[other.customer.org_id, ""]) == (0, 12)


def test_a_key_that_is_revoked_ends_what_its_batch_may_spend(buyer: Buyer) -> None:
    ask = [{"role": "user", "content": "Say ten words."}]
    body = {"model": CHAT, "messages": ask, "max_tokens": 24, "temperature": 0}
    rows = [row(n, "/v1/chat/completions", **body) for n in range(400)]  # far more than are answered until it is revoked
    made = buyer.begin(rows, "/v1/chat/completions")
    with Shop.open(Settings(buyer.shop.home, environment={})) as shop, shop.db.write() as conn:
        pepper, org_id = shop.secrets.pepper, buyer.customer.org_id
        own = api_keys.list_keys(conn, org_id)[0]
        other = api_keys.issue_key(conn, shop.clock.now_ms(), pepper, org_id, "another").secret
        api_keys.revoke_key(conn, shop.clock.now_ms(), own.id)
    buyer.shop.wait_for_key(other)
    buyer.client = openai.OpenAI(base_url=buyer.shop.base_url, api_key=other, max_retries=0)
    done = buyer.ended(made.id)
    assert done.status == "completed" and done.request_counts.failed > 50, done
    refused = buyer.read(done.error_file_id)
    assert {one["response"]["body"]["error"]["code"] for one in refused} == {"key_revoked"}
    assert buyer.totals().requests == done.request_counts.completed


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"custom_id": "a"}], 'its "method" is not "POST"'),
        ([embedding(1), embedding(1)], "its custom_id 'c1' is that of the 1. call"),
        ([embedding(1), row(2, "/v1/completions", model=CHAT, prompt="x")], "its url is /v1/completions, not /v1/emb"),
        ([row(1, "/v1/files", model=EMBED)], 'its "url" is none of'),
        ([row(1, model=EMBED, input="x", stream=True)], "cannot stream"),
        ([row(1, input="x")], 'names no "model"'),
        ([embedding(1) | {"priority": "high"}], "the field 'priority' is not known"),
        (["text"], "it is no object"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_batch_is_refused(rows: list[Any], says: str, buyer: Buyer) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        buyer.upload(lines(rows))
    assert says in refused.value.message
    assert not list(buyer.client.files.list())


def test_all_problems_of_a_file_are_named_together(buyer: Buyer) -> None:
    hostile = lines([embedding(1), embedding(1)]) + b"\nnot json\n" + lines([row(5, model=EMBED, stream=True)])
    with pytest.raises(openai.BadRequestError) as refused:
        buyer.upload(hostile)
    assert all(f"line {number}:" in refused.value.message for number in (2, 3, 4))
    many = b"\n".join(b'{"custom_id":"%d"}' % number for number in range(50_001))
    with pytest.raises(openai.BadRequestError) as refused:
        buyer.upload(many)
    assert "50,001 lines are more than 50,000" in refused.value.message


def test_what_cannot_be_a_batch_is_said_at_once(buyer: Buyer, other: Buyer) -> None:
    mine, theirs = buyer.upload(lines([embedding(1)])), other.upload(lines([embedding(1)]))
    create = buyer.client.batches.create
    for file_id, endpoint, kind, says in (
        (mine.id, "/v1/chat/completions", openai.BadRequestError, "not /v1/chat/completions as for the batch"),
        (mine.id, "/v1/responses", openai.BadRequestError, "endpoint"),
        (theirs.id, "/v1/embeddings", openai.NotFoundError, "no file"),
        ("file_x", "/v1/embeddings", openai.NotFoundError, "no file"),
        (buyer.upload(lines([row(1, model="gpt-9", input="x")])).id, "/v1/embeddings", openai.NotFoundError, "gpt-9"),
    ):
        with pytest.raises(kind) as refused:
            create(input_file_id=file_id, endpoint=endpoint, completion_window="24h")  # type: ignore[arg-type]
        assert says in str(refused.value)
    with pytest.raises(openai.BadRequestError):
        create(input_file_id=mine.id, endpoint="/v1/embeddings", completion_window="1h")  # type: ignore[arg-type]
    for metadata in ({"k" * 65: "x"}, {"": "x"}, {"k": "v" * 513}, {str(n): "x" for n in range(17)}):
        with pytest.raises(openai.BadRequestError):
            create(input_file_id=mine.id, endpoint="/v1/embeddings", completion_window="24h", metadata=metadata)
    assert not list(buyer.client.batches.list())


def test_a_batch_can_be_cancelled_and_what_was_answered_is_kept(buyer: Buyer) -> None:
    ask = [{"role": "user", "content": "Count as far as you can."}]
    body = {"model": CHAT, "messages": ask, "max_tokens": 24, "temperature": 0}
    rows = [row(n, "/v1/chat/completions", **body) for n in range(200)]
    made = buyer.begin(rows, "/v1/chat/completions")
    with pytest.raises(openai.ConflictError):
        buyer.client.files.delete(made.input_file_id)
    end = time.monotonic() + 300
    while buyer.client.batches.retrieve(made.id).request_counts.completed == 0 and time.monotonic() < end:  # type: ignore[union-attr]
        time.sleep(0.05)
    assert buyer.client.batches.cancel(made.id).status in ("cancelling", "cancelled")
    done = buyer.ended(made.id)
    assert (done.status, done.error_file_id) == ("cancelled", None)
    answered = buyer.read(done.output_file_id)
    assert 0 < len(answered) == done.request_counts.completed < 200
    assert buyer.totals().requests == len(answered)
    with pytest.raises(openai.ConflictError):
        buyer.client.batches.cancel(made.id)


def test_without_money_the_lines_say_so(open_shop: OpenShop) -> None:
    poor = Buyer(open_shop, wallet_micros=1)
    done = poor.ended(poor.begin([embedding(n) for n in range(5)]).id)
    assert done.request_counts.failed >= 4
    codes = {one["response"]["body"]["error"]["code"] for one in poor.read(done.error_file_id)}
    assert codes == {"insufficient_funds"}
    poor.http.close()


class BySpeech(Buyer):
    terms = catalog.Terms(
        overage="wallet", unpriced="refuse", charges=(catalog.Charge(meter="characters", price_micros=1_000_000),)
    )


def test_a_batch_for_a_model_without_a_price_is_refused_when_it_is_made(open_shop: OpenShop) -> None:
    buyer = BySpeech(open_shop)
    with pytest.raises(openai.PermissionDeniedError, match="no price for this use of the model") as told:
        buyer.begin([embedding(number) for number in range(2)])
    assert told.value.code == "model_not_priced" and list(buyer.client.batches.list()) == []
    buyer.close()
