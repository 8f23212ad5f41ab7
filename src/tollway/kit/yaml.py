"""Plain data as YAML for people to read and change: blocks for maps and lists, scalars as JSON writes them, which YAML reads
the same. Only the way out; nothing here reads YAML."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def dumped(value: Any, indent: int = 0) -> str:
    """An object as YAML: blocks for maps and lists, scalars as JSON writes them, which YAML reads the same."""
    pad = "  " * indent
    if isinstance(value, Mapping) and value:
        return "".join(f"{pad}{_scalar(name)}:{_below(one, indent)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        lines = []
        for one in value:
            text = dumped(one, indent + 1)
            lines.append(
                f"{pad}- {text.lstrip()}" if isinstance(one, Mapping | list | tuple) and one else f"{pad}- {text}"
            )
        return "".join(lines)
    return json.dumps(value, ensure_ascii=False) + "\n"


def _below(value: Any, indent: int) -> str:
    nested = isinstance(value, Mapping | list | tuple) and bool(value)
    return "\n" + dumped(value, indent + 1) if nested else " " + dumped(value)


def _scalar(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and not name[0].isdigit() else json.dumps(name)
