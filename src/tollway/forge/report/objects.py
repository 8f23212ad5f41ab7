"""The report's part on detected objects: the precision of each label, and pictures with the boxes drawn on them."""

import base64
from collections.abc import Mapping
from typing import Any

from tollway.forge.report.markup import Child, Markup, card, table, tag
from tollway.forge.report.story import Story
from tollway.forge.report.words import Words

_SIZE_AT = 16  # of a PNG file, where its header says width and height
_NAME_SHARE = 14  # of the picture's height: how small a label is written


def classes(story: Story, t: Words) -> Child:
    """Average precision of each label, the weakest first."""
    metrics = story.scores.metrics if story.scores else {}
    names = [name.removeprefix("ap.") for name in metrics if name.startswith("ap.")]
    if not names:
        return None
    names.sort(key=lambda name: metrics[f"ap.{name}"].value or 0.0)
    rows = []
    for name in names[:40]:
        one, half = metrics[f"ap.{name}"], metrics[f"ap50.{name}"]
        rows.append((name, t.number(one.value), t.interval(one.low, one.high), t.number(half.value)))
    heads = (t("quality.class"), t.metric("ap"), t("quality.interval"), t.metric("ap50"))
    return card(t("quality.classes"), table(heads, rows, (1, 2, 3)), id="classes")


def drawn(row: Mapping[str, Any]) -> Child:
    """A picture with what is there (dashed) and what was found; None where it cannot be shown."""
    picture = row["input"].get("image")
    if not isinstance(picture, str) or not picture.startswith("data:image/png;base64,"):
        return None
    head = base64.b64decode(picture.partition(",")[2][:64])
    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (_SIZE_AT, _SIZE_AT + 4))
    boxes = [_box(one, "there") for one in row["truth"].get("boxes") or ()]
    boxes += [_box(one, "found") for one in row["answer"].get("boxes") or ()]
    names = [_name(one, height) for one in row["answer"].get("boxes") or ()]
    image = tag("image", href=picture, width=width, height=height)
    return tag("svg", image, *boxes, *names, viewBox=f"0 0 {width} {height}", cls="picture objects", aria_hidden="true")


def _box(one: Mapping[str, Any], cls: str) -> Markup:
    left, top, right, bottom = one["box"]
    title = f"{one['label']} {one['score']:.0%}" if "score" in one else one["label"]
    size = {"width": round(right - left, 1), "height": round(bottom - top, 1)}
    return tag("rect", tag("title", title), x=round(left, 1), y=round(top, 1), **size, cls=cls)


def _name(one: Mapping[str, Any], height: int) -> Markup:
    size = max(1.0, height / _NAME_SHARE)
    return tag(
        "text", one["label"], x=round(one["box"][0] + 1, 1), y=round(one["box"][1] + size, 1), font_size=round(size, 1)
    )
