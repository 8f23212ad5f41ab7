"""Is it still the same model? A converted model and its torch source answer the same real rows; the differences are kept.

Three figures for every format: the largest difference of the outputs, how often both give the same label, and what the
quality lost. Each pair of formats has its tolerance; `parity.json` holds the figures beside the files.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from tollway.forge.models.found import agreement as in_cells
from tollway.forge.models.measure import Quality, Sample, quality
from tollway.inference import Arrays
from tollway.kit.errors import Conflict
from tollway.kit.said import say

ROWS: Final = 1000
DROP: Final = 0.005  # of quality: half a point of accuracy, or this share of the error


@dataclass(frozen=True)
class Tolerance:
    """The largest difference in units of the source outputs' spread, and the least share of equal labels."""

    apart: float
    agreement: float


# Float formats compute the same sums in another order. 16-bit and 8-bit ones round; labels must still agree.
TOLERANCES: Final[dict[str, Tolerance]] = {
    "safetensors": Tolerance(0.0, 1.0),
    "pt2": Tolerance(1e-4, 0.999),
    "torchscript": Tolerance(1e-4, 0.999),
    "onnx": Tolerance(2e-3, 0.999),
    "openvino": Tolerance(2e-3, 0.999),
    "litert": Tolerance(2e-3, 0.999),
    "openvino-bf16": Tolerance(0.5, 0.97),
    "onnx-int8": Tolerance(math.inf, 0.96),
    "onnx-int4": Tolerance(math.inf, 0.9),
    "openvino-int8": Tolerance(math.inf, 0.96),
    "litert-int8": Tolerance(math.inf, 0.96),
}


@dataclass(frozen=True)
class Parity:
    """What was found for one format. `drop` is the loss of quality, `allowed` what chance alone explains of it."""

    format: str
    rows: int
    max_difference: float
    mean_difference: float
    relative: float
    agreement: float
    metric: str
    source: float
    value: float
    drop: float
    allowed_drop: float
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.problems

    def figures(self) -> dict[str, Any]:
        found = asdict(self)
        found["problems"] = [str(one) for one in self.problems]
        found["holds"] = self.holds
        return found

    def require(self) -> "Parity":
        """Raises Conflict when the format is not the same model."""
        if self.problems:
            raise Conflict(
                say("convert.not_same", "The {form} file is not the same model: {problems} (on {rows} rows).", form=self.format,
                    problems=list(self.problems), rows=self.rows),
                code="parity_failed",
                hint=say("convert.not_same_hint", "Leave the format out, quantise less ([convert] quantise), or allow more "
                         "([convert] tolerance)."),
            )  # fmt: skip
        return self


def compare(
    format: str, source: Sequence[Arrays], found: Sequence[Arrays], sample: Sample, tolerance: float | None = None
) -> Parity:
    """Figures and verdict. `tolerance` replaces the table: the largest difference of outputs that is allowed."""
    limits = TOLERANCES[format]
    apart, mean, spread = _apart(source, found)
    agreement = agreement_of(source, found)
    complete = all(one.keys() <= other.keys() for one, other in zip(source, found, strict=True))
    before, after = quality(source, sample), quality(found, sample) if complete else None
    drop, allowed = _drop(before, after)
    relative = apart / spread if spread else (0.0 if apart == 0 else math.inf)
    problems: list[str] = []
    if not math.isfinite(apart):
        problems.append(say("convert.no_numbers", "some outputs are no numbers"))
    if tolerance is not None and apart > tolerance:
        problems.append(say("convert.differ", "outputs differ by up to {most}, {limit} is allowed", most=f"{apart:.3g}",
                            limit=f"{tolerance:.3g}"))  # fmt: skip
    elif tolerance is None and relative > limits.apart:
        problems.append(say("convert.differ_spread", "outputs differ by up to {most} of their spread, {limit} is allowed",
                            most=f"{relative:.2g}", limit=f"{limits.apart:.2g}"))  # fmt: skip
    if agreement < limits.agreement:
        problems.append(say("convert.agrees", "the label agrees for {found_share}, {wanted_share} is wanted",
                            found_share=f"{agreement:.2%}", wanted_share=f"{limits.agreement:.1%}"))  # fmt: skip
    if drop > allowed:
        problems.append(say("convert.falls", "{metric} falls by {most}, {limit} is allowed",
                            metric=before.name if before else "quality", most=f"{drop:.4f}", limit=f"{allowed:.4f}"))  # fmt: skip
    return Parity(
        format, len(sample.rows), apart, mean, relative, agreement, before.name if before else "",
        before.value if before else 0.0, after.value if after else 0.0, drop, allowed, tuple(problems),
    )  # fmt: skip


