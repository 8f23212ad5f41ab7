"""How long a caller gives a call: our header, what OpenAI's clients say by themselves, and what makes no sense."""

import pytest

from tollway.faces.http.wire import error_headers, timeout_of
from tollway.kit.errors import BadRequest, Unavailable


def scope(**headers: str) -> dict[str, object]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x_tollway_timeout_ms": "1500"}, 1.5),
        ({"x_stainless_read_timeout": "600"}, 600.0),
        ({"x_stainless_read_timeout": "0.25"}, 0.25),
        ({"x_stainless_read_timeout": "600", "x_tollway_timeout_ms": "20"}, 0.02),
        ({"x_stainless_read_timeout": "never"}, None),
        ({"x_stainless_read_timeout": "1e400"}, None),
        ({"x_stainless_read_timeout": "9" * 400}, None),
        ({"x_stainless_read_timeout": "."}, None),
    ],
)
def test_what_is_said_is_understood(headers: dict[str, str], seconds: float | None) -> None:
    assert timeout_of(scope(**headers)) == seconds


@pytest.mark.parametrize("given", ["0", "-5", "1.5", "soon", "1" * 30, "9" * 5000, "٣", "1 000"])
def test_what_makes_no_sense_is_refused(given: str) -> None:
    with pytest.raises(BadRequest) as refused:
        timeout_of({"headers": [(b"x-tollway-timeout-ms", given.encode("utf-8"))]})
    assert refused.value.param == "x-tollway-timeout-ms"


def test_a_refusal_says_when_in_seconds_and_exactly() -> None:
    told = dict(error_headers(Unavailable("full", retry_after_s=0.42)))
    assert (told[b"retry-after"], told[b"retry-after-ms"]) == (b"1", b"420")
