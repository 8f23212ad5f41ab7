"""Schemas that would stop an engine for everybody are refused; what people write is not."""

from typing import Any

import pytest

from tollway.kit.errors import BadRequest
from tollway.serve import schema_limits

ARRAY = {"type": "array", "items": {"$ref": "#/$defs/n"}}


def text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [f"v{number}" for number in range(10_000)]},
        {"type": "object", "properties": {f"k{number}": {} for number in range(2000)}},
        {"oneOf": [{"const": number} for number in range(2000)]},
        {
            "$defs": {"n": {"anyOf": [ARRAY, {"type": "array", "items": {"anyOf": [ARRAY, ARRAY]}}]}},
            "$ref": "#/$defs/n",
        },
        text("^(a?b?c?){300}$"),
        text("^((a?){100}){20}$"),
        text("^(.?){1000}$"),
        text("^" + "|".join(f"x{number}" for number in range(3000)) + "$"),
        text("^(a{1000}){1000}$"),
        text("^((a{0,9}){0,9}){0,9}$"),
        text("^" + "(" * 200 + "$"),
        text("^" + "a?" * 200 + "$"),
    ],
)
def test_a_schema_that_stops_the_engine_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        schema_limits.check(schema, "response_format.json_schema")
    assert refused.value.code == "schema_too_complex" and refused.value.param == "response_format.json_schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["red", "green", None]},
        {"type": "object", "properties": {f"k{number}": {"type": "integer"} for number in range(100)}},
        {"$defs": {"n": {"anyOf": [ARRAY, {"type": "null"}]}}, "$ref": "#/$defs/n"},
        text(r"^\d{4}-\d{2}-\d{2}$"),
        text(r"^(\([0-9]{3}\))?[0-9]{3}-[0-9]{4}$"),
        text(r"^[\w.+-]+@[\w-]+(\.[\w-]+)+$"),
        text("^.{0,1900}$"),
        text("^(yes|no|perhaps)$"),
    ],
)
def test_a_schema_as_people_write_them_is_not(schema: dict[str, Any]) -> None:
    schema_limits.check(schema, "response_format.json_schema")
