"""Taste is executed: sizes, names, docstrings, swallowed exceptions. The lists of exceptions are empty and stay so."""

import ast
import io
import tokenize
from collections.abc import Iterator
from typing import Any

from tests.shape.source import Module, modules

FILE_LINES, FUNCTION_LINES = 500, 70
MAY_BE_LONGER: dict[str, int] = {}  # file or file:function -> lines it has today; may shrink, never grow
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "stuff", "shared"}


def test_a_file_fits_in_the_head():
    sizes = {module.shown: module.text.count("\n") + 1 for module in modules()}
    assert not {name: lines for name, lines in sizes.items() if lines > MAY_BE_LONGER.get(name, FILE_LINES)}


def test_a_function_fits_on_a_screen():
    sizes = {
        f"{module.shown}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef)
    }
    assert not {name: lines for name, lines in sizes.items() if lines > MAY_BE_LONGER.get(name, FUNCTION_LINES)}


def test_a_module_says_what_it_is():
    assert not [module.shown for module in modules() if len(ast.get_docstring(module.tree) or "") < 20]


def test_no_drawer_for_odds_and_ends():
    assert not [module.shown for module in modules() if DRAWERS & set(module.name.split("."))]


def test_no_exception_is_swallowed():
    """Catch what you expect, or log it, or raise it again."""
    handlers = [(module, node) for module, node in nodes(ast.ExceptHandler) if catches_everything(node)]
    assert not [f"{module.shown}:{node.lineno}" for module, node in handlers if not speaks(node)]


def test_money_is_never_a_float():
    fields = [(module, node) for module, node in nodes(ast.AnnAssign) if isinstance(node.target, ast.Name)]
    assert not [
        f"{module.shown}:{node.lineno}"
        for module, node in fields
        if node.target.id.endswith(("_micros", "_picos")) and "float" in ast.unparse(node.annotation)
    ]


def test_comments_are_no_to_do_list():
    found = []
    for module in modules():
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
            if token.type == tokenize.COMMENT and any(
                word in token.string for word in ("TODO", "FIXME", "XXX", "HACK")
            ):
                found.append(f"{module.shown}:{token.start[0]}")
    assert not found


def test_the_exceptions_still_exist():
    """A name in MAY_BE_LONGER whose file is gone or short enough has to leave the list."""
    sizes = {module.shown: module.text.count("\n") + 1 for module in modules()}
    assert not [name for name in MAY_BE_LONGER if ":" not in name and sizes.get(name, 0) <= FILE_LINES]


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[Module, Any]]:
    """Every syntax node of these kinds, with its module."""
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, kinds):
                yield module, node


def catches_everything(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)


def speaks(handler: ast.ExceptHandler) -> bool:
    """Whether the handler raises, logs, or does something with the exception it caught."""
    for node in ast.walk(ast.Module(body=handler.body, type_ignores=[])):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Name) and node.id == handler.name):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "exception":
            return True
    return False
