"""What hostile or broken clients send: a clear 4xx in OpenAI's shape, or a closed connection where HTTP itself is broken.

Nothing hangs, nothing is a 5xx, nobody else waits, and neither the log nor the database learns a prompt or a key.
"""

import asyncio
import contextlib
import json
import math
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.clients.open_shop import CHAT, EMBED, FREE, OpenShop

pytestmark = pytest.mark.engine

VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": CHAT,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 1,
        "temperature": 0.5,
        "top_p": 1,
        "n": 1,
        "stop": ["x"],
        "seed": 1,
        "stream": False,
        "logprobs": True,
        "top_logprobs": 1,
        "response_format": {"type": "text"},
        "logit_bias": {"5": 1},
    },
    "/v1/completions": {"model": CHAT, "prompt": ["hi"], "max_tokens": 1, "logprobs": 1, "seed": 1, "stop": "x"},
    "/v1/embeddings": {"model": EMBED, "input": ["hi"], "encoding_format": "float", "dimensions": 384},
}
CANARY = "canary-7f3a9c-in-the-coal-mine"


@pytest.fixture(scope="module")
def client(fortress: OpenShop) -> Iterator[httpx.Client]:
    """A client with a key that no limit stops."""
    with fortress.http(fortress.customer(FREE).key) as made:
        yield made


@pytest.fixture(scope="module")
def operator(fortress: OpenShop) -> Iterator[httpx.Client]:
    """A client with an operator's key."""
    with fortress.http(fortress.customer(FREE, scopes=("admin",)).key) as made:
        yield made


def post(client: httpx.Client, body: bytes, path: str = "/v1/chat/completions") -> httpx.Response:
    """POST these very bytes."""
    return client.post(path, content=body, headers={"content-type": "application/json"})


