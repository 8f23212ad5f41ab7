"""The examination: one predictor, test rows, and everything that is measured of it. `examine` is the whole of it, in order.

`run` is the recipe's step: it opens the model in the format that will be served, reads the rows, and keeps the scores.
"""

import difflib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tollway.forge.evaluate import baselines, classification, examples, gates, noise, slices, tasks
from tollway.forge.evaluate import names as known_names
from tollway.forge.evaluate.intervals import Draws, figures, paired
from tollway.forge.evaluate.measures import Measure
from tollway.forge.evaluate.scores import Calibration, Comparison, Noise, Scores
from tollway.forge.evaluate.tasks import Case, Known, Predictor
from tollway.kit.errors import BadRequest
from tollway.kit.said import say

Row = Mapping[str, Any]
NOISE_ROWS = 1000
BASELINE_TRAIN_ROWS = 100_000


@dataclass
class Rows:
    """The three splits as lists of rows; only `test` is needed, the others allow baselines and calibration."""

    test: Sequence[Row]
    train: Sequence[Row] = ()
    validation: Sequence[Row] = ()


@dataclass
class Wishes:
    """What is asked for: the recipe's [evaluate] in plain values."""

    slices: Sequence[str] = ()
    metrics: Sequence[str] = ()  # the first one named is the main one; the rest of the task's follow
    require: Mapping[str, str] = field(default_factory=dict)
    bootstrap: int = 1000
    noise: Sequence[float] = (0.05, 0.1)
    baseline: bool = True
    seed: int = 0


def examine(
    task: str, predictor: Predictor, rows: Rows, wishes: Wishes, *, parent: Predictor | None = None,
    base: Predictor | None = None, desk: Any = None,
) -> Scores:  # fmt: skip
    """Judge a predictor and all it is compared with on the same test rows. `base`: what it was before it was trained."""
    began = time.monotonic()
    known = tasks.known_of(task, rows.train, predictor)
    if task == "image-generation":
        known.telling = baselines.telling(rows.train)
    _say(desk, 1, "the test rows")
    case = tasks.judge(task, predictor, rows.test, known)
    case.measures = _ordered(case, wishes.metrics)
    draws = Draws(case.units, wishes.bootstrap, wishes.seed)
    scores = Scores(
        task=task, rows=len(rows.test), units=case.units, replicates=draws.replicates, primary=case.primary.name,
        metrics=figures(case.measures.values(), draws), notes=_notes(case, rows),
    )  # fmt: skip
    _detail(scores, case, task, predictor, rows, known)
    if "class_as_asked" in case.measures:
        scores.labels = list(known.labels)
    _say(desk, 2, "the baselines")
    scores.comparisons = compare(task, case, rows, known, draws, baseline=wishes.baseline, parent=parent, base=base)
    _say(desk, 3, "the slices")
    columns = _columns(wishes, rows.test)
    lengths = _lengths(task, predictor, [rows.test[place] for place in case.unit_rows])
    scores.slices = slices.slices(case, rows.test, columns, draws, lengths)
    scores.gaps = slices.gaps(case, rows.test, columns, draws)
    _say(desk, 4, "noise")
    scores.noise = robustness(task, predictor, rows.test, known, wishes, scores.primary)
    scores.examples = examples.pick(task, case, rows.test)
    scores.gates = gates.check(wishes.require, scores.named(), scores.baselines)
    scores.seconds = round(time.monotonic() - began, 3)
    _say(desk, 5, "done")
    return scores


def compare(
    task: str, case: Case, rows: Rows, known: Known, draws: Draws, *, baseline: bool = True, parent: Predictor | None = None,
    base: Predictor | None = None,
) -> list[Comparison]:  # fmt: skip
    """Baselines, the untrained base and the parent on the same rows, each with the paired difference of the main metric."""
    others: list[tuple[str, str, Predictor]] = []
    if baseline and rows.train:
        fitted = baselines.simple(task, rows.train[:BASELINE_TRAIN_ROWS])
        others += [(name, "baseline", one) for name, one in fitted.items()]
    if base is not None:
        others.append(("base", "base", base))
    if parent is not None:
        others.append((getattr(parent, "name", "") or "parent", "parent", parent))
    found = []
    for name, kind, other in others:
        theirs = tasks.judge(task, other, rows.test, known)
        metric = _shared(case, theirs)
        values = {one.name: _plain(one.value(theirs.units)) for one in theirs.measures.values() if "." not in one.name}
        found.append(Comparison(name, kind, values, paired(case.measures[metric], theirs.measures[metric], draws)))
    return found


def _shared(case: Case, theirs: Case) -> str:
    """The main metric; for language models the one that does not depend on the tokenizer."""
    if "bits_per_byte" in case.measures:
        return "bits_per_byte"
    return (
        case.primary.name
        if case.primary.name in theirs.measures
        else next(name for name in case.measures if name in theirs.measures)
    )


