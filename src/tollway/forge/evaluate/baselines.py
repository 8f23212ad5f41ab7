"""Simple models that a trained one has to beat, each a Predictor on the same rows.

Majority class, mean, TF-IDF or pixels or columns with a linear model (scikit-learn), popular items, user and item bias,
the most frequent tag of a word, a bigram language model, the sentence that shares most words with the question.
`simple(task, train)` fits all that a task has, the strongest last.
"""

import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate import detection_baselines, tasks
from tollway.forge.evaluate.tasks import Predictor

Row = Mapping[str, Any]
ROWS_MAX = 20_000  # of training data for a linear baseline: more changes little and costs minutes
WORDS, WORDS_OR_HAN = r"(?u)\b\w+\b", r"(?u)[㐀-鿿]|\b\w+\b"
WORD = re.compile(r"[㐀-鿿]|\w+")


class Majority:
    """Always the most frequent class, with the classes' shares as scores."""

    def __init__(self, train: Sequence[Row]) -> None:
        counts = Counter(str(row["label"]) for row in train)
        total = sum(counts.values())
        self.answer = {"label": counts.most_common(1)[0][0], "score": counts.most_common(1)[0][1] / total,
                       "scores": {label: count / total for label, count in sorted(counts.items())}}  # fmt: skip

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [dict(self.answer) for _ in rows]


class Mean:
    """Always the mean of the targets."""

    def __init__(self, train: Sequence[Row]) -> None:
        self.value = float(np.mean([float(row["target"]) for row in train]))

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [{"value": self.value} for _ in rows]


class Linear:
    """A linear model on plain features: TF-IDF of words (characters for Chinese), pixels, or columns."""

    def __init__(self, task: str, train: Sequence[Row]) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline

        pictures = task == "image-classification"  # hundreds of dense columns: fewer rows and rounds, little is lost
        most = ROWS_MAX // 2 if pictures else ROWS_MAX
        train = [row for row in train if row.get("label", row.get("target")) is not None][:most]
        self.classes = task.endswith("classification")
        encode, self.shape = _encoder(task, train)
        last = (
            LogisticRegression(max_iter=80 if pictures else 300, C=0.1 if pictures else 1.0)
            if self.classes
            else Ridge()
        )
        self.model = make_pipeline(*encode, last)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a yardstick need not be the best of its kind
            self.model.fit(
                self.shape(train), [str(row["label"]) if self.classes else float(row["target"]) for row in train]
            )

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        if not self.classes:
            return [{"value": float(value)} for value in self.model.predict(self.shape(rows))]
        labels = [str(label) for label in self.model.classes_]
        found = []
        for row in self.model.predict_proba(self.shape(rows)):
            best = int(np.argmax(row))
            found.append(
                {
                    "label": labels[best],
                    "score": float(row[best]),
                    "scores": dict(zip(labels, row.tolist(), strict=True)),
                }
            )
        return found


def _encoder(task: str, train: Sequence[Row]) -> tuple[list[Any], Callable[[Sequence[Row]], Any]]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import StandardScaler

    if task.startswith("text-"):
        han = sum(bool(re.search(r"[㐀-鿿]", str(row["text"]))) for row in train) * 2 > len(train)
        words = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True) if han else TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS
        )  # fmt: skip
        return [words], lambda rows: [str(row["text"]) for row in rows]
    if task == "image-classification":
        like = tasks.pixels(train[0]["image"]).shape
        return [StandardScaler()], lambda rows: np.stack([_small(tasks.pixels(row["image"], like)) for row in rows])
    columns = [name for name in train[0] if name not in ("label", "target") and not name.startswith("x_")]
    filled = [name for name in columns if any(row.get(name) is not None for row in train)]
    numeric = [name for name in filled if all(_is_number(row.get(name)) for row in train)]
    return _columns(numeric, [name for name in filled if name not in numeric])


