"""JSON schemas that the engine's grammar is known to take. It compiles them inside a step, for all calls in the batch: one
that it cannot compile ends the answers of everybody, so what is not surely good is refused before it gets there."""

from typing import Any, Final

import msgspec

from tollway.kit.errors import BadRequest

_TYPES: Final = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_SAID: Final = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated"})
_KNOWN: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs"}
)


def schema_of(form: Any) -> str:
    """The schema that a `response_format` asks for; "": none. Raises BadRequest."""
    if form is None or (isinstance(form, dict) and form.get("type", "text") == "text"):
        return ""
    if not isinstance(form, dict) or form.get("type") not in ("json_object", "json_schema"):
        raise _refused('the type must be "text", "json_object" or "json_schema"')
    if form["type"] == "json_object":
        return '{"type":"object"}'
    named = form.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise _refused("it has no schema")
    definitions = schema.get("$defs", {})
    if not isinstance(definitions, dict):
        raise _refused("$defs must be an object")
    _check(schema, definitions)
    for one in definitions.values():
        _check(one, definitions)
    return msgspec.json.encode(schema).decode()


def _check(schema: Any, definitions: dict[str, Any]) -> None:
    """Everything in it is known and fits together."""
    if schema is True:
        return
    if not isinstance(schema, dict):
        raise _refused("each schema must be an object")
    strange = sorted(schema.keys() - _KNOWN - _SAID)
    if strange:
        raise _refused(f"this engine does not enforce {', '.join(map(repr, strange[:5]))}")
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _TYPES:
            raise _refused(f"{str(kind)[:40]!r} is not a type")
    if "$ref" in schema and schema["$ref"] not in {f"#/$defs/{name}" for name in definitions}:
        raise _refused(f"{str(schema['$ref'])[:80]!r} is not defined")
    for name in ("enum", "anyOf"):
        if name in schema and (not isinstance(schema[name], list) or not schema[name]):
            raise _refused(f"{name} must list something")
    parts = _parts(schema)
    for one in parts:
        _check(one, definitions)


def _parts(schema: dict[str, Any]) -> list[Any]:
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        raise _refused("properties must be an object and required a list")
    missing = [name for name in required if name not in properties]
    if missing:
        raise _refused(f"{str(missing[0])[:80]!r} is required but no property")
    parts = [*properties.values(), *schema.get("anyOf", [])]
    if "items" in schema:
        parts.append(schema["items"])
    if not isinstance(schema.get("additionalProperties", False), bool):
        parts.append(schema["additionalProperties"])
    return parts


def _refused(why: str) -> BadRequest:
    return BadRequest(f"The schema cannot be used: {why}.", code="invalid_schema", param="response_format")