def refused(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The error of an answer that must be a refusal in OpenAI's shape."""
    assert answer.status_code in (statuses or (400,)), f"{answer.status_code} {answer.text[:300]}"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["code"]
    assert len(answer.content) < 2000 and "Traceback" not in answer.text
    return error


# -- bodies ----------------------------------------------------------------------------------------------------------------

BROKEN = {
    "empty": b"",
    "white space": b"   \n",
    "cut off": b'{"model": "m", "messages": [',
    "a list": b"[]",
    "null": b"null",
    "a number": b"42",
    "a text": b'"hello"',
    "two documents": b"{}{}",
    "single quotes": b"{'model': 'm'}",
    "a comment": b'{"model": "m" /* x */}',
    "invalid UTF-8": b'{"model": "\xff\xfe", "messages": []}',
    "overlong UTF-8": b'{"model": "\xc0\xaf", "messages": []}',
    "UTF-16": '{"model": "m"}'.encode("utf-16"),
    "a lone surrogate": b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
    "an unknown name with a lone surrogate": b'{"\\udfff": 1}',
    "a raw control character": b'{"model": "a\x00b"}',
    "a bad escape": b'{"model": "\\x41"}',
    "nested 100,000 deep": b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested 100,000 deep, never closed": b'{"a":' * 100_000,
    "nested metadata": b'{"model":"m","messages":[{"role":"user","content":"x"}],"metadata":'
    + b'{"a":' * 50_000
    + b"1"
    + b"}" * 50_001,
    "a form": b"model=m&messages=x",
    "zeros": b"\x00" * 1000,
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("path", VALID)
def test_broken_bodies(client: httpx.Client, kind: str, path: str) -> None:
    refused(post(client, BROKEN[kind], path), 400)


@pytest.mark.parametrize("depth", [300, 700, *range(760, 800, 4), *range(900, 1000, 8)])
def test_depth_is_read_and_written_again_or_refused(client: httpx.Client, depth: int) -> None:
    """What is decoded at the limit of the stack must not break where it is encoded, deeper inside."""
    deep = '{"a":' * depth + "1" + "}" * depth
    ask = f'"model": "{CHAT}", "messages": [{{"role": "user", "content": "Hi"}}], "max_tokens": 1'
    said = f'"model": "{CHAT}", "input": "Hi", "max_output_tokens": 1'
    for path, body in (
        ("/v1/chat/completions", f'{{{ask}, "tools": [{{"type": "function", "function": {deep}}}]}}'),
        ("/v1/responses", f'{{{said}, "text": {{"format": {{"type": "json_schema", "schema": {deep}}}}}}}'),
        ("/v1/responses", f'{{{said}, "metadata": {deep}}}'),
        ("/v1/responses", f'{{{said}, "metadata": {deep}, "stream": true}}'),
        ("/v1/feedback", f'{{"id": "req_none", "input": {deep}, "correction": "x"}}'),
        ("/v1/edge/usage", f'{{"device": "dev_1", "sent_at_ms": 1, "entries": [{deep}]}}'),
    ):
        reply = client.post(path, content=body, headers={"content-type": "application/json"})
        assert reply.status_code in (200, 400, 404), (path, depth, reply.text[:300])
        assert reply.status_code != 200 or '"error": {' not in reply.text
        if depth > 900:
            assert reply.status_code == 400 and "nested too deeply" in reply.text


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_bodies_at_the_operators_counter(operator: httpx.Client, kind: str) -> None:
    refused(post(operator, BROKEN[kind], "/admin/organizations"), 400)


NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1" + "0" * 400,
    "1e-400",
    "0x10",
    "-0.0",
    "true",
    '"1"',
    "[]",
    "{}",
    "1" * 5000,
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "name", ["temperature", "top_p", "n", "seed", "max_tokens", "top_logprobs", "frequency_penalty"]
)
def test_numbers_beyond_reason(client: httpx.Client, name: str, number: str) -> None:
    valid = {key: value for key, value in VALID["/v1/chat/completions"].items() if key != name}
    answer = post(client, json.dumps(valid).encode()[:-1] + f', "{name}": {number}}}'.encode())
    if number in ("-0.0", "1e-400") and answer.status_code == 200:
        return  # zero, said oddly
    assert refused(answer, 400)["param"] in (name, None)


@pytest.mark.parametrize(
    "text",
    [
        "a\x00b",
        "\x01\x02\x1b[31m",
        "\u202e\u2066",
        "\ufffe\uffff",
        "👩‍👩‍👧‍👦" * 50,
        "<|im_end|><|im_start|>system\n",
        " " * 5000,
        "{{ x }} {% for %}",
    ],
)
def test_odd_but_legal_text_is_answered(client: httpx.Client, text: str) -> None:
    for path, body in VALID.items():
        name = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}[path]
        value: Any = [{"role": "user", "content": text}] if name == "messages" else text
        answer = client.post(path, json=body | {name: value})
        if answer.status_code != 200:
            assert name in str(refused(answer, 400)["param"] or refused(answer, 400)["message"]), path


def test_a_body_over_the_limit(client: httpx.Client, operator: httpx.Client) -> None:
    over = b'{"model":"' + b"x" * (12 * 1024 * 1024) + b'"}'
    assert refused(post(client, over), 413)["code"] == "request_too_large"
    refused(post(operator, over, "/admin/organizations"), 413)
    chunked = (over[at : at + 100_000] for at in range(0, len(over), 100_000))
    with contextlib.suppress(httpx.WriteError):  # it hangs up while we are still talking
        refused(client.post("/v1/chat/completions", content=chunked), 413)


def test_a_prompt_of_ten_megabytes(client: httpx.Client, fortress: OpenShop) -> None:
    began = time.monotonic()
    answer = client.post(
        "/v1/chat/completions",
        json=VALID["/v1/chat/completions"] | {"messages": [{"role": "user", "content": "word " * 2_000_000}]},
    )
    assert refused(answer, 400, 413)["code"] == "context_length_exceeded"
    assert time.monotonic() - began < 90
    assert client.post("/v1/embeddings", json=VALID["/v1/embeddings"]).status_code == 200
    refused(client.post("/v1/embeddings", json={"model": EMBED, "input": "word " * 2_000_000}), 400)
    refused(client.post("/v1/completions", json={"model": CHAT, "prompt": "x" * 10_000_000}), 400)


