"""Masking of personal data in a dataset's texts, with a report that names kinds and counts, never the values."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tollway.guard import masking

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN: Final = 3
_AROUND: Final = 24


@dataclass
class Report:
    """What was covered: by kind, by column, and a few places with the value itself covered."""

    counts: Counter[str] = field(default_factory=Counter)
    columns: dict[str, Counter[str]] = field(default_factory=dict)
    rows: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def hints(self) -> tuple[str, ...]:
        return masking.HINTS

    @property
    def certain(self) -> int:
        """Found by form and checksum; names and addresses are hints and counted apart."""
        return sum(count for kind, count in self.counts.items() if kind not in masking.HINTS)

    def plain(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "columns": {name: dict(one) for name, one in self.columns.items()},
                "rows": self.rows, "certain": self.certain, "hints": sum(self.counts.values()) - self.certain,
                "examples": self.examples}  # fmt: skip


def columns_to_mask(table: "pa.Table", label: str | None = None) -> list[str]:
    """Every column of strings but the label."""
    import pyarrow as pa

    return [field.name for field in table.schema if pa.types.is_string(field.type) and field.name != label]


def mask_table(
    table: "pa.Table", columns: Sequence[str], masker: masking.Masker | None = None, report: Report | None = None
) -> tuple["pa.Table", Counter[str]]:
    """The table with its texts covered (`[PHONE]`), and how often each kind was found."""
    import pyarrow as pa

    masker = masker or masking.Masker(style="kind")
    report = report or Report()
    before: Counter[str] = Counter(report.counts)
    touched: set[int] = set()
    for name in columns:
        values = []
        mine = report.columns.setdefault(name, Counter())
        for row, text in enumerate(table[name].to_pylist()):
            masked = masker.mask(text) if text else None
            if masked is not None and masked.found:
                touched.add(row)
                mine += masked.counts
                _note(report, masked)
            values.append(text if masked is None else masked.text)
        table = table.set_column(table.column_names.index(name), name, pa.chunked_array([pa.array(values, pa.string())]))
    report.counts = sum(report.columns.values(), Counter())
    report.rows += len(touched)
    return table, report.counts - before


def _note(report: Report, masked: masking.Masked) -> None:
    for kind in masked.counts:
        shown = report.examples.setdefault(kind, [])
        mark = f"[{kind.upper()}"
        at = masked.text.find(mark)
        if len(shown) < _SHOWN and at >= 0:
            around = masked.text[max(0, at - _AROUND) : at + len(mark) + 1 + _AROUND].replace("\n", " ")
            shown.append(f"…{around}…")
