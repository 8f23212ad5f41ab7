"""How each task is judged: which rows are asked, what the answers are compared with, which measures that allows.

`judge(task, predictor, rows, known)` works on any Predictor: a served format, the torch reference, a simple baseline. All of
them get the same rows, so that their figures can be compared pairwise.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate import abilities, classification, detection, language, pictures, ranking, regression
from tollway.forge.evaluate.measures import Measure, mean, of_sums
from tollway.inference import image as images
from tollway.kit.errors import BadRequest

Row = Mapping[str, Any]
Answer = Mapping[str, Any]
TARGETS = frozenset({"label", "target", "tags", "answer", "answer_start", "rating", "time", "chosen", "rejected", "boxes"})
USERS_MAX = 1000
LEAST_SCORE = 0.4  # of a box that is shown, where a package does not say


class Predictor(Protocol):
    """Anything that answers rows: `inference.Predictor`, `forge.models.TorchPredictor`, a baseline of ours."""

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]: ...


@dataclass
class Known:
    """What judging may know besides the test rows: the labels of the model, what users had before, the usual rating, and
    for made pictures a classifier that tells the classes of real ones."""

    labels: tuple[str, ...] = ()
    seen: dict[str, set[str]] = field(default_factory=dict)
    liked_from: float = -math.inf
    telling: Any = None  # a Predictor of labels


@dataclass
class Case:
    """The judged rows of one predictor. A unit is what is resampled: a row, or a user with all their rows."""

    measures: dict[str, Measure]
    answers: list[dict[str, Any]]
    unit_rows: NDArray[np.int64]  # for each unit, the place of a row that carries its columns
    judged: classification.Judged | None = None
    row_score: NDArray[np.float64] | None = None  # per unit, higher is better: for picking examples

    @property
    def units(self) -> int:
        return len(self.unit_rows)

    @property
    def primary(self) -> Measure:
        return next(iter(self.measures.values()))


def known_of(task: str, train: Sequence[Row], predictor: Any = None) -> Known:
    """What the training rows tell judging."""
    known = Known(labels=tuple(getattr(getattr(predictor, "features", None), "labels", None) or ()))
    if task == "recommendation":
        seen: defaultdict[str, set[str]] = defaultdict(set)
        for row in train:
            seen[str(row["user"])].add(str(row["item"]))
        ratings = [float(row["rating"]) for row in train if row.get("rating") is not None]
        known.seen = dict(seen)
        known.liked_from = float(np.mean(ratings)) if ratings and len(set(ratings)) > 1 else -math.inf
    return known


def judge(task: str, predictor: Predictor, rows: Sequence[Row], known: Known) -> Case:
    """Ask the predictor and measure its answers. Raises BadRequest for a task nobody knows to judge, or no rows."""
    if not rows:
        raise BadRequest(
            "There are no rows to evaluate on.", hint="Give the split a test share: [data] split = {test = 0.1}."
        )
    way = JUDGES.get(task)
    if way is None:
        raise BadRequest(f"No evaluation is known for the task {task}.")
    return way(predictor, rows, known)


def ask(predictor: Predictor, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The predictor's answers to rows of which it gets only the fields it knows (never the truth)."""
    features = getattr(predictor, "features", None)
    fields = set(features.fields()) if features is not None else None
    asked = [
        {name: value for name, value in row.items()
         if (name in fields if fields is not None else name not in TARGETS and not name.startswith("x_"))}
        for row in rows
    ]  # fmt: skip
    answers = predictor.predict(asked)
    if len(answers) != len(rows):
        raise BadRequest(f"The predictor gave {len(answers)} answers to {len(rows)} rows.")
    return answers


def _case(measures: Sequence[Measure], answers: list[dict[str, Any]], **more: Any) -> Case:
    units = more.pop("unit_rows", None)
    return Case(
        {one.name: one for one in measures}, answers, np.arange(len(answers)) if units is None else units, **more
    )


