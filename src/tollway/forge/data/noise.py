"""Rows that are probably mislabelled: a simple model that has not seen a row is sure that it belongs elsewhere.

Out of fold (5 parts): TF-IDF of words and characters, pixels, or the table's columns, then logistic regression. A row is
suspect when its own label gets less than 5 % and another one more than 90 % (and more than that class usually gets when
it is right: confident learning, Northcutt et al. 2021). It is a hint for a person, not a verdict.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data import digest
from tollway.forge.data.schema import Column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]

_ROWS_MAX: Final = 20_000
_FOLDS: Final = 5
_OWN_MAX, _OTHER_MIN = 0.05, 0.90
_CLASSES_MAX: Final = 60


@dataclass(frozen=True)
class Suspect:
    """A row, the class it rather looks like, and how sure the model is."""

    row: int
    rather: str
    sure: float


def suspects(table: "pa.Table", label: str, content: Sequence[str], columns: Sequence[Column]) -> list[Suspect]:
    """The most suspicious rows first; nothing when classes are too many or too small to say."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    names = np.asarray([None if one is None else str(one) for one in table[label].to_pylist()], object)
    counts = Counter(one for one in names if one is not None)
    usable = {name for name, count in counts.items() if count >= _FOLDS}
    rows = np.flatnonzero([one in usable for one in names])
    if len(rows) > _ROWS_MAX:
        rows = np.sort(rows[np.argsort(digest.keys(table.take(rows), [label, *content[:1]], salt="noise"), kind="stable")[:_ROWS_MAX]])
        left = Counter(names[rows])
        rows = rows[[left[one] >= _FOLDS for one in names[rows]]]
    classes = sorted(set(names[rows]))
    if not 2 <= len(classes) <= _CLASSES_MAX or len(rows) < 50:
        return []
    features = _features(table.take(rows), content, {one.name: one.kind for one in columns})
    if features is None:
        return []
    target = np.searchsorted(classes, names[rows].astype(str))
    sure = np.zeros((len(rows), len(classes)))
    # One thread: on these small products, threads that wait for each other cost ten times what they save.
    with threadpool_limits(1):
        folds = list(StratifiedKFold(_FOLDS, shuffle=True, random_state=7).split(features, target))
        for learn, judge in folds:
            strength = 10.0 if hasattr(features, "tocsr") else 0.1  # dense columns overfit, and then are sure of anything
            model = LogisticRegression(max_iter=200, C=strength).fit(features[learn], target[learn])
            sure[judge] = model.predict_proba(features[judge])
    own = sure[np.arange(len(rows)), target]
    other = sure.argmax(axis=1)
    usual = np.asarray([sure[target == place, place].mean() for place in range(len(classes))])
    bad = (own < _OWN_MAX) & (sure.max(axis=1) > np.maximum(_OTHER_MIN, usual[other])) & (other != target)
    found = [Suspect(int(rows[at]), classes[other[at]], float(sure[at, other[at]])) for at in np.flatnonzero(bad)]
    return sorted(found, key=lambda one: -one.sure)


def _features(table: "pa.Table", content: Sequence[str], kinds: dict[str, str]) -> Any:
    if len(content) == 1 and kinds.get(content[0]) == "image":
        return _pixels(table[content[0]].to_pylist())
    texts = [name for name in content if kinds.get(name) == "text"]
    if texts:
        rows = zip(*(table[name].to_pylist() for name in texts), strict=True)
        return _words(["\n".join(str(one or "")[:5000] for one in row) for row in rows])
    usable = [name for name in content if kinds.get(name) in ("number", "integer", "boolean", "category")]
    return _cells(table, usable, kinds) if usable else None


def _words(texts: list[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    chinese = sum(any("\u4e00" <= one <= "\u9fff" for one in text[:50]) for text in texts[:500]) > min(len(texts), 500) / 2
    try:
        if chinese:
            made = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=100_000)
        else:
            made = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=60_000)
        return made.fit_transform(texts)
    except ValueError:  # no word is there twice
        return None


def _pixels(images: list[bytes]) -> "Array":
    import numpy as np
    from PIL import Image

    from tollway.forge.data.images import pixels

    found = np.zeros((len(images), 256), np.float32)
    for row, data in enumerate(images):
        grey = Image.fromarray(pixels(data, colour=False)).resize((16, 16), Image.Resampling.BOX)
        found[row] = np.asarray(grey, np.float32).ravel() / 255
    return found


def _cells(table: "pa.Table", names: Sequence[str], kinds: dict[str, str]) -> "Array":
    import numpy as np

    parts = []
    for name in names:
        values = table[name].to_pylist()
        if kinds[name] == "category":
            common = [one for one, _ in Counter(values).most_common(20)]
            parts += [np.asarray([value == one for value in values], float) for one in common]
        else:
            numbers = np.asarray([np.nan if one is None else float(one) for one in values])
            middle = np.nanmedian(numbers) if np.isfinite(numbers).any() else 0.0
            numbers = np.where(np.isfinite(numbers), numbers, middle)
            parts.append((numbers - numbers.mean()) / (numbers.std() or 1.0))
    return np.column_stack(parts)