def robustness(
    task: str, predictor: Predictor, test: Sequence[Row], known: Known, wishes: Wishes, metric: str
) -> list[Noise]:
    """The main metric under each kind of noise at each level, on the same rows as without."""
    kinds = noise.kinds(task) if wishes.noise else ()
    rows = list(test[:NOISE_ROWS])
    if not kinds:
        return []
    clean = tasks.judge(task, predictor, rows, known)
    draws = Draws(clean.units, min(wishes.bootstrap, 500), wishes.seed)
    found = []
    for kind in kinds:
        for level in (1.0,) if kind == "case" else sorted(wishes.noise):
            case = tasks.judge(task, predictor, noise.noisy(kind, level, rows, wishes.seed), known)
            lost = paired(clean.measures[metric], case.measures[metric], draws)
            found.append(
                Noise(
                    kind,
                    level,
                    _plain(case.measures[metric].value(case.units)),
                    lost.value,
                    lost.low,
                    lost.high,
                    len(rows),
                )
            )
    return found


def refuse(task: str, rows: Rows, wishes: Wishes) -> None:
    """Raise BadRequest for slices and gates that mean nothing, before an hour of training: needs only the prepared rows."""
    columns = _columns(wishes, rows.test)
    try:
        stand_in = next(iter(baselines.simple(task, _few(task, rows.train)).values()), None)
    except ValueError:
        return  # too few rows for even a stand-in: the real evaluation will say so
    if stand_in is None or not rows.test:
        return
    known = tasks.known_of(task, rows.train)
    if task == "image-generation":
        known.telling = baselines.telling(_few("image-classification", rows.train))
    if task.endswith("-classification") and task != "token-classification":
        known.labels = tuple(sorted({str(row["label"]) for row in (*rows.train, *rows.test)}))
    if task == "object-detection":
        known.labels = tuple({one["label"] for row in (*rows.train, *rows.test) for one in row["boxes"]})
    case = tasks.judge(task, stand_in, rows.test[:20], known)
    _ordered(case, wishes.metrics)
    measured = [*case.measures, *(_OF_NETS if task == "image-generation" else ())]
    names = {f"{side}{name}": 0.0 for name in measured for side in ("", "low.", "high.")}
    names |= {
        f"{side}{end}": 0.0
        for side in ("vs.baseline", "vs.parent", "vs.base", *(f"vs.{one}" for one in known_names.BASELINES.get(task, ())))
        for end in ("", ".low", ".high")
    }
    names |= {f"gap.{column}{kind}": 0.0 for column in columns for kind in ("", ".parity", ".opportunity", ".quality")}
    names |= {f"slice.{column}": 0.0 for column in (*columns, "length")}
    names |= {f"noise.{kind}": 0.0 for kind in noise.kinds(task)}
    gates.refuse_unknown(wishes.require, names)


_OF_NETS = ("class_as_asked", "elbo_at_mean")  # figures of generators that no stand-in has


def _ordered(case: Case, wished: Sequence[str]) -> dict[str, Measure]:
    """The measures with those that were asked for first. Raises BadRequest naming the ones nobody knows."""
    strange = [name for name in wished if name not in case.measures]
    if strange:
        near = [close for name in strange for close in difflib.get_close_matches(name, case.measures, n=1)]
        raise BadRequest(
            f"[evaluate] metrics: there is no {', '.join(strange)} here."
            + (f" Did you mean {', '.join(near)}?" if near else ""),
            hint=f"There are: {', '.join(name for name in case.measures if '.' not in name)}.",
        )
    return {name: case.measures[name] for name in dict.fromkeys([*wished, *case.measures])}


def _few(task: str, train: Sequence[Row]) -> Sequence[Row]:
    """Enough rows for a stand-in that only has to name its measures: all classes, little work."""
    if not task.endswith("-classification") or task == "token-classification":
        return train[:50]
    first: dict[str, Row] = {}
    for row in train:
        first.setdefault(str(row["label"]), row)
    return list(first.values())


def _columns(wishes: Wishes, test: Sequence[Row]) -> list[str]:
    """The columns to slice by. Raises BadRequest naming those that are not there."""
    have = set(slices.columns_of(test)) | (set(test[0]) if test else set())
    missing = [name for name in wishes.slices if name not in have]
    if missing:
        raise BadRequest(
            f"[evaluate] slices names columns that the rows do not have: {', '.join(missing)}.",
            hint=f"There are: {', '.join(slices.columns_of(test)) or 'none besides the inputs'}.",
        )
    asked = [name.split(".")[1] for name in wishes.require if name.startswith(("gap.", "slice.")) and "." in name]
    return list(dict.fromkeys([*wishes.slices, *(name for name in asked if name in have)]))


