"""What a command prints as the next one works as it stands: it names what is there, and has no word to fill in."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from tests.shape.source import SOURCE

CLI = SOURCE / "faces" / "cli"
TO_FILL_IN = re.compile(r"(?<![\w/.-])[A-Z][A-Z_]+(?![\w.=])|…|\.\.\.|<\w+>")


def steps(path: Path) -> list[tuple[int, str]]:
    """Each command that a module's `then` is given, or that a function for it returns, without what is put into it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "then"
        made = isinstance(node, ast.FunctionDef) and (node.name == "next_step" or path.stem == "next_step")
        given: list[ast.AST] = list(node.args[:1]) if named and isinstance(node, ast.Call) else []
        given += [one for one in ast.walk(node) if isinstance(one, ast.Return)] if made else []
        for part in (part for one in given for part in ast.walk(one)):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                found.append((part.lineno, part.value))
    return found


def test_no_next_step_has_a_word_to_fill_in():
    every = {path: steps(path) for path in CLI.glob("*.py")}
    assert sum(map(len, every.values())) > 60
    assert not [f"{path.name}:{line}: {text}" for path, all_ in every.items() for line, text in all_ if TO_FILL_IN.search(text)]


LISTS = [("org", "list"), ("plan", "list"), ("price", "list"), ("key", "list"), ("member", "list"), ("subscription", "list"),
         ("model", "list"), ("model", "packaged"), ("device", "list"), ("dataset", "list"), ("recipe", "list"), ("run", "list"),
         ("invoice", "list"), ("usage",), ("economics",), ("status",), ("audit",)]  # fmt: skip


def walk(tollway, words: tuple[str, ...]) -> None:
    """Run a command, and then the one it names, which must work."""
    ran = tollway(*words)
    assert ran.code == 0, ran.err
    (said,) = [line for line in ran.err.splitlines() if line.startswith("Next: ")]
    command = shlex.split(said.removeprefix("Next: ").partition("   (")[0])
    if command[0] == "tollway" and command[1] != "up":
        after = tollway(*command[1:])
        assert after.code == 0, (command, after.err)


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_in_an_empty_shop_the_next_step_works(tollway, words):
    walk(tollway, words)


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_in_a_shop_with_one_organization_the_next_step_works(tollway, ask, shop, words):
    ask("model", "add", "m", "--upstream", "http://127.0.0.1:9/v1", "--cost", "output_tokens=0.000001")
    walk(tollway, words)


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "create", "other", "--price", "output_tokens=2"), ("plan", "revise", "pro", "--rpm", "60"),
        ("price", "set", "pro", "output_tokens", "3"), ("org", "create", "globex"), ("key", "create", "acme"),
        ("model", "retire", "m", "--yes"), ("subscription", "start", "acme", "pro"), ("invoice", "draft", "acme"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_change_is_followed_by_one_that_works(tollway, ask, shop, words):
    ask("model", "add", "m", "--upstream", "http://127.0.0.1:9/v1", "--cost", "output_tokens=0.000001")
    walk(tollway, words)


def test_with_one_organization_the_step_after_a_plan_names_it(tollway, ask, shop):
    assert "Next: tollway subscription start acme pro" in tollway("plan", "revise", "pro", "--rpm", "60").err
    ask("org", "create", "globex")
    assert "Next: tollway org list" in tollway("plan", "revise", "pro", "--rpm", "61").err
