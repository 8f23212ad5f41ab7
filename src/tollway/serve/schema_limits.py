"""How large a JSON schema may be that an engine's grammar has to hold an answer to: checked before the engine sees it.

An engine compiles a schema on the thread that answers everybody, and then asks it about each token of its vocabulary. What
lets one schema stop a model for minutes is not depth but the number of ways to go on: thousands of allowed values, or
patterns that repeat what may be empty. The limits are close to OpenAI's own; a schema within them compiles in a few
seconds at worst.
"""

import re
from typing import Any

from tollway.kit.errors import BadRequest

# What the standard library's own compiler reads a pattern with; it parses only, and is bounded by the pattern's length.
pattern_parser: Any = re._parser  # type: ignore[attr-defined]
sre: Any = re._constants  # type: ignore[attr-defined]

ENUM_VALUES_MAX = 1000
PROPERTIES_MAX = 500
ALTERNATIVES_MAX = 200
NODES_MAX = 20_000
PATTERN_CHARACTERS_MAX = 500
PATTERN_SIZE_MAX = 5_000  # characters when written out
PATTERN_VARIANTS_MAX = 100  # ways to go on at one place


def check(schema: dict[str, Any], param: str) -> None:
    """Raise BadRequest, naming `param`, for a schema that would cost everybody more than its caller."""
    sums = {"enum": 0, "properties": 0, "alternatives": 0, "nodes": 0}
    todo: list[Any] = [schema]
    while todo:
        node = todo.pop()
        sums["nodes"] += 1
        if isinstance(node, dict):
            _count(node, sums, param)
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
        for name, most, what in (
            ("nodes", NODES_MAX, "parts"),
            ("enum", ENUM_VALUES_MAX, "enum values"),
            ("properties", PROPERTIES_MAX, "properties"),
            ("alternatives", ALTERNATIVES_MAX, "alternatives in anyOf, oneOf and allOf"),
        ):
            if sums[name] > most:
                raise _too_much(param, f"it has more than {most:,} {what}")


def _count(node: dict[str, Any], sums: dict[str, int], param: str) -> None:
    for name in ("enum", "properties"):
        if isinstance(node.get(name), list | dict):
            sums[name] += len(node[name])
    for name in ("anyOf", "oneOf", "allOf", "type"):
        if isinstance(node.get(name), list):
            sums["alternatives"] += len(node[name])
            if name in ("anyOf", "oneOf") and _ambiguous(node[name]):
                raise _too_much(param, "more than one alternative is an array of something that refers to a definition")
    if isinstance(node.get("pattern"), str):
        _check_pattern(node["pattern"], param)


def _ambiguous(alternatives: list[Any]) -> bool:
    """Two arrays that both lead on into definitions: each bracket would double the ways to read the answer."""
    return sum(bool(isinstance(one, dict) and one.get("type") == "array" and _refers(one)) for one in alternatives) > 1


def _refers(schema: Any) -> bool:
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if "$ref" in node:
                return True
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
    return False


def _check_pattern(pattern: str, param: str) -> None:
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise _too_much(param, f"a pattern is longer than {PATTERN_CHARACTERS_MAX} characters")
    try:
        size, variants, _ = _measure(pattern_parser.parse(pattern))
    except (re.error, RecursionError, OverflowError):
        raise _too_much(param, "a pattern is no regular expression that this engine knows") from None
    if size > PATTERN_SIZE_MAX or variants > PATTERN_VARIANTS_MAX:
        raise _too_much(param, "a pattern allows too many ways to go on")


def _measure(parsed: Any) -> tuple[int, int, bool]:
    """(size written out, ways to go on at once, may it be empty) of a parsed pattern: an upper bound."""
    size, variants, empty = 0, 1, True
    for kind, value in parsed:
        if kind is sre.SUBPATTERN:
            part = _measure(value[3])
        elif kind is sre.BRANCH:
            parts = [_measure(one) for one in value[1]]
            part = (sum(p[0] for p in parts), sum(p[1] for p in parts), any(p[2] for p in parts))
        elif kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            least, most, inner = value
            inner_size, inner_variants, inner_empty = _measure(inner)
            times = max(1, least if most is sre.MAXREPEAT else most)
            ways = inner_variants * times if inner_empty or inner_variants > 1 else inner_variants
            part = (inner_size * times, ways + (least != most), least == 0 or inner_empty)
        elif kind is sre.AT:
            continue
        else:
            part = (1, 1, False)
        size += part[0]
        variants = variants + part[1] if part[2] else max(variants, part[1])
        empty = empty and part[2]
    return size, variants, empty


def _too_much(param: str, why: str) -> BadRequest:
    return BadRequest(
        f"The schema in {param!r} cannot be held to here: {why}.",
        param=param,
        code="schema_too_complex",
        hint="Make it smaller, or check the answer yourself.",
    )