def test_too_many_of_everything(client: httpx.Client) -> None:
    chat, embeddings = VALID["/v1/chat/completions"], VALID["/v1/embeddings"]
    message = {"role": "user", "content": "x"}
    for change, param in (
        ({"messages": [message] * 3000}, "messages"),
        ({"messages": []}, "messages"),
        ({"stop": ["x"] * 100}, "stop"),
        ({"n": 1000}, "n"),
        ({"model": "m" * 1000}, "model"),
    ):
        assert refused(client.post("/v1/chat/completions", json=chat | change), 400)["param"] == param
    assert refused(client.post("/v1/embeddings", json=embeddings | {"input": ["x"] * 1000}), 400)["param"] == "input"
    for empty in ("", [], [""], ["x", "  "]):
        assert refused(client.post("/v1/embeddings", json=embeddings | {"input": empty}), 400)["param"] == "input"
    for tokens in ([1, 2, 3], [[1, 2], [3]], [None], [{}]):
        assert refused(client.post("/v1/embeddings", json=embeddings | {"input": tokens}), 400)["param"] == "input"


@pytest.mark.parametrize(
    "name", ["", "nope", "../../etc/passwd", "a" * 120, "a\x00b", "model\r\nx-evil: 1", "\u202e", "%00", "{model}"]
)
def test_unknown_models(client: httpx.Client, name: str) -> None:
    answer = client.post("/v1/chat/completions", json=VALID["/v1/chat/completions"] | {"model": name})
    refused(answer, 400, 404)
    assert "x-evil" not in answer.headers
    with contextlib.suppress(httpx.InvalidURL):
        refused(client.get("/v1/models/" + httpx.URL(path="/" + name).raw_path.decode()[1:]), 404) if name else None


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, Any]:
    """A valid body with one to three places changed, removed or added."""
    path = draw(st.sampled_from(sorted(VALID)))
    body: Any = json.loads(json.dumps(VALID[path]))
    for _ in range(draw(st.integers(1, 3))):
        place, names = body, sorted(body)
        name: Any = draw(st.sampled_from(names)) if names else "x"
        while isinstance(place.get(name) if isinstance(place, dict) else place[name], dict | list) and draw(
            st.booleans()
        ):
            inner = place[name]
            if not inner:
                break
            place, name = inner, draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"])):
            case "replace":
                place[name] = draw(ANY)
            case "remove":
                del place[name]
            case "add" if isinstance(place, dict):
                place[draw(st.text(max_size=20))] = draw(ANY)
    return path, body


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(mutated())
@example(
    (
        "/v1/chat/completions",
        VALID["/v1/chat/completions"]
        | {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
    )
)
@example(
    (
        "/v1/chat/completions",
        VALID["/v1/chat/completions"]
        | {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}}},
    )
)
@example(
    (
        "/v1/chat/completions",
        VALID["/v1/chat/completions"]
        | {"response_format": {"type": "json_schema", "json_schema": {"schema": {"pattern": "(((", "type": "string"}}}},
    )
)
@example(
    (
        "/v1/chat/completions",
        VALID["/v1/chat/completions"] | {"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]},
    )
)
@example(
    (
        "/v1/chat/completions",
        VALID["/v1/chat/completions"] | {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]},
    )
)
@example(
    (
        "/v1/chat/completions",
        VALID["/v1/chat/completions"]
        | {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": 5, "arguments": {}}}]}
            ]
        },
    )
)
@example(("/v1/chat/completions", VALID["/v1/chat/completions"] | {"logit_bias": {"not a token": 5}}))
@example(("/v1/chat/completions", VALID["/v1/chat/completions"] | {"logit_bias": {"99999999999": 5}}))
@example(("/v1/chat/completions", VALID["/v1/chat/completions"] | {"stop": ["", "\x00"]}))
@example(("/v1/chat/completions", VALID["/v1/chat/completions"] | {"stop": ""}))
@example(("/v1/chat/completions", VALID["/v1/chat/completions"] | {"seed": -1}))
@example(("/v1/chat/completions", VALID["/v1/chat/completions"] | {"seed": 2**63 - 1}))
@example(("/v1/chat/completions", VALID["/v1/chat/completions"] | {"top_p": 0, "top_k": 0, "min_p": 1}))
@example(
    (
        "/v1/chat/completions",
        VALID["/v1/chat/completions"]
        | {
            "max_tokens": 10_000_000,
            "stop": None,
            "n": 1,
            "messages": [{"role": "user", "content": "Say hi"}],
            "stream": False,
            "max_completion_tokens": 1,
        },
    )
)
@example(("/v1/completions", VALID["/v1/completions"] | {"prompt": ""}))
@example(("/v1/completions", VALID["/v1/completions"] | {"prompt": ["", "x"], "n": 2}))
def test_wrong_types_everywhere(client: httpx.Client, case: tuple[str, Any]) -> None:
    path, body = case
    answer = client.post(path, content=json.dumps(body).encode("utf-8", "surrogatepass"))
    if answer.status_code != 200:
        refused(answer, 400, 404)


