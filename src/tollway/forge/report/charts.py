"""Charts as inline SVG. Colours come from the page's style, so that one drawing serves light, dark and paper."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from tollway.forge.report.markup import Child, Markup, tag

WIDTH, HEIGHT = 560, 210
LEFT, RIGHT, TOP, BOTTOM = 54, 22, 10, 26
POINTS_MAX = 240

Curve = Sequence[tuple[float, float]]


def lines(curves: Mapping[str, Curve], label: str, titles: Mapping[str, str] | None = None, unit: str = "") -> Markup:
    """Some curves over one x axis; the second and third are told apart by dashes as well as by colour."""
    known = {name: _thin([point for point in curve if math.isfinite(point[1])]) for name, curve in curves.items()}
    known = {name: curve for name, curve in known.items() if curve}
    if not known:
        return Markup("")
    x_low, x_high = _range([x for curve in known.values() for x, _ in curve])
    y_low, y_high = _range([y for curve in known.values() for _, y in curve], pad=0.05)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    drawn: list[Child] = [_grid(y_low, y_high, x_low, x_high, place, unit)]
    for at, curve in enumerate(known.values()):
        points = " ".join(f"{x},{y}" for x, y in (place(*point) for point in curve))
        drawn.append(tag("polyline", points=points, cls=f"line s{at % 3}"))
        last = place(*curve[-1])
        drawn.append(tag("circle", cx=last[0], cy=last[1], r=3, cls=f"dot s{at % 3}"))
    return tag(
        "figure",
        _legend([(titles or {}).get(name, name) for name in known]),
        _svg(WIDTH, HEIGHT, label, *drawn),
        cls="chart",
    )


def _legend(names: Sequence[str]) -> Markup:
    return (
        tag("ul", [tag("li", name, cls=f"s{at % 3}") for at, name in enumerate(names)], cls="legend")
        if len(names) > 1
        else Markup("")
    )


def _grid(y_low: float, y_high: float, x_low: float, x_high: float, place, unit: str) -> list[Markup]:  # type: ignore[no-untyped-def]
    drawn = []
    for value in _ticks(y_low, y_high):
        _, down = place(x_low, value)
        drawn.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=down, y2=down, cls="rule"))
        drawn.append(tag("text", short(value), x=LEFT - 6, y=down + 4, cls="tick end"))
    for value in _ticks(x_low, x_high, 6):
        across, _ = place(value, y_low)
        drawn.append(tag("text", short(value) + unit, x=across, y=HEIGHT - 8, cls="tick middle"))
    return drawn


def reliability(points: Sequence[Mapping[str, float]], label: str, says: tuple[str, str]) -> Markup:
    """How often an answer is right (up) that is so sure (across); the diagonal is honesty. Dots grow with their rows."""
    size, margin = 260, 34
    span, most = size - margin - 12, max((point["rows"] for point in points), default=1)

    def place(x: float, y: float) -> tuple[float, float]:
        return round(margin + x * span, 1), round(size - margin - y * span, 1)

    low, high = place(0, 0), place(1, 1)
    drawn: list[Child] = [tag("rect", x=low[0], y=high[1], width=span, height=span, cls="frame")]
    drawn.append(tag("line", x1=low[0], y1=low[1], x2=high[0], y2=high[1], cls="rule dashed"))
    shown = [(*place(point["confidence"], point["accuracy"]), point) for point in points]
    drawn += [tag("line", x1=a[0], y1=a[1], x2=b[0], y2=b[1], cls="line s0") for a, b in pairwise(shown)]
    for x, y, point in shown:
        radius = 3 + 6 * math.sqrt(point["rows"] / most)
        title = tag("title", f"{point['confidence']:.2f} → {point['accuracy']:.2f} ({int(point['rows'])})")
        drawn.append(tag("circle", title, cx=x, cy=y, r=round(radius, 1), cls="dot s0 soft"))
    for value in (0, 0.5, 1):
        across, down = place(value, value)
        drawn += [
            tag("text", f"{value:g}", x=across, y=size - margin + 15, cls="tick middle"),
            tag("text", f"{value:g}", x=margin - 6, y=down + 4, cls="tick end"),
        ]
    drawn.append(tag("text", says[0], x=margin + span / 2, y=size - 4, cls="tick middle"))
    drawn.append(
        tag("text", says[1], x=0, y=0, cls="tick middle", transform=f"translate(10 {size / 2 - 8}) rotate(-90)")
    )
    return tag("figure", _svg(size, size, label, *drawn), cls="chart square")


def differences(
    rows: Sequence[tuple[str, float | None, float | None, float | None]], label: str, better: str, worse: str
) -> Markup:
    """Differences with their intervals against zero: right of the line is better."""
    ends = [value for row in rows for value in row[1:] if value is not None]
    if not ends:
        return Markup("")
    reach = max(max(abs(value) for value in ends) * 1.12, 1e-9)
    name_width, step = 170, 30
    height, width = 52 + step * len(rows), WIDTH
    middle, half = name_width + (width - name_width - 12) / 2, (width - name_width - 24) / 2

    def across(value: float) -> float:
        return round(middle + value / reach * half, 1)

    drawn: list[Child] = [tag("line", x1=middle, x2=middle, y1=6, y2=height - 44, cls="axis")]
    for at, (name, value, low, high) in enumerate(rows):
        y = 20 + at * step
        drawn.append(tag("text", name, x=name_width - 10, y=y + 4, cls="name end"))
        if value is None:
            continue
        tone = "good" if low is not None and low > 0 else "bad" if high is not None and high < 0 else "unsure"
        if low is not None and high is not None:
            drawn.append(tag("line", x1=across(low), x2=across(high), y1=y, y2=y, cls=f"whisker {tone}"))
        drawn.append(tag("circle", tag("title", signed(value)), cx=across(value), cy=y, r=5, cls=f"point {tone}"))
    for value in (-reach / 1.12, 0.0, reach / 1.12):
        drawn.append(tag("text", signed(value) if value else "0", x=across(value), y=height - 26, cls="tick middle"))
    drawn.append(tag("text", f"← {worse}", x=name_width, y=height - 8, cls="tick start muted"))
    drawn.append(tag("text", f"{better} →", x=width - 4, y=height - 8, cls="tick end muted"))
    return tag("figure", _svg(width, height, label, *drawn), cls="chart medium")


def bars(rows: Sequence[tuple[str, float]], label: str) -> Markup:
    """Signed bars: to the right for, to the left against. Not SVG: long names have to wrap."""
    reach = max((abs(value) for _, value in rows), default=0) or 1.0
    drawn = []
    for name, value in rows:
        share, side = round(50 * abs(value) / reach, 1), "left" if value >= 0 else "right"
        bar = tag("i", cls="for" if value >= 0 else "against", style=f"{side}: 50%; width: {share}%")
        drawn.append(tag("li", tag("span", name), tag("span", bar, cls="track"), tag("span", signed(value), cls="num")))
    return tag("ul", drawn, cls="bars", aria_label=label)


def heat(matrix: Sequence[Sequence[float]], names: Sequence[str], label: str) -> Markup:
    """A square of shares, e.g. where each word looks."""
    cell, margin = 20, 84
    size = margin + cell * len(names) + 4
    most = max((value for row in matrix for value in row), default=1) or 1
    drawn: list[Child] = []
    for down, row in enumerate(matrix):
        drawn.append(tag("text", names[down][:12], x=margin - 6, y=margin + down * cell + 14, cls="tick end"))
        top = f"translate({margin + down * cell + 14} {margin - 6}) rotate(-60)"
        drawn.append(tag("text", names[down][:12], x=0, y=0, cls="tick start", transform=top))
        for across, value in enumerate(row):
            title = tag("title", f"{names[down]} → {names[across]}: {value:.2f}")
            drawn.append(
                tag(
                    "rect",
                    title,
                    x=margin + across * cell,
                    y=margin + down * cell,
                    width=cell - 1,
                    height=cell - 1,
                    cls="for",
                    fill_opacity=round(value / most, 3),
                )
            )
    return tag("figure", _svg(size + 30, size, label, *drawn), cls="chart natural")


def overlay(image: str, width: int, height: int, cells: Sequence[tuple[Sequence[int], float]], label: str) -> Markup:
    """A picture with its cells tinted by weight: one colour for, another against; strength is opacity."""
    reach = max((abs(weight) for _, weight in cells), default=0) or 1.0
    drawn: list[Child] = [
        tag("image", href=image, x=0, y=0, width=width, height=height, style="image-rendering: pixelated")
    ]
    for (left, top, right, bottom), weight in cells:
        drawn.append(tag(
            "rect", tag("title", signed(weight)), x=left, y=top, width=right - left, height=bottom - top,
            cls="for" if weight >= 0 else "against", fill_opacity=round(0.85 * abs(weight) / reach, 3),
        ))  # fmt: skip
    return tag("svg", *drawn, viewBox=f"0 0 {width} {height}", cls="overlay", role="img", aria_label=label)


def _svg(width: float, height: float, label: str, *children: Child) -> Markup:
    return tag("svg", *children, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)


def _thin(curve: Curve) -> Curve:
    """At most POINTS_MAX points: the mean of each stretch."""
    if len(curve) <= POINTS_MAX:
        return list(curve)
    size = len(curve) / POINTS_MAX
    found = []
    for at in range(POINTS_MAX):
        part = curve[int(at * size) : max(int((at + 1) * size), int(at * size) + 1)]
        found.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return found


def _range(values: Sequence[float], pad: float = 0.0) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return low - 0.5, high + 0.5
    return low - (high - low) * pad, high + (high - low) * pad


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = min((size * power for size in (1, 2, 2.5, 5, 10)), key=lambda size: abs(size - raw))
    first = math.ceil(low / step - 1e-9)
    return [at * step for at in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A tick's number: 1.2k, 0.35, 12."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}".replace("e-0", "e-") if abs(value) > 1e-12 else "0"


def signed(value: float) -> str:
    """With its sign: +0.031, −0.2."""
    return f"{value:+.3g}".replace("-", "−")