def _columns(numeric: list[str], words: list[str]) -> tuple[list[Any], Callable[[Sequence[Row]], Any]]:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    parts: list[Any] = []
    if numeric:
        parts.append(
            ("numbers", make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), list(range(len(numeric))))
        )
    if words:
        parts.append(
            (
                "words",
                OneHotEncoder(handle_unknown="ignore", max_categories=200),
                list(range(len(numeric), len(numeric) + len(words))),
            )
        )

    def shape(rows: Sequence[Row]) -> NDArray[Any]:
        table = np.empty((len(rows), len(numeric) + len(words)), dtype=object)
        for at, row in enumerate(rows):
            table[at, : len(numeric)] = [np.nan if row.get(name) is None else float(row[name]) for name in numeric]
            table[at, len(numeric) :] = ["" if row.get(name) is None else str(row[name]) for name in words]
        return table

    return [ColumnTransformer(parts)], shape


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _small(picture: NDArray[Any]) -> NDArray[Any]:
    """At most 32 x 32, flat."""
    step = max(1, math.ceil(max(picture.shape[:2]) / 32))
    return picture[::step, ::step].reshape(-1)


class Popular:
    """The most rated items for everybody; a rating is predicted by user and item bias (Koren et al. 2009, formula 3)."""

    damping = 5.0

    def __init__(self, train: Sequence[Row]) -> None:
        self.mean = float(np.mean([_rating(row) for row in train]))
        self.order = [item for item, _ in Counter(str(row["item"]) for row in train).most_common()]
        self.items = self._bias(train, "item", lambda row: self.mean)
        self.users = self._bias(train, "user", lambda row: self.mean + self.items.get(str(row["item"]), 0.0))

    def _bias(self, train: Sequence[Row], column: str, base: Callable[[Row], float]) -> dict[str, float]:
        sums: defaultdict[str, list[float]] = defaultdict(list)
        for row in train:
            sums[str(row[column])].append(_rating(row) - base(row))
        return {name: sum(left) / (len(left) + self.damping) for name, left in sums.items()}

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> dict[str, Any]:
        if row.get("item") is not None:
            return {"score": self.mean + self.users.get(str(row["user"]), 0.0) + self.items.get(str(row["item"]), 0.0)}
        without, found = {str(item) for item in row.get("exclude") or ()}, []
        for place, item in enumerate(self.order):
            if item not in without:
                found.append({"item": item, "score": float(len(self.order) - place)})
            if len(found) == int(row.get("top") or 20):
                break
        return {"items": found}


def _rating(row: Row) -> float:
    return 1.0 if row.get("rating") is None else float(row["rating"])


class FrequentTag:
    """Each word gets the tag it had most often; words never seen get O."""

    def __init__(self, train: Sequence[Row]) -> None:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for row in train:
            for token, tag in zip(row["tokens"], row["tags"], strict=False):
                counts[str(token)][str(tag)] += 1
        self.tag = {token: tags.most_common(1)[0][0] for token, tags in counts.items()}

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        from tollway.forge.evaluate.language import spans_of

        found = []
        for row in rows:
            tokens = [str(token) for token in row["tokens"]]
            starts = np.cumsum([0] + [len(token) + 1 for token in tokens])
            spans = spans_of([self.tag.get(token, "O") for token in tokens])
            found.append({"entities": [
                {"label": label, "start": int(starts[low]), "end": int(starts[high - 1]) + len(tokens[high - 1]),
                 "text": " ".join(tokens[low:high]), "score": 1.0}
                for label, low, high in spans
            ]})  # fmt: skip
        return found


class LikelySentence:
    """The sentence of the context that shares most words with the question."""

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        found = []
        for row in rows:
            asked = set(WORD.findall(str(row["question"]).lower()))
            sentences = [one for one in re.split(r"(?<=[.!?。！？])\s*", str(row["context"])) if one.strip()] or [""]
            best = max(sentences, key=lambda one: len(asked & set(WORD.findall(one.lower()))))
            start = str(row["context"]).find(best)
            found.append({"answer": best, "score": 0.0, "start": start, "end": start + len(best)})
        return found


class Copy:
    """A translation that is the source itself: what names, figures and signs alone are worth."""

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [{"text": str(row["source"])} for row in rows]


