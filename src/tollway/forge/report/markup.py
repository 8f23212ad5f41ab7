"""HTML as nested calls, escaped by default: `tag("p", "a < b", cls="lead")`. The factory has no template engine."""

import html
from collections.abc import Iterable
from typing import Any


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


VOID = frozenset({"img", "br", "hr", "meta", "line", "rect", "circle", "path", "polyline", "polygon"})
Child = Any  # a Markup, text, number, None (nothing), or an iterable of those


def tag(name: str, /, *children: Child, cls: str = "", **attributes: Any) -> Markup:
    """An element. Attributes: `_` becomes `-`; None and False leave one out."""
    if cls:
        attributes = {"class": cls, **attributes}
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = join(children)
    return Markup(f"<{name}{written}/>" if name in VOID and not inner else f"<{name}{written}>{inner}</{name}>")


def join(children: Iterable[Child], between: str = "") -> Markup:
    """Children one after another."""
    return Markup(between.join(_one(child) for child in children))


def _one(child: Child) -> str:
    if child is None or child is False:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, (list, tuple)) or (isinstance(child, Iterable) and not isinstance(child, (str, bytes))):
        return join(child)
    return html.escape(str(child), quote=False)


def table(
    heads: Iterable[Child], rows: Iterable[Iterable[Child]], numbers: Iterable[int] = (), cls: str = ""
) -> Markup:
    """A table whose first cell of each row is its head; `numbers` are the columns set right, in tabular digits."""
    right = set(numbers)
    head = tag(
        "thead",
        tag("tr", [tag("th", one, scope="col", cls="num" if at in right else "") for at, one in enumerate(heads)]),
    )
    body = [
        tag("tr", [
            tag("th" if at == 0 else "td", cell, scope="row" if at == 0 else None, cls="num" if at in right else "")
            for at, cell in enumerate(row)
        ])
        for row in rows
    ]  # fmt: skip
    return tag("div", tag("table", head, tag("tbody", body), cls=cls), cls="scroll", tabindex="0")


def badge(text: Child, tone: str = "") -> Markup:
    """A small rounded word."""
    return tag("span", text, cls=f"badge {tone}".strip())


def card(title: Child, *children: Child, note: Child = None, id: str | None = None, cls: str = "") -> Markup:
    """A titled surface."""
    head = tag("div", tag("h2", title), tag("p", note, cls="muted small") if note else None, cls="card-head")
    return tag("section", head, *children, cls=f"card {cls}".strip(), id=id)