def _classes(predictor: Predictor, rows: Sequence[Row], known: Known) -> Case:
    answers = ask(predictor, rows)
    judged = classification.judge([str(row["label"]) for row in rows], answers, known.labels)
    sure = np.where(np.isnan(judged.confidence), 1.0, judged.confidence)
    return _case(classification.measures(judged), answers, judged=judged, row_score=np.where(judged.right, sure, -sure))


def _numbers(predictor: Predictor, rows: Sequence[Row], known: Known) -> Case:
    answers = ask(predictor, rows)
    truth = np.array([float(row["target"]) for row in rows])
    given = np.array([float(answer["value"]) for answer in answers])
    return _case(regression.measures(truth, given), answers, row_score=-np.abs(truth - given))


def _tags(predictor: Predictor, rows: Sequence[Row], known: Known) -> Case:
    answers = ask(predictor, rows)
    truth = [language.spans_of(row["tags"]) for row in rows]
    given = [
        language.spans_in_tokens(answer.get("entities") or (), row["tokens"])
        for row, answer in zip(rows, answers, strict=True)
    ]
    same = np.array([2.0 * len(set(a) & set(b)) - len(set(a) | set(b)) for a, b in zip(truth, given, strict=True)])
    return _case(language.entities(truth, given), answers, row_score=same)


def _questions(predictor: Predictor, rows: Sequence[Row], known: Known) -> Case:
    answers = ask(predictor, rows)
    truth = [list(row["answer"]) if isinstance(row["answer"], (list, tuple)) else [str(row["answer"])] for row in rows]
    given = [str(answer.get("answer") or "") for answer in answers]
    f1 = np.array(
        [max(language.token_f1(want, got) for want in wanted) for wanted, got in zip(truth, given, strict=True)]
    )
    return _case(language.answers(truth, given), answers, row_score=2 * f1 - 1)


def _translations(predictor: Predictor, rows: Sequence[Row], known: Known) -> Case:
    answers = ask(predictor, rows)
    given = [str(written(answer)) for answer in answers]
    truth = [str(row["target"]) for row in rows]
    near = np.array([2 * language.token_f1(want, got) - 1 for want, got in zip(truth, given, strict=True)])
    return _case(language.translation(truth, given), answers, row_score=near)


def written(answer: Answer) -> str:
    """The text of an answer that is a text, under whichever of its names."""
    return next(
        (str(answer[name]) for name in ("text", "translation", "output", "answer") if answer.get(name) is not None), ""
    )


def _likelihoods(predictor: Any, rows: Sequence[Row], known: Known) -> Case:
    """Language models say how surprised they were: `predictor.score(rows) -> [{"nll", "tokens"}]`."""
    answers = _scored(predictor, rows)
    # Bytes that were asked for: of a net that finds hidden words, those of the words that were hidden.
    sizes = [len(text_in(row).encode()) * float(one.get("share", 1)) for row, one in zip(rows, answers, strict=True)]
    nll, tokens = [float(one["nll"]) for one in answers], [int(one["tokens"]) for one in answers]
    found = language.perplexity(nll, tokens, sizes)
    if any("right" in one for one in answers):
        found.append(_share("next_token_accuracy", [float(one.get("right", 0)) for one in answers], tokens))
    surprise = np.array([-one / max(1, count) for one, count in zip(nll, tokens, strict=True)])
    return _case(found, answers, row_score=surprise)


def _scored(predictor: Any, rows: Sequence[Row]) -> list[dict[str, Any]]:
    score = abilities.likelihood(predictor)
    if score is None:
        raise BadRequest("This model cannot say how likely a text is, so it has no perplexity.")
    return list(score(rows))


def _share(name: str, above: Sequence[float], below: Sequence[float]) -> Measure:
    return of_sums(
        name,
        np.stack([np.asarray(above), np.asarray(below)], axis=1),
        lambda sums: sums[:, 0] / np.maximum(sums[:, 1], 1),
    )


