"""Augmentation: changed copies of the training rows, so that a model meets more ways to say (or show) the same.

    text      synonym:0.1   noise:0.05   delete:0.1   swap:0.1   back-translation:Chinese,model=NAME
    image     flip  flip-vertical  shift:2  crop:0.9  rotate:15  noise:0.05  brightness:0.2
    table     noise:0.05 (numbers, in standard deviations)

Each step adds one copy of every row of the train split (`,share=0.5`: of half of them) and drops copies that came out
unchanged; labels stay. The number is how much is changed. The same seed gives the same copies.

Back-translation goes through a chat model (`model=NAME` of this shop while it is up, or of any other with `url=http://HOST/v1`;
`key_env` names the variable that holds the key), or through two translation models (`there=` and `back=`: packages on the
shelf, Hugging Face folders or ids).
"""

import difflib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tollway.kit.errors import BadRequest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Pixels = np.ndarray[Any, Any]

Translate = Callable[[Sequence[str], str], list[str]]
"""Texts and the name of a language -> the texts in it."""
Opener = Callable[[Mapping[str, str]], Translate]
"""A step's options -> its translator."""
_TRANSLATED: Final = (
    "back-translation:Chinese,model=NAME (with url=http://HOST/v1 if it is not this shop's) "
    "or back-translation:German,there=MODEL,back=MODEL"
)
_TEXT: Final = {"synonym": 0.1, "noise": 0.05, "delete": 0.1, "swap": 0.1, "back-translation": 0.0}
_IMAGE: Final = {"flip": 0.0, "flip-vertical": 0.0, "shift": 2.0, "crop": 0.9, "rotate": 15.0, "noise": 0.05, "brightness": 0.2}
_TABLE: Final = {"noise": 0.05}
_NONE: Final = ("token-classification", "question-answering", "chat", "preference", "recommendation",
               "object-detection")  # fmt: skip
_RANGES: Final = {"shift": (1, 1000), "rotate": (0.1, 180), "crop": (0.1, 1)}
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z'’\-]*")
_KEYS: Final = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True)
class Step:
    """One augmentation with its amount and options."""

    name: str
    amount: float
    share: float = 1.0
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Added:
    """What one step added."""

    step: str
    rows: int
    same: int

    def __str__(self) -> str:
        left = f" ({self.same:,} left out: unchanged or in another script)" if self.same else ""
        return f"{self.step}: {self.rows:,} rows added{left}"


def known(task: str) -> dict[str, float]:
    """The augmentations of a task and their usual amounts."""
    if task in _NONE:
        return {}
    return _IMAGE if task.startswith("image") else _TABLE if task.startswith("tabular") else _TEXT


def check(steps: Sequence[str], task: str) -> list[Step]:
    """The steps, understood. Raises BadRequest naming everything that is wrong with them."""
    fit, found, wrong = known(task), [], []
    for step in steps:
        head, *rest = step.split(",")
        name, _, value = head.partition(":")
        options = dict(one.partition("=")[::2] for one in rest)
        if name not in fit:
            close = difflib.get_close_matches(name, fit, n=1)
            wrong.append(f"{name!r} is no augmentation for {task}" + (f"; did you mean {close[0]!r}?" if close else ""))
            continue
        try:
            share = float(options.pop("share", "1"))
            amount = float(value) if value and name != "back-translation" else fit[name]
        except ValueError:
            wrong.append(f"{step!r}: {value!r} is no number")
            continue
        low, high = _RANGES.get(name, (0, 1))
        if not low <= amount <= high or not 0 < share <= 1:
            wrong.append(f"{step!r}: the amount is between {low:g} and {high:g}, the share between 0 and 1")
        if name == "back-translation":
            options["language"] = value or "Chinese"
            by_chat = options.get("model") and not set(options) - {"language", "url", "model", "key_env", "from"}
            by_two = options.get("there") and options.get("back") and not set(options) - {"language", "there", "back", "from"}
            if not by_chat and not by_two:
                wrong.append(f"{step!r} is not like {_TRANSLATED}")
        elif options:
            wrong.append(f"{step!r}: {', '.join(options)} means nothing here")
        found.append(Step(name, amount, share, options))
    if wrong:
        hint = f"For {task}: {', '.join(fit)}." if fit else f"Rows of {task} cannot be changed without breaking them."
        raise BadRequest("; ".join(wrong) + ".", code="unknown_step", hint=hint)
    return found


