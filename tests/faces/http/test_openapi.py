"""`/openapi.json` tells the truth: schemathesis calls every operation with what the document allows and forbids.

No 5xx, no undocumented status, content type or shape, no operation that a wrong key enters. Examples are fixed by their
seed and few; `n`, `max_tokens` and the model are set so that an answer takes milliseconds.
"""

from collections import defaultdict
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks

from tests.clients.open_shop import CHAT, EMBED, FREE, OpenShop

pytestmark = [pytest.mark.engine, pytest.mark.slow]

EXAMPLES = 20
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.ignored_auth,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def keys(fortress: OpenShop) -> dict[str, str]:
    """Headers for callers and operators."""
    both = {"v1": fortress.customer(FREE), "admin": fortress.customer(FREE, scopes=("admin",))}
    return {what: f"Bearer {customer.key}" for what, customer in both.items()}


@pytest.fixture(scope="module")
def document(fortress: OpenShop) -> Any:
    """The schema that the gateway itself hands out."""
    return schemathesis.openapi.from_url(f"{fortress.url}/openapi.json")


@pytest.mark.timeout(1800)  # thousands of calls
def test_every_operation_keeps_its_word(document: Any, keys: dict[str, str], fortress: OpenShop) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 19
    broken, seen = [], defaultdict(set)
    for operation in operations:
        key = keys["admin" if operation.path.startswith("/admin") else "v1"]
        modes = [GenerationMode.POSITIVE]
        if operation.body or operation.query:
            modes.append(GenerationMode.NEGATIVE)
        broken += [
            f"{operation.label}: {told}"
            for mode in modes
            if (told := broken_word(operation, mode, fortress.url, key, seen))
        ]
    assert not broken, "\n\n".join(broken)
    for path in (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/responses",
        "/v1/models",
        "/v1/usage",
        "/v1/key",
    ):
        assert {200} <= seen[path], f"{path} was never answered: the examples prove nothing"
    assert {200, 400} <= seen["/admin/organizations"]


def test_a_document_that_lies_is_caught(fortress: OpenShop, keys: dict[str, str]) -> None:
    told = httpx.get(f"{fortress.url}/openapi.json", trust_env=False, timeout=300).json()
    del told["paths"]["/v1/models/{model}"]["get"]["responses"]["404"]
    told["paths"]["/v1/key"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["required"].append(
        "nonsense"
    )
    lying = schemathesis.openapi.from_dict(told)
    for path in ("/v1/models/{model}", "/v1/key"):
        assert broken_word(lying[path]["GET"], GenerationMode.POSITIVE, fortress.url, keys["v1"], defaultdict(set)), (
            path
        )


def broken_word(operation: Any, mode: GenerationMode, url: str, key: str, seen: dict[str, set[int]]) -> str:
    """Call an operation with what the document allows (or forbids); what it did against the document."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(operation.as_strategy(generation_mode=mode))
    def call(case: Case) -> None:
        if isinstance(case.body, dict) and case.path.startswith("/v1/"):
            _make_cheap(case)
        answer = case.call_and_validate(base_url=url, headers={"Authorization": key}, checks=CHECKS, timeout=300)
        seen[operation.path].add(answer.status_code)

    try:
        call()
    except (Exception, BaseExceptionGroup) as error:
        return "\n".join([str(one) for one in getattr(error, "exceptions", [error])])
    return ""


PLAIN = {"model", "messages", "prompt", "input", "max_tokens", "temperature", "top_p", "seed", "n", "stop", "user"}
PLAIN |= {"query", "documents", "top_n", "max_output_tokens", "instructions"}
VECTORS = ("/embeddings", "/rerank")


def _make_cheap(case: Case) -> None:
    """What would only take long is made short. Every other example names our model, and asks of it what any model does:
    most optional parameters together are refused by the starter model."""
    body = case.body
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(body.get(name), int) and body[name] > 2:
            body[name] = 2
    if case.path.endswith("completions"):
        body.setdefault("max_tokens", 2)
    if case.path.endswith("responses"):
        body.setdefault("max_output_tokens", 2)
    if isinstance(body.get("model"), str) and len(repr(body)) % 2:
        body["model"] = EMBED if case.path.endswith(VECTORS) else CHAT
        for name in body.keys() - PLAIN:
            del body[name]
        for message in body.get("messages") or ():
            if isinstance(message, dict) and message.get("role") in ("function", "tool", "assistant"):
                message["role"] = "user"
                message.setdefault("content", "x")


def test_the_document_describes_every_api_door(fortress: OpenShop) -> None:
    with fortress.http() as client:
        told = client.get("/openapi.json").json()
    paths = told["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/usage", "/v1/key"} <= set(
        paths
    )
    assert not any(path.startswith("/console") for path in paths)
    chat = paths["/v1/chat/completions"]["post"]
    assert set(chat["responses"]) == {"200", "400", "401", "402", "403", "404", "405", "413", "429", "503"}
    temperature = told["components"]["schemas"]["ChatRequest"]["properties"]["temperature"]
    assert {"type": "number", "minimum": 0, "maximum": 2} in temperature["anyOf"]


def test_the_page_shows_it_without_anything_from_elsewhere(fortress: OpenShop) -> None:
    page = httpx.get(f"{fortress.url}/docs", trust_env=False, timeout=300)
    assert page.status_code == 200 and "/v1/chat/completions" in page.text
    assert "http://" not in page.text.replace(fortress.url, "") and "https://" not in page.text
