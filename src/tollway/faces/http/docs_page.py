"""The page `/docs`, from the OpenAPI document and nothing else: every operation with its parameters, then the shapes they use."""

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_REF = "#/components/schemas/"
Described = Mapping[str, Any]


def page(described: Described) -> str:
    """The whole page: what there is, then each operation, then the named shapes."""
    operations = sorted(_operations(described), key=lambda one: (not one[1].startswith("/v1"), one[1], one[0]))
    rows = "".join(
        f'<tr><td><b>{method}</b></td><td><a href="#{_anchor(method, path)}"><code>{html.escape(path)}</code></a></td>'
        f"<td>{html.escape(operation.get('summary', ''))}</td><td>{', '.join(operation['responses'])}</td></tr>"
        for method, path, operation in operations
    )
    schemas = described["components"]["schemas"]
    used: dict[str, None] = {}
    sections = "".join(_section(method, path, operation, schemas, used) for method, path, operation in operations)
    shapes, done = "", set[str]()
    while waiting := [name for name in used if name not in done]:
        for name in waiting:
            done.add(name)
            shapes += _shape(name, schemas[name], used)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>Tollway API</title><link rel="stylesheet" href="/console/static/console.css"><main class="docs">'
        "<h1>Tollway API</h1><p>OpenAI-compatible: any OpenAI client works by changing base URL and key. "
        'Machine-readable: <a href="/openapi.json">/openapi.json</a>.</p>'
        "<table><thead><tr><th>Method</th><th>Path</th><th>What</th><th>Answers</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{sections}{shapes}</main></html>"
    )


def _operations(described: Described) -> Iterator[tuple[str, str, Any]]:
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


def _section(method: str, path: str, operation: Any, schemas: Described, used: dict[str, None]) -> str:
    """One operation: its title and a row for each parameter, wherever it goes."""
    rows = [
        _row(one["name"], one["in"], bool(one.get("required")), one.get("schema", {}), one.get("description", ""), used)
        for one in operation.get("parameters", ())
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        place, schema = "form" if "form" in kind else "body", content.get("schema", {})
        fields = schemas[schema["$ref"].removeprefix(_REF)] if "$ref" in schema else schema
        if "properties" in fields:
            rows += _fields(fields, place, used)
        else:
            rows.append(_row(place, place, True, schema, "", used))
    title = f'<h2 id="{_anchor(method, path)}">{method} <code>{html.escape(path)}</code></h2>'
    return f"{title}<p>{html.escape(operation.get('summary', ''))}</p>" + _table(rows, "<p>No parameters.</p>")


def _shape(name: str, schema: Any, used: dict[str, None]) -> str:
    """A shape that has a name: its fields, or what it is."""
    title = f'<h2 id="{_anchor("", name)}">{html.escape(name)}</h2>'
    if "properties" in schema:
        return title + _table(_fields(schema, "", used), "<p>Any fields.</p>")
    return f"{title}<p>{_kind(schema, used)}</p>"


def _fields(schema: Any, place: str, used: dict[str, None]) -> list[str]:
    required = set(schema.get("required", ()))
    return [
        _row(name, place, name in required, kind, kind.get("description", ""), used)
        for name, kind in schema["properties"].items()
    ]


def _row(name: str, place: str, required: bool, schema: Any, what: str, used: dict[str, None]) -> str:
    return (
        f"<tr><td><code>{html.escape(name)}</code></td><td>{place}</td><td>{'required' if required else ''}</td>"
        f"<td>{_kind(schema, used)}{'. ' if what else ''}{html.escape(what)}</td></tr>"
    )


def _table(rows: list[str], without: str) -> str:
    head = "<thead><tr><th>Parameter</th><th>In</th><th></th><th>Type</th></tr></thead>"
    return f"<table>{head}<tbody>{''.join(rows)}</tbody></table>" if rows else without


def _kind(schema: Any, used: dict[str, None]) -> str:
    """What a value is, in a few words; shapes with a name are links."""
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(_kind(one, used) for one in schema[word]))
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        used[name] = None
        return f'<a href="#{_anchor("", name)}">{html.escape(name)}</a>'
    if "enum" in schema:
        return html.escape(", ".join(json.dumps(one) for one in schema["enum"]))
    if "const" in schema:
        return html.escape(json.dumps(schema["const"]))
    kind = "file" if schema.get("format") == "binary" else schema.get("type", "any")
    if kind == "array" and schema.get("items"):
        return f"array of {_kind(schema['items'], used)}"
    words = (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below"))
    bounds = [f"{word} {schema[key]:,}" for key, word in words if isinstance(schema.get(key), int | float)]
    return html.escape(" ".join([" or ".join(kind) if isinstance(kind, list) else str(kind), *bounds]))


def _anchor(method: str, path: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{method} {path}".lower()).strip("-")
