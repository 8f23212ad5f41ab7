"""Material: encoded rows and their targets, ready for batches; also as one safetensors file, for other processes.

For the loop and its helpers across processes. No torch here, and no pickle: arrays and a little JSON.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tollway.forge.train.batches import Batches, Collate, Encoded, length, pad
from tollway.forge.train.plan import Plan

_ROWS = 32  # of a batch where rows have no length
_ROWS_OF_TOKENS = 16  # how many mean-length texts fill a batch when no budget is given


@dataclass
class Material:
    """What one split gives to the loop."""

    encoded: Sequence[Encoded]
    targets: Mapping[str, Any] = field(default_factory=dict)
    collate: Collate = pad
    lengths: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def batches(self, plan: Plan, *, measuring: bool = False) -> Batches:
        """These rows cut as the plan says (larger batches where nothing is learned)."""
        lengths = np.asarray(self.lengths if self.lengths is not None else [length(row) for row in self.encoded])
        tokens, rows = plan.batch_tokens, plan.batch_rows
        if tokens is None and rows is None:
            longest = int(lengths.max(initial=1))
            if longest > 1:
                tokens = max(longest, round(_ROWS_OF_TOKENS * float(lengths.mean())))
            else:
                rows = _ROWS
        if measuring:
            tokens, rows = tokens and tokens * 2, rows and rows * 2
        return Batches(self.encoded, self.targets, budget_tokens=tokens, rows=rows, seed=plan.seed, collate=self.collate,
                       lengths=lengths)

    def save(self, file: Path) -> None:
        """All arrays end to end in one safetensors file, their shapes beside them."""
        from safetensors.numpy import save_file

        arrays: dict[str, np.ndarray] = {}
        lengths = self.lengths if self.lengths is not None else [length(row) for row in self.encoded]
        arrays["lengths"] = np.asarray(lengths, dtype=np.int64)
        for name in self.encoded[0]:
            _flatten(arrays, f"row/{name}", [np.asarray(row[name]) for row in self.encoded])
        for name, values in self.targets.items():
            _flatten(arrays, f"target/{name}", [np.asarray(value) for value in values])
        save_file(arrays, file)

    @classmethod
    def load(cls, file: Path, collate: Collate = pad) -> "Material":
        """What `save` wrote."""
        from safetensors.numpy import load_file

        arrays = load_file(file)
        rows = {name: _unflatten(arrays, f"row/{name}") for name in _names(arrays, "row/")}
        targets = {name: _unflatten(arrays, f"target/{name}") for name in _names(arrays, "target/")}
        count = len(arrays["lengths"])
        encoded = [{name: values[at] for name, values in rows.items()} for at in range(count)]
        scalars = {name: np.stack(values) if values and values[0].ndim == 0 else values for name, values in targets.items()}
        return cls(encoded, scalars, collate, arrays["lengths"].tolist())


def _flatten(arrays: dict[str, np.ndarray], name: str, values: Sequence[np.ndarray]) -> None:
    arrays[f"{name}/flat"] = np.concatenate([value.reshape(-1) for value in values])
    arrays[f"{name}/shape"] = np.asarray([value.shape for value in values], dtype=np.int64).reshape(len(values), -1)


def _unflatten(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    flat, shapes = arrays[f"{name}/flat"], arrays[f"{name}/shape"]
    ends = np.cumsum(np.prod(shapes, axis=1, dtype=np.int64))
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]


def _names(arrays: Mapping[str, np.ndarray], prefix: str) -> list[str]:
    return [name[len(prefix) : -len("/flat")] for name in arrays if name.startswith(prefix) and name.endswith("/flat")]


def write_json(file: Path, document: Any) -> None:
    """JSON written aside and renamed, so that a reader sees all of it or the old one."""
    aside = file.with_name(f".{file.name}.new")
    aside.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    aside.replace(file)