def augment(
    table: "pa.Table", steps: Sequence[str], task: str, seed: int, opener: Opener | None = None
) -> tuple["pa.Table", list[Added]]:
    """The rows, then the copies of each step; and what each step added. `opener` finds the translator of a back-translation; without
    one only those with a URL are reached."""
    import pyarrow as pa

    parts, done = [table], []
    for asked, step in zip(steps, check(steps, task), strict=True):
        rows = _chosen(table.num_rows, step.share, f"{seed} {asked}")
        source = table.take(rows) if step.share < 1 else table
        if task.startswith("image"):
            copy, changed = _each(source, "image", step, seed, _picture)
        elif task.startswith("tabular"):
            copy, changed = _numbers(source, step, seed)
        elif step.name == "back-translation":
            copy, changed = _translated(source, step, opener or reached)
        else:
            copy, changed = _each(source, "source" if task == "translation" else "text", step, seed, _text)
        parts.append(copy.filter(pa.array(changed)))
        done.append(Added(asked, sum(changed), len(changed) - sum(changed)))
    return pa.concat_tables(parts), done


def _chosen(count: int, share: float, salt: str) -> list[int]:
    rows = list(range(count))
    random.Random(salt).shuffle(rows)  # noqa: S311 - the same copies for the same seed, no secret
    return sorted(rows[: round(share * count)])


def _each(
    table: "pa.Table", column: str, step: Step, seed: int, change: Callable[[Any, Step, random.Random], Any]
) -> tuple["pa.Table", list[bool]]:
    import pyarrow as pa

    before = table[column].to_pylist()
    after = [
        None if value is None else change(value, step, random.Random(f"{seed} {step.name} {row}"))  # noqa: S311
        for row, value in enumerate(before)
    ]
    copy = table.set_column(table.column_names.index(column), column, pa.array(after, table[column].type))
    return copy, [one != other for one, other in zip(before, after, strict=True)]


# -- text --------------------------------------------------------------------------------------------------------------


def _text(text: str, step: Step, dice: random.Random) -> str:
    match step.name:
        case "synonym":
            return _synonyms(text, step.amount, dice)
        case "noise":
            return _typos(text, step.amount, dice)
        case "delete":
            kept = [word for word in _words(text) if not word.strip() or dice.random() >= step.amount]
            return " ".join("".join(kept).split(" ")) if any(word.strip() for word in kept) else text
        case _:
            return _swapped(text, step.amount, dice)


def _words(text: str) -> list[str]:
    """Words with the space behind them; each Chinese character is a word."""
    return re.findall(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+\s*|\s+", text)


def _swapped(text: str, amount: float, dice: random.Random) -> str:
    words = _words(text)
    for place in range(len(words) - 1):
        if dice.random() < amount:
            one, other = words[place], words[place + 1]  # the words change places, the spaces stay
            words[place], words[place + 1] = other.rstrip() + _space(one), one.rstrip() + _space(other)
    return "".join(words)


def _space(word: str) -> str:
    return word[len(word.rstrip()) :]


def _synonyms(text: str, amount: float, dice: random.Random) -> str:
    """Every word that has synonyms is a candidate; as many are changed as `amount` of all words, at least one."""
    english, chinese, pattern = _lexicon()
    places = [(match.start(), match.end(), english[match.group().lower()]) for match in _WORD.finditer(text)
              if match.group().lower() in english]  # fmt: skip
    places += [(match.start(), match.end(), chinese[match.group()]) for match in pattern.finditer(text)]
    if not places:
        return text
    wanted = max(1, round(amount * len([word for word in _words(text) if word.strip()])))
    for start, end, others in sorted(dice.sample(places, min(wanted, len(places))), reverse=True):
        old = text[start:end]
        new = dice.choice([one for one in others if one != old.lower()])
        new = new.upper() if old.isupper() and len(old) > 1 else new.capitalize() if old[:1].isupper() else new
        text = text[:start] + new + text[end:]
    return text


@cache
def _lexicon() -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]], re.Pattern[str]]:
    folder = Path(__file__).parent / "words"
    english, chinese = (_groups(folder / name) for name in ("en.txt", "zh.txt"))
    longest_first = sorted(chinese, key=len, reverse=True)
    return english, chinese, re.compile("|".join(map(re.escape, longest_first)))


