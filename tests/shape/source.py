"""The source as the shape tests see it: every module of the product, parsed once."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "tollway"


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, text and syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def shown(self) -> str:
        return str(self.path.relative_to(ROOT))


@cache
def modules() -> tuple[Module, ...]:
    """Every Python file under src/tollway, except generated migrations."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if "versions" in path.parts:  # migrations are written by a generator, once
            continue
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found.append(Module(name, path, text, ast.parse(text)))
    return tuple(found)


def imports(module: Module) -> list[tuple[str, str | None, int]]:
    """(module imported from, name or None, line) of every import of ours, also those inside functions."""
    found: list[tuple[str, str | None, int]] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, None, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.shown}:{node.lineno}: relative import; say the whole path"
            found += [(node.module or "", alias.name, node.lineno) for alias in node.names]
    return [one for one in found if one[0].split(".")[0] == "tollway"]