def _lengths(task: str, predictor: Any, rows: Sequence[Row]) -> Any:
    """The length of each row in characters (tokens for token tasks); None where it means nothing."""
    name = next(
        (one for one in ("text", "source", "question", "tokens") if rows and rows[0].get(one) is not None), None
    )
    if name is None or task in ("recommendation", "image-generation"):
        return None
    return np.array([float(len(row[name])) for row in rows])


def _detail(scores: Scores, case: Case, task: str, predictor: Predictor, rows: Rows, known: Known) -> None:
    judged = case.judged
    if judged is None:
        return
    scores.labels = list(judged.labels)
    scores.confusion = classification.confusion(judged)
    if np.isnan(judged.confidence).any():
        return
    points = classification.reliability(judged.confidence, judged.right)
    ece = case.measures["ece"].value(case.units)
    warmth = after = None
    if rows.validation and judged.probabilities is not None:
        held = tasks.judge(task, predictor, rows.validation[:2000], known).judged
        warmth = classification.temperature(held) if held is not None else None
    if warmth is not None and judged.probabilities is not None:
        cooled = classification.warmed(judged.probabilities, warmth).max(axis=1)
        after = classification.calibration_error(cooled, judged.right).value(case.units)
    scores.calibration = Calibration(points, ece, warmth, after)


def _notes(case: Case, rows: Rows) -> list[str]:
    """What a reader has to know before believing the figures."""
    notes = []
    if case.units < 100:
        notes.append(f"few_rows:{case.units}")
    if case.judged is not None and not rows.train:
        notes.append("no_training_rows")
    known = {str(row["label"]) for row in rows.train} if case.judged is not None else set()
    if case.judged is not None and known:
        strange = sorted({str(row["label"]) for row in rows.test} - known)
        if strange:
            notes.append(f"unseen_labels:{', '.join(strange[:10])}")
    return notes


def _say(desk: Any, done: int, what: str) -> None:
    if desk is not None:
        desk.progress(done, 5, unit=what)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def refuse_part(part: Any, prepared: Any) -> None:
    """Raise BadRequest for what `[evaluate]` asks and the prepared rows cannot give; cheap, before training."""
    from tollway.forge.evaluate import opening

    if not part.require and not part.slices and not part.metrics:
        return
    rows = Rows(opening.rows(prepared, "test", 200), opening.rows(prepared, "train", 5000))
    refuse(opening.task_of(prepared, prepared.folder), rows, Wishes(part.slices, part.metrics, part.require))


def run(
    part: Any, folder: Path, prepared: Any, desk: Any, parent: Path | None = None, *, source: Path | None = None,
    predictor: Predictor | None = None,
) -> Scores:  # fmt: skip
    """The recipe's step: scores of the model in `folder`, written to `desk.out`. Gates are judged, not enforced: see Scores.

    `source` is the trained model's folder, for what a converted format cannot tell (likelihoods); `parent` a package's.
    """
    from tollway.forge.evaluate import opening

    task = opening.task_of(prepared, folder)
    served, format_name = predictor, "given"
    if served is None:
        served, format_name = opening.served(folder, source, threads=desk.threads, home=desk.home)
        if task == "image-generation" and format_name != "torch" and source is not None:
            served = opening.Beside(served, opening.reference(source, home=desk.home))
    rows = Rows(
        test=opening.rows(prepared, "test", part.rows_max, desk.seed),
        train=opening.rows(prepared, "train", BASELINE_TRAIN_ROWS, desk.seed),
        validation=opening.rows(prepared, "validation", 2000, desk.seed),
    )
    wishes = Wishes(part.slices, part.metrics, part.require, part.bootstrap, part.noise, part.baseline, desk.seed)
    older = opening.served(parent, threads=desk.threads, home=desk.home)[0] if parent is not None else None
    base = opening.untrained(folder, source, task, desk.home) if part.baseline and predictor is None else None
    scores = examine(task, served, rows, wishes, parent=older, base=base, desk=desk)
    scores.format = format_name
    scores.save(desk.out)
    fields = getattr(served, "features", None)
    call = examples.to_call(task, rows.test, fields.fields()) if fields is not None else None
    if call is not None:
        (Path(desk.out) / examples.CALL_FILE).write_text(
            json.dumps({"input": call}, ensure_ascii=False), encoding="utf-8"
        )
    if scores.not_better_than:
        names = ", ".join(scores.not_better_than)
        desk.warn(
            say(
                "evaluate.not_better",
                "NOT BETTER THAN {names} on the same {count} rows.",
                names=names,
                count=scores.rows,
            )
        )
    for name, one in scores.metrics.items():
        if "." not in name and one.value is not None:
            desk.metric(name, one.value)
    return scores
