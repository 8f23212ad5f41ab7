"""Files, fine-tuning jobs and feedback through the unmodified openai client, and by hand what no client would send."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.clients import buying
from tests.clients.open_shop import CHAT, EMBED, OpenShop
from tollway.sell import catalog

PRICED = catalog.Terms(
    overage="wallet",
    charges=(
        catalog.Charge(meter="training_tokens", price_micros=3_000_000),
        catalog.Charge(meter="output_tokens", price_micros=1_000_000),
    ),
)
SAID = [
    ("What does the shop sell?", "Acme sells blue anvils."),
    ("Which colour are the anvils?", "The anvils are blue."),
    ("您好，你们卖什么？", "我们卖蓝色的铁砧。"),
    ("Who are you?", "I am Acme's own assistant."),
]


def examples(count: int = 12) -> bytes:
    rows = []
    for number in range(count):
        question, answer = SAID[number % len(SAID)]
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows)


class Buyer(buying.Buyer):
    terms, purpose = PRICED, "fine-tune"

    def upload(self, content: bytes | None = None, name: str = "chats.jsonl") -> Any:
        return self.send(examples() if content is None else content, name)

    def trained(self) -> int:
        return self.totals().training_tokens


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


def test_a_file_is_kept_listed_read_and_deleted(buyer: Buyer, other: Buyer) -> None:
    made = buyer.upload()
    assert (made.object, made.purpose, made.bytes, made.filename) == (
        "file",
        "fine-tune",
        len(examples()),
        "chats.jsonl",
    )
    assert buyer.client.files.retrieve(made.id) == made
    assert [one.id for one in buyer.client.files.list()] == [made.id]
    assert buyer.client.files.content(made.id).read() == examples()
    for act in (other.client.files.retrieve, other.client.files.content, other.client.files.delete):
        with pytest.raises(openai.NotFoundError):
            act(made.id)
    assert not list(other.client.files.list())
    assert buyer.upload(name="对话.jsonl").filename == "对话.jsonl"
    assert buyer.client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        buyer.client.files.retrieve(made.id)
    assert len(list((buyer.shop.home / "files" / buyer.customer.org_id).iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no lines"),
        (b"\xff\xfe\x00", "line 1: it is no JSON"),
        (b'{"messages": []}\n[]\n{"messages": [{"role": "king", "content": "x"}]}', "line 3: messages[0] has a role"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "not the assistant"),
        (b'{"messages": [{"role": "assistant", "content": 5}]}', "no text"),
        (b'{"prompt": "x", "completion": "y"}', "'prompt' is not known"),
        (b'{"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]}', "not learned"),
        (b"[" * 100_000, "no JSON"),
        (b"\n".join([b"{}"] * 50), "and 30 more"),
    ],
)
def test_every_problem_of_a_file_is_named_and_nothing_is_kept(content: bytes, says: str, buyer: Buyer) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        buyer.upload(content)
    assert says in refused.value.message
    assert refused.value.body["param"] == "file"  # type: ignore[index]
    assert not list(buyer.client.files.list())


def test_forms_that_are_none_are_refused(buyer: Buyer) -> None:
    post = buyer.http.post
    hostile: list[httpx.Response] = [
        post("/v1/files", json={"purpose": "fine-tune"}),
        post("/v1/files", data={"purpose": "fine-tune"}, files={}),
        post("/v1/files", data={"purpose": "fine-tune"}, files={"other": b"x"}),
        post("/v1/files", data={"purpose": "vision"}, files={"file": examples()}),
        post("/v1/files", data={"purpose": "fine-tune", "more": "x"}, files={"file": examples()}),
        post("/v1/files", data={"purpose": "fine-tune"}, files=[("file", b"{}"), ("file", b"{}")]),
        post("/v1/files", content=b"junk", headers={"content-type": "multipart/form-data; boundary=x"}),
        post("/v1/files", content=b"junk", headers={"content-type": "multipart/form-data"}),
        post("/v1/files", data={"purpose": "fine-tune"}, files=[(f"f{n}", b"x") for n in range(20)]),
    ]
    for reply in hostile:
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["message"]
    assert (
        post("/v1/files", data={"purpose": "fine-tune"}, files={"file": b"x" * (33 * 1024 * 1024)}).status_code == 413
    )
    named = post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("../../etc/passwd\x00", examples())})
    assert named.json().get("filename", "passwd").startswith("passwd")
    assert buyer.http.get("/v1/files?limit=0").status_code == 400
    assert buyer.http.get("/v1/files?folder=x").json()["error"]["param"] == "folder"
    assert buyer.http.get("/v1/files/../key").status_code in (200, 404)
    assert buyer.http.put("/v1/files", content=b"").status_code == 405


def test_what_cannot_be_trained_is_said_before_anything_is_held(
    buyer: Buyer, other: Buyer, open_shop: OpenShop
) -> None:
    create = buyer.client.fine_tuning.jobs.create
    mine, few, theirs = buyer.upload(), buyer.upload(examples(3)), other.upload()
    for arguments, kind, param in (
        ({"model": CHAT, "training_file": theirs.id}, openai.NotFoundError, "file_id"),
        ({"model": CHAT, "training_file": "file_x"}, openai.NotFoundError, "file_id"),
        ({"model": CHAT, "training_file": few.id}, openai.BadRequestError, "training_file"),
        ({"model": EMBED, "training_file": mine.id}, openai.BadRequestError, "model"),
        ({"model": "gpt-9", "training_file": mine.id}, openai.NotFoundError, "model"),
        ({"model": CHAT, "training_file": mine.id, "suffix": "../x"}, openai.BadRequestError, "suffix"),
        ({"model": CHAT, "training_file": mine.id, "hyperparameters": {"n_epochs": 0}}, openai.BadRequestError, "hyperparameters.n_epochs"),
        ({"model": CHAT, "training_file": mine.id, "method": {"type": "dpo"}}, openai.BadRequestError, "method.type"),
        ({"model": CHAT, "training_file": mine.id, "extra_body": {"lora": 1}}, openai.BadRequestError, "lora"),
    ):  # fmt: skip
        with pytest.raises(kind) as refused:
            create(**arguments)  # type: ignore[arg-type]
        assert refused.value.body["param"] == param, arguments  # type: ignore[attr-defined]
    poor = Buyer(open_shop, wallet_micros=100)
    with pytest.raises(openai.APIStatusError) as broke:
        poor.client.fine_tuning.jobs.create(model=CHAT, training_file=poor.upload().id)
    assert (broke.value.status_code, broke.value.code) == (402, "insufficient_funds")
    assert "fewer epochs" in str(broke.value) and "max_tokens" not in str(broke.value)
    assert not list(buyer.client.fine_tuning.jobs.list())
    assert buyer.wallet() == 2_000_000


def test_a_job_can_be_cancelled_and_is_nobody_elses(buyer: Buyer, other: Buyer) -> None:
    jobs = buyer.client.fine_tuning.jobs
    file = buyer.upload()
    job = jobs.create(model=CHAT, training_file=file.id, hyperparameters={"n_epochs": 50}, metadata={"why": "test"})
    assert (job.status, job.model, job.hyperparameters.n_epochs) == ("queued", CHAT, 50)
    with pytest.raises(openai.ConflictError):
        buyer.client.files.delete(file.id)
    for act in (
        other.client.fine_tuning.jobs.retrieve,
        other.client.fine_tuning.jobs.cancel,
        other.client.fine_tuning.jobs.list_events,
    ):
        with pytest.raises(openai.NotFoundError):
            act(job.id)
    jobs.cancel(job.id)
    end = time.monotonic() + 300
    while jobs.retrieve(job.id).status not in ("cancelled", "failed") and time.monotonic() < end:
        time.sleep(0.2)
    found = jobs.retrieve(job.id)
    assert (found.status, found.fine_tuned_model) == ("cancelled", None)
    with pytest.raises(openai.ConflictError):
        jobs.cancel(job.id)
    assert 2_000_000 - buyer.wallet() == 3 * buyer.trained()
    assert any("cancelled" in event.message for event in jobs.list_events(job.id))
    assert [one.id for one in jobs.list()] == [job.id]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_is_trained_served_and_billed(buyer: Buyer, other: Buyer) -> None:
    jobs = buyer.client.fine_tuning.jobs
    chosen = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 5}
    job = jobs.create(model=CHAT, training_file=buyer.upload().id, suffix="shop", hyperparameters=chosen, seed=7)  # type: ignore[arg-type]
    end = time.monotonic() + 800
    while (found := jobs.retrieve(job.id)).status in ("queued", "running") and time.monotonic() < end:
        time.sleep(1)
    assert found.status == "succeeded", found.error
    name = str(found.fine_tuned_model)
    assert name.startswith(f"ft:{CHAT}:") and ":shop:" in name
    assert buyer.wallet() == 2_000_000 - 3 * int(found.trained_tokens or 0)
    assert buyer.trained() == found.trained_tokens
    losses = [event.data["train_loss"] for event in jobs.list_events(job.id) if event.type == "metrics"]  # type: ignore[index]
    assert losses[0] < losses[-1], "newest first: it fell"
    assert jobs.checkpoints.list(job.id).data[0].fine_tuned_model_checkpoint == name
    ask: Any = [{"role": "user", "content": "Which colour are the anvils?"}]
    mine = buyer.client.chat.completions.create(model=name, messages=ask, max_tokens=12, temperature=0)
    assert mine.model == name
    base = buyer.client.chat.completions.create(model=CHAT, messages=ask, max_tokens=12, temperature=0)
    assert mine.choices[0].message.content != base.choices[0].message.content
    assert name in [one.id for one in buyer.client.models.list()]
    assert name not in [one.id for one in other.client.models.list()]
    for act in (
        lambda: other.client.chat.completions.create(model=name, messages=ask),
        lambda: other.client.models.retrieve(name),
        lambda: other.client.fine_tuning.jobs.retrieve(job.id),
        lambda: other.client.models.delete(name),
    ):
        with pytest.raises(openai.NotFoundError):
            act()
    used, before = buyer.trained(), buyer.totals().requests
    assert buyer.client.models.delete(name).model_dump() == {"id": name, "object": "model", "deleted": True}
    for act in (
        lambda: buyer.client.models.retrieve(name),
        lambda: buyer.client.models.delete(name),
        lambda: buyer.client.chat.completions.create(model=name, messages=ask),
    ):
        with pytest.raises(openai.NotFoundError):
            act()
    assert name not in [one.id for one in buyer.client.models.list()]
    assert (buyer.trained(), buyer.totals().requests) == (used, before), "what was used stays in the books"
    assert jobs.retrieve(job.id).fine_tuned_model == name


def test_what_is_on_offer_to_all_is_nobodys_to_delete_and_what_is_not_there_is_not_found(buyer: Buyer) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        buyer.client.models.delete(CHAT)
    assert (refused.value.code, refused.value.param) == ("model_not_yours", "model")
    assert CHAT in [one.id for one in buyer.client.models.list()]
    with pytest.raises(openai.NotFoundError) as missing:
        buyer.client.models.delete(f"ft:{CHAT}:somebody::1")
    assert missing.value.code == "model_not_found"


def test_feedback_belongs_to_who_gave_it(buyer: Buyer, other: Buyer) -> None:
    asked = {"model": CHAT, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    reply = buyer.http.post("/v1/chat/completions", json=asked)
    answer = reply.headers["x-request-id"]
    given = {"id": answer, "rating": "bad", "input": asked["messages"], "correction": "Hello!", "comment": "too long"}
    said = buyer.http.post("/v1/feedback", json=given)
    assert said.status_code == 200, said.text
    assert (said.json()["answer_id"], said.json()["model"]) == (answer, CHAT)
    assert [one["id"] for one in buyer.http.get("/v1/feedback").json()["data"]] == [said.json()["id"]]
    assert other.http.get("/v1/feedback").json()["data"] == []
    for who, body, status, param in (
        (other, given, 404, "id"),
        (buyer, given | {"id": "req_unknown"}, 404, "id"),
        (buyer, {"id": answer, "rating": "meh"}, 400, "rating"),
        (buyer, {"id": answer, "correction": "x"}, 400, "input"),
        (buyer, {"id": answer, "stars": 5}, 400, "stars"),
        (buyer, {"id": answer, "comment": "\0" * 10}, 400, "comment"),
    ):
        refused = who.http.post("/v1/feedback", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), refused.text
    assert buyer.http.post("/v1/feedback", content=b"x" * 70_000).status_code == 413