def _groups(path: Path) -> dict[str, tuple[str, ...]]:
    """word -> its group; a word that stands in two groups belongs to the first."""
    found: dict[str, tuple[str, ...]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        words = tuple(line.split()) if not line.startswith("#") else ()
        for word in words:
            found.setdefault(word, words)
    return found


def _typos(text: str, amount: float, dice: random.Random) -> str:
    """Characters dropped, doubled, swapped, or replaced by a neighbour on the keyboard."""
    out = list(text)
    place = 0
    while place < len(out):
        if out[place].isalnum() and dice.random() < amount:
            what = dice.randrange(4)
            if what == 0 and len(out) > 1:
                del out[place]
                continue
            if what == 1:
                out.insert(place, out[place])
                place += 1
            elif what == 2 and place + 1 < len(out):
                out[place], out[place + 1] = out[place + 1], out[place]
            else:
                out[place] = _neighbour(out[place], dice)
        place += 1
    return "".join(out)


def _neighbour(letter: str, dice: random.Random) -> str:
    for row in _KEYS:
        at = row.find(letter.lower())
        if at >= 0:
            near = row[max(0, at - 1) : at] + row[at + 1 : at + 2]
            new = dice.choice(near)
            return new.upper() if letter.isupper() else new
    return letter


def reached(options: Mapping[str, str]) -> Translate:
    """The chat model at a URL. Raises BadRequest without one."""
    from tollway.forge.data.translator import Translator

    if not options.get("url"):
        raise BadRequest("A back-translation without a url needs a shop.", hint=f"Write it like {_TRANSLATED}.")
    return Translator(options["url"], options["model"], options.get("key_env", ""))


def _translated(table: "pa.Table", step: Step, opener: Opener) -> tuple["pa.Table", list[bool]]:
    import pyarrow as pa

    from tollway.forge.data.statistics import languages

    before = [text or "" for text in table["text"].to_pylist()]
    home = step.options.get("from") or ("Chinese" if next(iter(languages(before)), "") == "Chinese" else "English")
    if home.lower() == step.options["language"].lower():
        raise BadRequest(f"The texts are in {home} already: translate them into another language and back.")
    translate = opener(step.options)
    after = translate(translate(before, step.options["language"]), home)
    changed = [_says_it_otherwise(old.strip(), new.strip()) for old, new in zip(before, after, strict=True)]
    return table.set_column(table.column_names.index("text"), "text", pa.array(after, pa.string())), changed


def _says_it_otherwise(old: str, new: str) -> bool:
    """Whether a text came back, in other words and in the script it was written in: a weak translator stays abroad."""
    from tollway.forge.data.statistics import languages

    return bool(new) and new != old and next(iter(languages([new])), "") == next(iter(languages([old])), "")


# -- images and tables -------------------------------------------------------------------------------------------------


def _picture(data: bytes, step: Step, dice: random.Random) -> bytes:
    import numpy as np
    from PIL import Image

    from tollway.forge.data.images import pixels, png

    source = pixels(data)
    height, width = source.shape[:2]
    match step.name:
        case "flip":
            made = source[:, ::-1]
        case "flip-vertical":
            made = source[::-1]
        case "shift":
            down, right = 0, 0
            while not (down or right):
                down, right = (dice.randint(-round(step.amount), round(step.amount)) for _ in range(2))
            made = np.zeros_like(source)
            made[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = source[
                max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
            ]
        case "crop":
            tall, wide = max(1, round(height * step.amount)), max(1, round(width * step.amount))
            top, left = dice.randint(0, height - tall), dice.randint(0, width - wide)
            part = Image.fromarray(np.ascontiguousarray(source[top : top + tall, left : left + wide]))
            made = np.asarray(part.resize((width, height), Image.Resampling.BILINEAR))
        case "rotate":
            angle = dice.uniform(-step.amount, step.amount)
            made = np.asarray(Image.fromarray(source).rotate(angle, Image.Resampling.BILINEAR))
        case "brightness":
            made = source * (1 + dice.uniform(-step.amount, step.amount))
        case _:
            noise = np.random.Generator(np.random.PCG64(dice.getrandbits(64))).normal(0, 255 * step.amount, source.shape)
            made = source + noise
    return png(np.ascontiguousarray(made.clip(0, 255).astype(np.uint8)))


def _numbers(table: "pa.Table", step: Step, seed: int) -> tuple["pa.Table", list[bool]]:
    """Gaussian noise on the feature columns of numbers, in units of their standard deviation; whole numbers stay whole."""
    import numpy as np
    import pyarrow as pa

    dice = np.random.Generator(np.random.PCG64(seed))
    moved = False
    for place, name in enumerate(table.column_names):
        kind = table[name].type
        if name in ("label", "target") or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            continue
        values = np.asarray(table[name].cast(pa.float64(), safe=False).fill_null(float("nan")))
        spread = np.nanstd(values) if np.isfinite(values).any() else 0.0
        values = values + dice.normal(0, step.amount * float(spread), len(values))
        if pa.types.is_integer(kind):
            values = values.round()
        column = pa.array(values, pa.float64(), from_pandas=True).cast(kind, safe=False)
        table = table.set_column(place, name, column)
        moved = True
    return table, [moved] * table.num_rows