class Bigram:
    """A byte bigram model with backing off (add 0.5 to each, mixed with bytes alone): compare by bits per byte."""

    def __init__(self, train: Sequence[Row]) -> None:
        pairs, single = np.zeros((257, 256)), np.full(256, 0.5)
        for row in train:
            seen = np.frombuffer(tasks.text_in(row).encode(), dtype=np.uint8).astype(np.int64)
            if len(seen):
                np.add.at(pairs, (np.concatenate([[256], seen[:-1]]), seen), 1)
                single += np.bincount(seen, minlength=256)
        alone = single / single.sum()
        rows = pairs.sum(axis=1, keepdims=True)
        self.log = np.log((pairs + 16 * alone) / (rows + 16))

    def score(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        found = []
        for row in rows:
            seen = np.frombuffer(tasks.text_in(row).encode(), dtype=np.uint8).astype(np.int64)
            before = np.concatenate([[256], seen[:-1]]) if len(seen) else seen
            found.append({"nll": float(-self.log[before, seen].sum()), "tokens": len(seen)})
        return found

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return self.score(rows)


class WordVectors:
    """TF-IDF of words as an embedding."""

    def __init__(self, train: Sequence[Row]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = [str(row[name]) for row in train for name in ("text", "text_b") if row.get(name) is not None]
        self.model = TfidfVectorizer(max_features=4096, token_pattern=WORDS_OR_HAN).fit(texts[:ROWS_MAX])

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        table = self.model.transform([str(row["text"]) for row in rows])
        return [{"embedding": table[at].toarray()[0]} for at in range(len(rows))]


class MeanPicture:
    """Pixels drawn independently around the mean image: what a generator knows that has seen no shapes."""

    def __init__(self, train: Sequence[Row]) -> None:
        shape = tasks.pixels(train[0]["image"]).shape
        images = np.stack([tasks.pixels(row["image"], shape) for row in train[:2000]])
        self.mean, self.spread = images.mean(axis=0), images.std(axis=0)

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        made = []
        for row in rows:
            draw = np.random.default_rng(int(row.get("seed", 0))).normal(size=self.mean.shape)
            whole = (np.clip(self.mean + draw * self.spread, 0, 1) * 255).astype(np.uint8)
            made.append({"image": whole[:, :, 0] if whole.shape[2] == 1 else whole})
        return made

    def reconstruct(self, rows: Sequence[Row]) -> list[NDArray[Any]]:
        return [self.mean for _ in rows]


def telling(train: Sequence[Row]) -> Predictor | None:
    """A plain classifier of pictures, to judge made ones by; None where the rows have no classes."""
    labelled = [row for row in train if row.get("label") is not None]
    several = len({str(row["label"]) for row in labelled}) > 1
    return Linear("image-classification", labelled) if several else None


def simple(task: str, train: Sequence[Row]) -> dict[str, Predictor]:
    """Every simple baseline of a task, fitted; the strongest, the one `vs.baseline` means, is last."""
    if task.endswith("-classification") and task != "token-classification":
        both: dict[str, Predictor] = {"majority": Majority(train)}
        return both | {_name(task): Linear(task, train)} if len({str(row["label"]) for row in train}) > 1 else both
    if task.endswith("-regression"):
        return {"mean": Mean(train), _name(task): Linear(task, train)}
    if task == "object-detection":
        return {"usual-boxes": detection_baselines.UsualBoxes(train), "blobs+logistic": detection_baselines.Blobs(train)}
    ways: dict[str, Callable[[], tuple[str, Any]]] = {
        "recommendation": lambda: ("popular-and-bias", Popular(train)),
        "token-classification": lambda: ("frequent-tag", FrequentTag(train)),
        "question-answering": lambda: ("likely-sentence", LikelySentence()),
        "translation": lambda: ("copy", Copy()),
        "language-modeling": lambda: ("byte-bigram", Bigram(train)),
        "chat": lambda: ("byte-bigram", Bigram(train)),
        "sentence-embedding": lambda: ("tf-idf", WordVectors(train)),
        "image-generation": lambda: ("independent-pixels", MeanPicture(train)),
    }
    return dict([ways[task]()]) if task in ways else {}


def _name(task: str) -> str:
    inputs = {"text": "tf-idf", "image": "pixels", "tabular": "columns"}[task.split("-")[0]]
    return f"{inputs}+{'logistic' if task.endswith('classification') else 'ridge'}"