def _apart(source: Sequence[Arrays], found: Sequence[Arrays]) -> tuple[float, float, float]:
    """Largest and mean difference, and the spread of the source's outputs. Not a number counts as infinitely far."""
    largest, total, count = 0.0, 0.0, 0
    values: list[np.ndarray] = []
    for one, other in zip(source, found, strict=True):
        for name, wanted in one.items():
            given = other.get(name)
            if given is not None and wanted.dtype.kind in "iu":
                continue  # what was written is compared as a whole, by `agreement_of`
            if given is None or given.shape != wanted.shape:
                return math.inf, math.inf, 1.0
            difference = np.abs(given.astype(np.float64) - wanted.astype(np.float64))
            if not np.isfinite(difference).all():
                return math.inf, math.inf, 1.0
            largest = max(largest, float(difference.max(initial=0.0)))
            total, count = total + float(difference.sum()), count + difference.size
            values.append(wanted.reshape(-1)[:4096])
    spread = float(np.concatenate(values).astype(np.float64).std()) if values else 0.0
    return largest, total / max(1, count), spread


def agreement_of(source: Sequence[Arrays], found: Sequence[Arrays]) -> float:
    """The share of equal labels (of rows, or of tokens); for vectors the mean cosine; for plain numbers 1."""
    if source and "heat" in source[0]:  # objects: the cells in which both see one
        return float(np.mean([in_cells(one["heat"], other["heat"]) for one, other in zip(source, found, strict=True)]))
    name = next((one for one in ("logits", "start_logits", "embedding", "tokens") if source and one in source[0]), "")
    if not name:
        return 1.0
    if any(name not in one for one in found):
        return 0.0
    if name == "embedding":
        return float(np.mean([_cosine(one[name], other[name]) for one, other in zip(source, found, strict=True)]))
    if name == "tokens":
        return float(np.mean([_written(one[name], other[name]) for one, other in zip(source, found, strict=True)]))
    same = total = 0
    for one, other in zip(source, found, strict=True):
        if other[name].shape != one[name].shape:
            return 0.0
        left, right = one[name].argmax(-1), other[name].argmax(-1)
        same += int((left == right).sum())
        total += int(np.size(left))
    return same / max(1, total)


def _written(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.array_equal(left[left >= 0], right[right >= 0]))


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.vdot(left, right) / max(1e-12, float(np.linalg.norm(left) * np.linalg.norm(right))))


def _drop(before: Quality | None, after: Quality | None) -> tuple[float, float]:
    """The loss, and what is allowed: half a point, or two standard deviations of what chance does to as many rows that
    changed from right to wrong and back (McNemar). Errors (RMSE) are taken relative to the source's."""
    if before is None or after is None:
        return 0.0, math.inf
    if not before.higher_is_better:
        return before.drop(after) / max(1e-12, before.value), 2 * DROP
    allowed = DROP
    if before.right is not None and after.right is not None and len(before.right):
        changed = int((before.right != after.right).sum())
        allowed = max(DROP, 2 * math.sqrt(changed) / len(before.right))
    return before.drop(after), allowed
