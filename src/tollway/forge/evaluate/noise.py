"""Noise put on rows to see how much a model depends on clean input: typing errors, case, pixel noise, missing values.

`kinds(task)` says which apply; `noisy(kind, level, rows, seed)` gives the same rows disturbed. The truth is never touched.
"""

import io
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tollway.forge.evaluate import names

Row = Mapping[str, Any]
NEAR = {
    "a": "qsz", "b": "vgn", "c": "xdv", "d": "sfe", "e": "wrd", "f": "dgr", "g": "fht", "h": "gjy", "i": "uok", "j": "hku",
    "k": "jli", "l": "kop", "m": "n", "n": "bm", "o": "ipl", "p": "ol", "q": "wa", "r": "etf", "s": "adw", "t": "ryg",
    "u": "yij", "v": "cb", "w": "qes", "x": "zc", "y": "tuh", "z": "xa",
}  # fmt: skip
TEXTS = ("text", "source", "question")
NOT_INPUT = frozenset({"label", "target"})


def kinds(task: str) -> tuple[str, ...]:
    """The kinds of noise that make sense for a task; `case` has no level."""
    return tuple(names.NOISE.get(task, ()))


def noisy(kind: str, level: float, rows: Sequence[Row], seed: int = 0) -> list[dict[str, Any]]:
    """The rows with noise of a kind: level = share of characters, of values, or standard deviation (pixels 0..1)."""
    rng = random.Random(seed)  # noqa: S311 - noise, not a secret
    if kind == "jitter":
        spread = _spreads(rows)
        return [{name: _jittered(name, value, level, spread, rng) for name, value in row.items()} for row in rows]
    change = KINDS[kind]
    return [{name: change(name, value, level, rng) for name, value in row.items()} for row in rows]


def _typos(name: str, value: Any, level: float, rng: random.Random) -> Any:
    """A share of the characters swapped, dropped, doubled or replaced by a neighbour on the keyboard."""
    if name not in TEXTS or not isinstance(value, str):
        return value
    out, at = [], 0
    while at < len(value):
        char = value[at]
        if char.isspace() or rng.random() >= level:
            out.append(char)
        else:
            way = rng.randrange(4)
            if way == 0 and at + 1 < len(value):
                out.append(value[at + 1] + char)
                at += 1
            elif way == 1:
                out.append(char * 2)
            elif way == 2 and char.lower() in NEAR:
                near = rng.choice(NEAR[char.lower()])
                out.append(near.upper() if char.isupper() else near)
        at += 1
    return "".join(out) or value


def _case(name: str, value: Any, level: float, rng: random.Random) -> Any:
    """Everything in capitals."""
    if name == "tokens":
        return [str(token).upper() for token in value]
    return value.upper() if name in TEXTS and isinstance(value, str) else value


def _missing(name: str, value: Any, level: float, rng: random.Random) -> Any:
    """A share of the values is gone."""
    return None if _is_input(name) and rng.random() < level else value


def _pixels(name: str, value: Any, level: float, rng: random.Random) -> Any:
    """Gaussian noise on every pixel."""
    if name != "image" or not isinstance(value, bytes):
        return value
    from PIL import Image

    opened = Image.open(io.BytesIO(value))
    picture = opened if opened.mode in ("L", "RGB") else opened.convert("RGB")
    draw = np.random.default_rng(rng.getrandbits(32))
    array = np.asarray(picture, dtype=np.float64)
    array = np.clip(array + draw.normal(0, 255 * level, array.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(array).save(out, format="PNG")
    return out.getvalue()


def _jittered(name: str, value: Any, level: float, spread: Mapping[str, float], rng: random.Random) -> Any:
    """Numbers moved by a share of their column's standard deviation (whole numbers too: they become fractions)."""
    if name not in spread or value is None or isinstance(value, bool):
        return value
    return float(value) + rng.gauss(0, level * spread[name])


def _spreads(rows: Sequence[Row]) -> dict[str, float]:
    found = {}
    for name in rows[0] if rows else ():
        values = [row.get(name) for row in rows if row.get(name) is not None]
        if (
            _is_input(name)
            and values
            and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)
        ):
            found[name] = float(np.std(np.asarray(values, dtype=np.float64)))
    return found


def _is_input(name: str) -> bool:
    return name not in NOT_INPUT and not name.startswith("x_")


KINDS: dict[str, Callable[[str, Any, float, random.Random], Any]] = {
    "typos": _typos, "case": _case, "missing": _missing, "pixels": _pixels,
}  # fmt: skip
