"""What `[compress] steps` say, checked before anything is trained: every problem at once, without torch.

    prune:0.5            half of the weights become zero, the smallest of all layers together (prune:0.5:layer: of each)
    structured:0.25      a quarter of the heads, neurons or channels is really removed (structured:0.25:neurons: those)
    distil:3             a student with 3 layers learns from the model; distil:bilstm, one of another architecture
    qat                  training that feels 8-bit rounding (qat:2: for 2 epochs)
    int8-dynamic         8-bit weights; what goes in is rounded at run time        int8-static: by calibrated scales
    4bit                 4-bit weights in blocks of 32, embeddings in 8 bits
    sparse               zeros are not stored
"""

from dataclasses import dataclass
from typing import Any, Final

from tollway.forge.compress.outline import TAUGHT, Outline
from tollway.forge.models import options as architectures
from tollway.kit.errors import BadRequest

GROUPS: Final = ("heads", "neurons", "channels")
_LAST: Final = ("int8-dynamic", "int8-static", "4bit", "sparse")  # forms of storage: nothing may train after them
_WORDS: Final = ("prune", "structured", "distil", "qat", *_LAST)
OPTIONS: Final = {
    "teacher": "a model folder that teaches; default: the model itself",
    "student": "options of the student's architecture",
    "epochs": "of distillation; default 3",
    "temperature": "of the teacher's answers; default 2",
    "hidden": "weight of the inner states' difference; default 0.1",
    "learning_rate": "of every training here",
    "rows": "how many held-out rows each step is measured on; default 1000",
}


@dataclass(frozen=True)
class Step:
    """One step, read."""

    text: str
    kind: str
    amount: float = 0.0
    detail: str = ""


def check(part: Any, task: str, model: Outline | None = None, members: int = 1) -> list[Step]:
    """The steps of `[compress]`. Raises BadRequest that lists everything that cannot work. `model`: what is known of the one
    that will be compressed; `members`: how many it is made of."""
    problems: list[str] = []
    steps: list[Step] = []
    for number, text in enumerate(part.steps, 1):
        try:
            steps.append(read(text))
        except ValueError as error:
            problems.append(f"step {number} {text!r}: {error}")
    storing = ""
    for step in steps:
        if storing:
            problems.append(f"{step.text!r} comes after {storing!r}, which says how weights are stored: that is the last step")
        if step.kind in _LAST:
            storing = step.text
    problems += _wanting(steps, part, task, model or Outline())
    if members > 1:
        problems.append(f"an ensemble of {members} models is not compressed: set soup = true, which makes one of them")
    strange = sorted(set(part.options) - set(OPTIONS))
    if strange:
        problems.append(f"[compress] options has {', '.join(strange)}; it knows {', '.join(OPTIONS)}")
    if problems:
        raise BadRequest(
            "[compress] cannot work:\n  " + "\n  ".join(problems), code="invalid_recipe",
            hint="Steps look like prune:0.5, structured:0.25, distil:3, qat, int8-dynamic, int8-static, 4bit, sparse.",
        )  # fmt: skip
    return steps


def _wanting(steps: list[Step], part: Any, task: str, model: Outline) -> list[str]:
    """What the steps want of the model that it does not have; each step finds what the one before it left."""
    problems = []
    for step in steps:
        if step.kind == "distil" and task not in TAUGHT:
            problems.append(f"{step.text!r}: a student learns from one answer for each row, which {task} has not")
        elif step.kind == "distil" and step.detail:
            problems += _no_student(step, part, task)
            model = Outline()
        elif step.kind == "distil":
            if model.layers is not None and model.layers <= step.amount:
                problems.append(
                    f"{step.text!r}: the model has {model.layers} layers, a student needs fewer of them"
                    "; name an architecture instead, such as distil:bilstm"
                )
            model = Outline(int(step.amount), model.units)
        elif step.kind == "structured" and model.units is not None:
            kinds = (step.detail,) if step.detail else GROUPS
            if not set(kinds) & set(model.units):
                problems.append(
                    f"{step.text!r}: the model has no {' or '.join(kinds)} that can be removed"
                    + (f", but {' and '.join(model.units)}" if model.units else "; distil it")
                )
    return problems


def _no_student(step: Step, part: Any, task: str) -> list[str]:
    """Why there is no student of that architecture; nothing when there is one."""
    try:
        named = architectures.of(step.detail)
        if task not in named.tasks:
            return [f"{step.text!r}: {step.detail} does not do {task}"]
        architectures.parse(named.options, part.options.get("student", {}), "[compress] options.student:")
    except BadRequest as error:
        return [f"{step.text!r}: {error.message} {error.hint}".strip()]
    return []


def read(text: str) -> Step:
    """One step from its words. Raises ValueError saying what is wrong."""
    kind, *words = text.strip().split(":")
    if kind not in _WORDS:
        import difflib

        close = difflib.get_close_matches(kind, _WORDS, n=1)
        raise ValueError(f"there is no such step{f'; did you mean {close[0]}?' if close else ''}")
    if kind in _LAST:
        if words:
            raise ValueError(f"{kind} takes nothing behind it")
        return Step(text, kind)
    if kind == "distil":
        if len(words) != 1 or not words[0]:
            raise ValueError("say how many layers the student has, or its architecture: distil:3, distil:bilstm")
        layers = int(words[0]) if words[0].isdigit() else 0
        if words[0].isdigit() and layers < 1:
            raise ValueError("a student has at least one layer")
        return Step(text, kind, layers, "" if layers else words[0])
    if kind == "qat":
        if len(words) > 1:
            raise ValueError("qat takes one number at most: its epochs")
        return Step(text, kind, _number(words[0], 0, 100) if words else 1.0)
    if not 1 <= len(words) <= 2:
        raise ValueError(f"say how much: {kind}:0.5")
    return Step(text, kind, _number(words[0], 0, 1), _word(kind, words[1]) if len(words) == 2 else "")


def _word(kind: str, word: str) -> str:
    known = ("layer", "global") if kind == "prune" else GROUPS
    if word not in known:
        raise ValueError(f"{word!r} is none of {', '.join(known)}")
    return word


def _number(word: str, low: float, high: float) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{word!r} is no number") from None
    if not low < value < high:
        raise ValueError(f"{word} is not between {low} and {high}")
    return value
