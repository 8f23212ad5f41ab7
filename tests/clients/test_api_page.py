"""`docs/api.md` against the code: its tables name exactly the parameters that are taken, and what it says of them is so."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.clients.open_shop import CHAT, EMBED, OpenShop
from tollway.faces.http.feedback import FeedbackRequest
from tollway.faces.http.response_words import ResponsesRequest
from tollway.kit import errors
from tollway.kit.settings import TABLE
from tollway.serve.requests import (
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    DetectRequest,
    EmbeddingRequest,
    ExplainRequest,
    ImageRequest,
    ModerationRequest,
    RecommendationRequest,
    RerankRequest,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
TYPES: dict[str, Any] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/classify": ClassifyRequest,
    "/v1/explain": ExplainRequest,
    "/v1/feedback": FeedbackRequest,
    "/v1/detect": DetectRequest,
    "/v1/rerank": RerankRequest,
    "/v1/moderations": ModerationRequest,
    "/v1/images/generations": ImageRequest,
    "/v1/recommendations": RecommendationRequest,
}
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": CHAT, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
    "/v1/completions": {"model": CHAT, "prompt": "hi", "max_tokens": 1},
    "/v1/embeddings": {"model": EMBED, "input": "hi"},
    "/v1/responses": {"model": CHAT, "input": "hi", "max_output_tokens": 1},
    "/v1/rerank": {"model": EMBED, "query": "hi", "documents": ["hello"]},
}
EXAMPLES: dict[str, Any] = {
    "user": "u",
    "metadata": {"a": "b"},
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "service_tier": "auto",
    "store": False,
    "echo": True,
    "suffix": "s",
    "best_of": 5,
    "dimensions": 7,
    "modalities": ["audio"],
    "temperature": 1,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "frequency_penalty": 1,
    "presence_penalty": 1,
    "seed": 3,
    "stop": "x",
    "n": 2,
    "max_completion_tokens": 2,
    "encoding_format": "base64",
    "stream": True,
    "max_output_tokens": 2,
    "instructions": "Be brief.",
    "previous_response_id": "resp_1",
    "conversation": "conv_1",
    "background": True,
    "truncation": "auto",
    "include": ["x"],
    "max_tool_calls": 1,
    "top_n": 1,
    "return_documents": True,
    "max_tokens_per_doc": 9,
}


def table(path: str) -> dict[str, str]:
    """parameter -> what is done with it, as the page says."""
    section = PAGE.partition(f"### `POST {path}`")[2].partition("\n#")[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|", section, re.MULTILINE))


@pytest.mark.parametrize("path", TYPES)
def test_the_page_names_every_parameter_and_no_other(path: str) -> None:
    assert set(table(path)) == {field.name for field in msgspec.structs.fields(TYPES[path])}
    assert set(table(path).values()) <= {"done", "if able", "no effect", "refused"}


@pytest.mark.parametrize("path", VALID)
def test_what_the_page_says_of_a_parameter_is_so(path: str, open_shop: OpenShop) -> None:
    with open_shop.http() as client:
        for name, word in table(path).items():
            if name in EXAMPLES and word in ("done", "no effect", "refused"):
                answer = client.post(path, json=VALID[path] | {name: EXAMPLES[name]})
                if word == "refused":
                    assert answer.status_code == 400 and answer.json()["error"]["param"] == name, (
                        f"{name}: {answer.text}"
                    )
                else:
                    assert answer.status_code == 200, f"{name}: {answer.text}"


def test_every_status_code_and_setting_on_the_page_exists() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "tollway").rglob("*.py"))
    section = PAGE.partition("## Errors")[2].partition("## Limits")[0]
    codes = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", section)) - {setting.name for setting in TABLE}
    assert len(codes) > 20 and not [code for code in codes if f'"{code}"' not in sources]
    limits = PAGE.partition("## Limits")[2].partition("A call is let in")[0]
    known = {setting.name: setting.default for setting in TABLE}
    named = re.findall(r"`(\w+)`", limits)
    assert named and set(named) <= set(known)
    assert (known["body_bytes_max"], known["connections_max"], known["call_timeout_s"]) == (4 * 1024 * 1024, 1000, 300)
    assert (known["header_timeout_s"], known["body_timeout_s"]) == (5, 15)
    statuses = {
        kind.status
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.TollwayError)
    }
    assert {int(one) for one in re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)} <= statuses