# -- paths and methods -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_other_methods(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path)
    if method == "BREW":
        assert refused(answer, 400)["code"] == "invalid_http"
    elif method == "HEAD":
        assert answer.status_code == 405 and not answer.content
    else:
        assert refused(answer, 405)["code"] == "method_not_allowed"
        assert answer.headers["allow"] == "POST"


PATHS = [
    "/v1",
    "/v1/",
    "/v1/nope",
    "/v1//chat/completions",
    "/v1/../admin/organizations",
    "/v1/chat/completions/",
    "/V1/models",
    "/nope",
    "/admin",
    "/admin/",
    "/v1/%2e%2e/metrics",
    "/v1/models/%00",
    "/" + "a" * 5000,
    "/v1/" + "a/" * 2000,
    "/%ff%fe",
    "/v1/models/%ff",
    "//evil.example/console",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_lead_nowhere(fortress: OpenShop, client: httpx.Client, path: str) -> None:
    key = client.headers["authorization"]
    answer = raw(
        fortress, f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nConnection: close\r\n\r\n".encode()
    )
    status, body = status_of(answer), answer.partition(b"\r\n\r\n")[2]
    assert status in (400, 404, 307, 200), answer[:300]
    if status in (400, 404) and b"application/json" in answer.lower():
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    if status == 200:
        assert path in ("/v1/models/",), path
    if status == 307:
        assert b"evil" not in answer.partition(b"\r\n\r\n")[0]


# -- HTTP itself -----------------------------------------------------------------------------------------------------------


def raw(shop: OpenShop, data: bytes, within_s: float = 60, *, half_close: bool = False) -> bytes:
    """Send bytes, return all that comes until the server closes; raises TimeoutError if it never does."""
    with socket.create_connection(("127.0.0.1", shop.port), timeout=within_s) as sock:
        came = b""
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                came += piece
        return came


def status_of(answer: bytes) -> int | None:
    """The status of the first answer in these bytes; None: closed without a word."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else None


def request(body: bytes, key: str, *lines: str, line: str = "POST /v1/chat/completions HTTP/1.1") -> bytes:
    """A request head with these extra lines, and a body."""
    return "\r\n".join([line, "Host: x", f"Authorization: {key}", *lines, "", ""]).encode("latin-1") + body


def test_requests_that_are_not_http_end_the_connection(fortress: OpenShop, client: httpx.Client) -> None:
    key = client.headers["authorization"]
    body = json.dumps(VALID["/v1/chat/completions"]).encode()
    size = f"Content-Length: {len(body)}"
    cases = {
        "length and chunks": request(b"0\r\n\r\n" + body, key, size, "Transfer-Encoding: chunked"),
        "two lengths": request(body, key, size, "Content-Length: 5"),
        "a negative length": request(body, key, "Content-Length: -1"),
        "a length with a plus": request(body, key, "Content-Length: +5"),
        "a length of words": request(body, key, "Content-Length: many"),
        "a length beyond reason": request(body, key, "Content-Length: " + "9" * 40),
        "chunks of chunks": request(b"0\r\n\r\n", key, "Transfer-Encoding: chunked, chunked"),
        "an unknown encoding": request(body, key, "Transfer-Encoding: xchunked"),
        "a bad chunk size": request(b"zz\r\nabc\r\n0\r\n\r\n", key, "Transfer-Encoding: chunked"),
        "a chunk size beyond reason": request(b"f" * 20 + b"\r\nabc", key, "Transfer-Encoding: chunked"),
        "a space before the colon": request(body, key, f"Content-Length : {len(body)}"),
        "a folded header": request(body, key, size, "X-Long: a", " b"),
        "a NUL in a header": request(body, key, size, "X-Nul: a\x00b"),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300,
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/3.7": b"GET /v1/models HTTP/3.7\r\nHost: x\r\n\r\n",
        "no version": b"GET /v1/models\r\n\r\n",
        "noise": bytes(range(256)) * 20,
        "a header of 1 MB": request(body, key, size, "X-Big: " + "a" * 1_000_000),
        "100,000 headers": request(body, key, size, *(f"X-{number}: 1" for number in range(100_000))),
        "a path of 1 MB": request(body, key, size, line=f"POST /v1/{'a' * 1_000_000} HTTP/1.1"),
    }
    for kind, data in cases.items():
        began = time.monotonic()
        answer = raw(fortress, data, within_s=60)
        status = status_of(answer)
        assert status is None or 400 <= status < 500, f"{kind}: {answer[:200]!r}"
        assert answer.count(b"HTTP/1.1 ") <= 1, f"{kind}: more than one answer: {answer!r}"
        assert time.monotonic() - began < 40, kind
        assert client.get("/v1/models").status_code == 200, f"after {kind}"


def test_odd_but_valid_http_is_answered(fortress: OpenShop, client: httpx.Client) -> None:
    key = client.headers["authorization"]
    body = json.dumps(VALID["/v1/chat/completions"]).encode()
    close, size = "Connection: close", f"Content-Length: {len(body)}"
    one_by_one = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    half = len(body) // 2
    trailers = b"%x;ext=1\r\n%b\r\n%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (
        half,
        body[:half],
        len(body) - half,
        body[half:],
    )
    cases = {
        "HTTP/1.0": request(body, key, size, line="POST /v1/chat/completions HTTP/1.0"),
        "chunks of one byte": request(one_by_one, key, "Transfer-Encoding: chunked", close),
        "chunk extensions and trailers": request(trailers, key, "Transfer-Encoding: chunked", close),
        "100-continue": request(body, key, size, "Expect: 100-continue", close),
        "half-closed": request(body, key, size, close),
        "an absolute URL": request(body, key, size, close, line="POST http://x/v1/chat/completions HTTP/1.1"),
        "no content type": request(body, key, size, close),
        "a query": request(body, key, size, close, line="POST /v1/chat/completions?api-version=1&x=%00 HTTP/1.1"),
    }
    for kind, data in cases.items():
        answer = raw(fortress, data, within_s=120)
        assert b"200 OK" in answer and b'"chat.completion"' in answer, f"{kind}: {answer[:300]!r}"


def test_bare_line_feeds_never_hide_a_second_request(fortress: OpenShop, client: httpx.Client) -> None:
    key = client.headers["authorization"]
    data = f"GET /v1/models HTTP/1.1\nHost: x\nAuthorization: {key}\nConnection: close\n\nGET /metrics HTTP/1.1\nHost: x\n\n".encode()
    answer = raw(fortress, data)
    assert status_of(answer) in (None, 200, 400) and answer.count(b"HTTP/1.1 ") <= 1


def test_a_smuggled_request_is_never_answered(fortress: OpenShop, client: httpx.Client) -> None:
    key = client.headers["authorization"]
    hidden = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    for lines in (
        (f"Content-Length: {len(hidden) + 5}", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", f"Content-Length: {len(hidden) + 5}"),
        ("Transfer-Encoding: identity", "Content-Length: 4"),
        ("Content-Length: 4", f"Content-Length: {len(hidden) + 4}"),
        ("Content-Length: 5, 5",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding:\r\n chunked",),
        ("Transfer-Encoding: \x0bchunked",),
        ("X: a\rContent-Length: 5",),
        ("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5"),
    ):
        answer = raw(fortress, request(b"0\r\n\r\n" + hidden, key, *lines))
        assert b"maas_" not in answer and answer.count(b"HTTP/1.1 ") <= 1, f"{lines}: {answer[:400]!r}"


@pytest.mark.parametrize("to", ["websocket", "h2c", "TLS/1.0"])
def test_an_upgrade_is_answered_as_what_it_stands_and_ends_the_connection(
    fortress: OpenShop, client: httpx.Client, to: str
) -> None:
    key = client.headers["authorization"]
    asked = request(b"", key, "Connection: Upgrade", f"Upgrade: {to}", line="GET /v1/models HTTP/1.1")
    answer = raw(fortress, asked + b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status_of(answer) == 200 and answer.count(b"HTTP/1.1 ") == 1 and b"maas_" not in answer


@pytest.mark.parametrize("ms", ["0", "-1", "1.5", "1e3", "NaN", "", "9" * 11, "9" * 400, "0x10", "٣", "86400001"])
def test_a_call_that_says_nonsense_about_its_time(client: httpx.Client, ms: str) -> None:
    headers = {b"x-tollway-timeout-ms": ms.encode()}
    answer = client.post("/v1/embeddings", json=VALID["/v1/embeddings"], headers=headers)
    if ms:
        assert refused(answer)["param"] == "x-tollway-timeout-ms"
    else:
        assert answer.status_code == 200


@pytest.mark.parametrize("seconds", ["NaN", "inf", "-1", "1e400", "", ".", "0", "9" * 400])
def test_what_a_library_says_of_its_patience_is_no_error(client: httpx.Client, seconds: str) -> None:
    headers = {"x-stainless-read-timeout": seconds}
    answer = client.post("/v1/embeddings", json=VALID["/v1/embeddings"], headers=headers)
    assert answer.status_code == 200 or (seconds == "0" and answer.status_code == 503)


@pytest.mark.parametrize("tier", ["priority", "flex", "scale", "batch", 1])
def test_no_call_takes_a_tier_that_its_plan_does_not_have(client: httpx.Client, tier: Any) -> None:
    body = VALID["/v1/chat/completions"] | {"service_tier": tier}
    assert refused(client.post("/v1/chat/completions", json=body))["param"] == "service_tier"


def test_pipelined_requests_are_answered_in_order(fortress: OpenShop, client: httpx.Client) -> None:
    key = client.headers["authorization"]
    paths = ["/v1/models", "/v1/nope", "/healthz", "/v1/models/nope", "/v1/models"]
    data = b"".join(
        request(b"", key, *(("Connection: close",) if number == 4 else ()), line=f"GET {path} HTTP/1.1")
        for number, path in enumerate(paths)
    )
    answer = raw(fortress, data, within_s=60)
    statuses = [int(part.split(b" ", 1)[0]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 404, 200, 404, 200]


# -- slow, silent and absent -----------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_three_hundred_slow_clients_stop_nobody(fortress: OpenShop, client: httpx.Client) -> None:
    """Headers that drip, bodies that never come, connections that say nothing: others are answered, and all are cut off."""
    key = client.headers["authorization"]
    head = request(b"", key, "Content-Length: 1000", "Content-Type: application/json")
    openings = [
        b"",
        b"GET /v1/mod",
        head[: len(head) // 2],
        head,
        head + b'{"model"',
        request(b"5\r\nab", key, "Transfer-Encoding: chunked"),
    ]

    async def slow(number: int) -> float:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", fortress.port)
        writer.write(openings[number % len(openings)])
        try:
            while time.monotonic() - began < 60:
                with contextlib.suppress(TimeoutError):
                    if not await asyncio.wait_for(reader.read(1000), 0.5):
                        break
                with contextlib.suppress(ConnectionError):
                    if number % 2 and number % len(openings):
                        writer.write(b"a")  # one byte now and then does not buy time
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
        return time.monotonic() - began

    crowd = [asyncio.ensure_future(slow(number)) for number in range(300)]
    await asyncio.sleep(0.5)
    async with httpx.AsyncClient(
        base_url=fortress.url, headers={"authorization": key}, trust_env=False, timeout=300
    ) as other:
        waits = []
        for _ in range(10):
            began = time.monotonic()
            assert (await other.get("/v1/models")).status_code == 200
            waits.append(time.monotonic() - began)
        answer = await other.post("/v1/chat/completions", json=VALID["/v1/chat/completions"])
        assert answer.status_code == 200
    lasted = await asyncio.gather(*crowd)
    assert sorted(waits)[5] < 3.0, waits
    assert max(lasted) < 50, f"the slowest held on for {max(lasted):.1f} s"


async def test_clients_that_never_read_and_clients_that_vanish(fortress: OpenShop, client: httpx.Client) -> None:
    body = VALID["/v1/chat/completions"] | {"stream": True, "max_tokens": 120, "stop": None, "top_logprobs": 20}
    data = json.dumps(body).encode()
    key = client.headers["authorization"]
    sockets = []
    for number in range(12):
        sock = socket.create_connection(("127.0.0.1", fortress.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.sendall(request(data, key, f"Content-Length: {len(data)}"))
        if number % 3 == 0:
            sock.shutdown(socket.SHUT_WR)
        elif number % 3 == 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            sock.close()  # a reset
        sockets.append(sock)
    async with httpx.AsyncClient(
        base_url=fortress.url, headers={"authorization": key}, trust_env=False, timeout=300
    ) as other:
        answer = await other.post("/v1/chat/completions", json=VALID["/v1/chat/completions"])
    for sock in sockets:
        sock.close()
    assert answer.status_code == 200
    await until_quiet(fortress)


async def test_a_stream_left_half_way_frees_its_place(fortress: OpenShop, client: httpx.Client) -> None:
    body = VALID["/v1/chat/completions"] | {
        "stream": True,
        "max_tokens": 1000,
        "stop": None,
        "logprobs": None,
        "top_logprobs": None,
    }
    async with httpx.AsyncClient(
        base_url=fortress.url, headers=dict(client.headers), trust_env=False, timeout=300
    ) as other:

        async def leave() -> None:
            async with other.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for _ in answer.aiter_lines():
                    return

        await asyncio.gather(*(leave() for _ in range(10)))
    await until_quiet(fortress)


async def until_quiet(shop: OpenShop, within_s: float = 90) -> None:
    """Until the gateway has no request under way but this one."""
    async with httpx.AsyncClient(base_url=shop.url, trust_env=False, timeout=300) as client:
        for _ in range(int(within_s / 0.1)):
            shown = (await client.get("/metrics")).text
            line = next(line for line in shown.splitlines() if line.startswith("maas_inflight"))
            if math.isclose(float(line.split()[-1]), 0):
                return
            await asyncio.sleep(0.1)
    raise AssertionError(f"still busy: {line}")


# -- what is kept ----------------------------------------------------------------------------------------------------------


def test_neither_prompts_nor_keys_are_written_anywhere(fortress: OpenShop) -> None:
    """Called well and badly with a canary in every place; then every file of the home is searched for it."""
    customer = fortress.customer(FREE)
    stray = customer.key[:-1] + ("A" if customer.key[-1] != "A" else "B")
    with fortress.http(customer.key) as client:
        chat = VALID["/v1/chat/completions"] | {"messages": [{"role": "user", "content": f"Repeat: {CANARY}"}]}
        assert client.post("/v1/chat/completions", json=chat).status_code == 200
        assert client.post("/v1/chat/completions", json=chat | {"stream": True}).status_code == 200
        assert client.post("/v1/embeddings", json={"model": EMBED, "input": CANARY}).status_code == 200
        assert (
            client.post("/v1/completions", json={"model": CHAT, "prompt": CANARY, "max_tokens": 1}).status_code == 200
        )
        client.post("/v1/chat/completions", json=chat | {"user": CANARY, "metadata": {"x": CANARY}, "seed": "x"})
        client.post("/v1/chat/completions", json=chat | {"model": CANARY})
        client.post("/v1/chat/completions", json=chat | {CANARY: 1})
        client.post("/v1/chat/completions", content=f'{{"model": "{CANARY}'.encode())
        client.get(f"/v1/{CANARY}")
        client.get(f"/v1/models/{CANARY}?key={CANARY}")
        client.get("/v1/models", headers={"authorization": f"Bearer {stray}"})
        client.get(f"/{CANARY}")
    time.sleep(0.5)
    told = fortress.log()
    assert "Traceback" not in told, told[told.index("Traceback") - 500 :][:3000]
    for path in fortress.home.rglob("*"):
        if not path.is_file():
            continue
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # other tests use this gateway too: what it put aside for one of them is gone again
            continue
        for secret in (CANARY, customer.key, stray, fortress.key):
            assert secret.encode() not in data, f"{secret} in {path.name}"
    searched = [path.name for path in fortress.home.rglob("*") if path.is_file()]
    assert "gateway.log" in searched and "tollway.db" in searched