def text_in(row: Row) -> str:
    """All the text of a row that a language model is asked to predict: of a conversation, what the assistant says."""
    if row.get("messages") is not None:
        said = [message for message in row["messages"] if message.get("role") == "assistant"] or row["messages"]
        return "\n".join(str(message.get("content") or "") for message in said)
    return str(row.get("text") or "")


def _preferences(predictor: Any, rows: Sequence[Row], known: Known) -> Case:
    """The share of pairs in which the chosen answer is the likelier one."""
    answers = _scored(predictor, rows)
    margin = np.array([float(one["margin"]) for one in answers])
    return _case([mean("preference_accuracy", margin > 0), mean("margin", margin)], answers, row_score=margin)


def _embeddings(predictor: Predictor, rows: Sequence[Row], known: Known) -> Case:
    """Pairs: does the cosine follow the label, and is the partner found among all partners?"""
    if rows[0].get("text_b") is None:
        raise BadRequest(
            "Embeddings are judged on pairs; the test rows have no text_b.", hint="Map a column to text_b."
        )
    first = _unit(ask(predictor, [{"text": row["text"]} for row in rows]))
    second = _unit(ask(predictor, [{"text": row["text_b"]} for row in rows]))
    cosine = (first * second).sum(axis=1)
    labels = [row.get("label") for row in rows]
    found: list[Measure] = []
    if all(label is not None for label in labels) and len(set(labels)) > 1:
        found += regression.correlation(np.array(labels, dtype=np.float64), cosine)
        wished = np.array(labels, dtype=np.float64)
        likely = wished >= (wished.max() + wished.min()) / 2
    else:
        likely = np.ones(len(rows), dtype=bool)
    order = np.argsort(-(first @ second.T), axis=1, kind="stable")[:, : max(ranking.DEPTHS)]
    wanted = [{str(row["text_b"])} if good else set() for row, good in zip(rows, likely, strict=True)]
    shown = [list(dict.fromkeys(str(rows[place]["text_b"]) for place in line)) for line in order]
    found += [one for one in ranking.measures(wanted, shown) if one.name.split("@")[0] in ("mrr", "recall", "ndcg")]
    return _case(found, [{"score": float(one)} for one in cosine], row_score=cosine)


def _unit(answers: Sequence[Answer]) -> NDArray[np.float64]:
    found = np.array([answer["embedding"] for answer in answers], dtype=np.float64)
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))


def _recommendations(predictor: Predictor, rows: Sequence[Row], known: Known) -> Case:
    """The unit is the user: errors of their ratings, and the list they would be shown without what they had before."""
    mine: defaultdict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        mine[str(row["user"])].append(place)
    users = sorted(mine)[:USERS_MAX]
    kept = [place for user in users for place in mine[user]]
    asked = ask(predictor, [{"user": rows[place]["user"], "item": rows[place]["item"]} for place in kept])
    scored = dict(zip(kept, asked, strict=True))
    depth = max(ranking.DEPTHS)
    asks = [
        {"user": rows[mine[user][0]]["user"], "top": depth, "exclude": sorted(known.seen.get(user, ()))}
        for user in users
    ]
    listed = [[str(one["item"]) for one in answer["items"]] for answer in ask(predictor, asks)]
    relevant = [{str(rows[place]["item"]) for place in mine[user] if _liked(rows[place], known)} for user in users]
    found = ranking.measures(relevant, listed)
    if any(rows[place].get("rating") is not None for place in kept):
        found = _rating_errors(rows, mine, users, scored) + found
    firsts = np.array([mine[user][0] for user in users])
    return _case(found, [scored[place] for place in firsts], unit_rows=firsts)


def _liked(row: Row, known: Known) -> bool:
    return row.get("rating") is None or float(row["rating"]) >= known.liked_from


