"""Material: encoded rows and their targets, ready to be cut into batches.

For the loop; what an objective's `prepare` gives.
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
_ROWS_OF_TOKENS = 16  # how many texts of mean length fill a batch when no budget is given ...
_TOKENS = 1024  # ... but at least so many tokens: below, a step is mostly the optimiser's


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
                tokens = max(longest, min(_TOKENS, 64 * round(float(lengths.mean()))), round(_ROWS_OF_TOKENS * float(lengths.mean())))
            else:
                rows = _ROWS
        if measuring:
            tokens, rows = tokens and tokens * 2, rows and rows * 2
        return Batches(
            self.encoded, self.targets, budget_tokens=tokens, rows=rows, seed=plan.seed, collate=self.collate, lengths=lengths
        )


def write_json(file: Path, document: Any) -> None:
    """JSON written aside and renamed, so that a reader sees all of it or the old one."""
    aside = file.with_name(f".{file.name}.new")
    aside.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    aside.replace(file)
