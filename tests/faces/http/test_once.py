"""`Idempotency-Key`, as OpenAI's clients send it when they try again: what lasts or moves money is done once. A real gateway."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.proof.house import GatewayProcess, make_customer, offer_upstream, start_gateway

LINE = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
CALLS = json.dumps(LINE | {"body": {"model": "far", "messages": [{"role": "user", "content": "hi"}]}}).encode()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with one model, at an address where nobody listens: its batches wait."""
    home = tmp_path_factory.mktemp("once") / "home"
    started = start_gateway(home, starter=False)
    offer_upstream(home, "far", "http://127.0.0.1:9/v1")
    with closing(client(started)) as buyer:
        until(lambda: buyer.get("/v1/models").json()["data"])
    yield started
    started.stop()


def until(there: Callable[[], Any]) -> None:
    """Wait for a state."""
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline, "the gateway did not take it over"
        time.sleep(0.02)


def client(gateway: GatewayProcess, *scopes: str) -> httpx.Client:
    """A new organization's; its id is in `.params`."""
    name = f"o-{uuid.uuid4().hex[:10]}"
    made = make_customer(gateway.home, wallet_micros=1_000_000, name=name, scopes=scopes or ("inference", "usage"))
    http = httpx.Client(
        base_url=gateway.url,
        headers={"authorization": f"Bearer {made.key}", "x-org": made.org_id},
        timeout=300,
        trust_env=False,
    )
    until(lambda: http.get("/v1/key").status_code != 401)
    return http


@pytest.fixture
def buyer(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with closing(client(gateway)) as made:
        yield made


@pytest.fixture
def operator(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with closing(client(gateway, "admin", "usage")) as made:
        yield made


def once(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


def upload(http: httpx.Client, data: bytes = CALLS, **headers: str) -> httpx.Response:
    return http.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("calls.jsonl", data)}, headers=once(headers["key"])
    )


def refused(answer: httpx.Response, status: int, code: str) -> None:
    error: dict[str, Any] = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code) and set(error) == {"message", "type", "param", "code"}


def test_a_file_that_is_sent_again_is_kept_once_though_its_form_differs(buyer: httpx.Client) -> None:
    first, again = upload(buyer, key="a"), upload(buyer, key="a")
    assert first.status_code == 200 and first.content == again.content
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    assert len(buyer.get("/v1/files").json()["data"]) == 1
    refused(upload(buyer, CALLS + b"\n" + CALLS.replace(b'"1"', b'"2"'), key="a"), 409, "idempotency_key_reused")
    assert upload(buyer, key="b").json()["id"] != first.json()["id"]


def test_a_batch_that_is_asked_for_again_is_the_same_batch(gateway: GatewayProcess, buyer: httpx.Client) -> None:
    file_id = upload(buyer, key="f").json()["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: buyer.post("/v1/batches", json=body, headers=once("b")), range(6)))
    assert {answer.status_code for answer in answers} == {200} and len({answer.json()["id"] for answer in answers}) == 1
    assert len(buyer.get("/v1/batches").json()["data"]) == 1
    refused(
        buyer.post("/v1/batches", json=body | {"metadata": {"a": "b"}}, headers=once("b")),
        409,
        "idempotency_key_reused",
    )
    with closing(client(gateway)) as other:
        refused(other.post("/v1/batches", json=body, headers=once("b")), 404, "file_not_found")
    assert buyer.post("/v1/batches", json=body).json()["id"] != answers[0].json()["id"], (
        "without a key it is another one"
    )


def test_what_was_refused_may_be_tried_again_under_its_key(buyer: httpx.Client) -> None:
    body = {"input_file_id": "file_none", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    refused(buyer.post("/v1/batches", json=body, headers=once("r")), 404, "file_not_found")
    body["input_file_id"] = upload(buyer, key="f").json()["id"]
    assert buyer.post("/v1/batches", json=body, headers=once("r")).status_code == 200


@pytest.mark.parametrize("key", ["x" * 256, "a\tb", "é"])
def test_a_key_that_is_none_is_refused(operator: httpx.Client, buyer: httpx.Client, key: str) -> None:
    sent = [(b"idempotency-key", key.encode())]
    for http, path in ((buyer, "/v1/batches"), (operator, "/admin/plans")):
        body = {"input_file_id": "f", "endpoint": "/v1/completions", "completion_window": "24h"}
        refused(http.post(path, json=body, headers=sent), 400, "invalid_value")


def test_money_is_added_once_by_however_many_at_once(operator: httpx.Client) -> None:
    path = f"/admin/organizations/{operator.headers['x-org']}/wallet"
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: operator.post(path, json={"amount_micros": 500}, headers=once("t")), range(8))
        )
    assert {(answer.status_code, answer.json()["balance_micros"]) for answer in answers} == {(200, 1_000_500)}
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 7
    refused(operator.post(path, json={"amount_micros": 501}, headers=once("t")), 409, "idempotency_key_reused")
    assert operator.post(path, json={"amount_micros": 500}).json()["balance_micros"] == 1_001_000


def test_a_plan_and_an_organization_come_once_and_a_secret_is_not_kept(operator: httpx.Client) -> None:
    name = uuid.uuid4().hex[:8]
    made = [operator.post("/admin/organizations", json={"name": name}, headers=once(name)) for _ in range(2)]
    assert made[0].status_code == 200 and made[0].content == made[1].content
    path = f"/admin/organizations/{made[0].json()['id']}/keys"
    keys = [operator.post(path, json={"name": "k"}, headers=once(name + "k")).json() for _ in range(2)]
    assert keys[0]["secret"] != keys[1]["secret"], "what is shown once is kept nowhere"