def _rating_errors(
    rows: Sequence[Row], mine: Mapping[str, list[int]], users: Sequence[str], scored: Mapping[int, Answer]
) -> list[Measure]:
    stats = np.zeros((len(users), 3))
    for at, user in enumerate(users):
        for place in mine[user]:
            if rows[place].get("rating") is not None:
                error = float(rows[place]["rating"]) - float(scored[place]["score"])
                stats[at] += (error**2, abs(error), 1)
    return [
        of_sums("rmse", stats, lambda sums: np.sqrt(sums[:, 0] / np.maximum(sums[:, 2], 1)), higher=False),
        of_sums("mae", stats, lambda sums: sums[:, 1] / np.maximum(sums[:, 2], 1), higher=False),
    ]


def _pictures(predictor: Any, rows: Sequence[Row], known: Known) -> Case:
    """As many made images as real ones, of the same classes where classes are asked for, against the real ones; a model
    that can also rebuild an image is judged by that too."""
    features = getattr(predictor, "features", None)
    asked = features is not None and "label" in features.fields()
    answers = predictor.predict(
        [{"seed": place} | ({"label": row["label"]} if asked else {}) for place, row in enumerate(rows)]
    )
    made = np.stack([pixels(answer["image"]) for answer in answers])
    shape = made.shape[1:]
    real = np.stack([pixels(row["image"], shape) for row in rows])
    found = pictures.distance(real, made) + pictures.neighbours(real, made)
    if known.telling is not None:
        told = known.telling.predict([{"image": answer["image"]} for answer in answers])
        found.append(pictures.classifier_score([one["scores"] for one in told]))
        if asked:
            right = [one["label"] == str(row["label"]) for one, row in zip(told, rows, strict=True)]
            found.append(mean("class_as_asked", right))
    rebuild = abilities.rebuilding(predictor)
    if rebuild is not None:
        found += pictures.reconstruction(real, rebuild(rows).reshape(real.shape))
    bound = abilities.bounding(predictor)
    if bound is not None:
        found += pictures.elbo(bound(rows))
    return _case(found, answers)


def _objects(predictor: Any, rows: Sequence[Row], known: Known) -> Case:
    """Boxes against boxes; the examples show what a caller would see: those above the package's threshold."""
    answers = ask(predictor, rows)
    options = getattr(getattr(predictor, "features", None), "options", {})
    least = float(options.get("threshold", LEAST_SCORE))
    truth = [list(row.get("boxes") or ()) for row in rows]
    given = [answer["detections"] for answer in answers]
    sums = detection.at_threshold(truth, given, least)
    score = 4 * sums[:, 0] / np.maximum(sums[:, 1] + sums[:, 2], 1) - 1  # F1 from -1 to 1
    score[sums[:, 1] + sums[:, 2] == 0] = 1.0
    shown = [{"boxes": [one for one in mine if one["score"] >= least]} for mine in given]
    return _case(detection.measures(truth, given, least, known.labels), shown, row_score=score)


def pixels(image: Any, like: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """An image (PNG bytes or array) as height x width x channels of 0..1, in the size of `like`."""
    opened = images.opened(image, 0)
    opened = opened.convert("L" if (like[2:] or (len(opened.getbands()),))[0] == 1 else "RGB")
    if like and opened.size != (like[1], like[0]):
        opened = opened.resize((like[1], like[0]))
    array = np.asarray(opened, dtype=np.float64) / 255.0
    return array[:, :, None] if array.ndim == 2 else array


JUDGES: dict[str, Callable[[Any, Sequence[Row], Known], Case]] = {
    "text-classification": _classes,
    "image-classification": _classes,
    "tabular-classification": _classes,
    "text-regression": _numbers,
    "tabular-regression": _numbers,
    "token-classification": _tags,
    "question-answering": _questions,
    "translation": _translations,
    "language-modeling": _likelihoods,
    "chat": _likelihoods,
    "preference": _preferences,
    "sentence-embedding": _embeddings,
    "recommendation": _recommendations,
    "image-generation": _pictures,
    "object-detection": _objects,
}
