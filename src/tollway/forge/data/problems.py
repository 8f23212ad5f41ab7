"""Everything that is wrong with some data, gathered and told at once: the first places with their line, and the counts.

    problems = Problems("reviews.csv")
    problems.add("ragged", "a row has more or fewer cells than the header", line=17, shown="7 cells, not 3")
    problems.require()        # raises BadRequest with all of it, or does nothing

A *problem* means that something cannot be read as it stands; a *doubt* can be read, but is probably not wanted (a label
that looks like a typing error, a class without rows). Both stop an import; a doubt may be waved through.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tollway.kit.errors import BadRequest

SHOWN: Final = 20


@dataclass
class Kind:
    """One kind of trouble: how often, and the first places."""

    what: str
    doubt: bool = False
    count: int = 0
    places: list[str] = field(default_factory=list)


class Problems:
    """A list that grows while reading and is told when all is read."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.kinds: dict[str, Kind] = {}
        self.notes: list[str] = []

    def add(
        self, code: str, what: str, *, line: int | None = None, file: str = "", shown: str = "", doubt: bool = False
    ) -> None:
        """One more of a kind. `what` says it in general, `shown` is what is there."""
        kind = self.kinds.setdefault(f"{code}: {what}", Kind(what, doubt))
        kind.count += 1
        if len(kind.places) < SHOWN:
            where = " ".join(part for part in (file, f"line {line}" if line else "") if part)
            kind.places.append(": ".join(part for part in (where, shown) if part))

    def forget(self, codes: Iterable[str]) -> int:
        """Take kinds off the list (they were dealt with); says how many places that was."""
        gone = [name for name, kind in self.kinds.items() if not kind.doubt and name.partition(": ")[0] in codes]
        return sum(self.kinds.pop(name).count for name in gone)

    def has(self, codes: Iterable[str]) -> bool:
        """Whether one of these kinds is among them."""
        return any(name.partition(": ")[0] in codes for name in self.kinds)

    def note(self, text: str) -> None:
        """Something worth knowing that stops nothing."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def errors(self) -> int:
        return sum(kind.count for kind in self.kinds.values() if not kind.doubt)

    @property
    def doubts(self) -> int:
        return sum(kind.count for kind in self.kinds.values() if kind.doubt)

    def text(self, kinds: Iterable[Kind]) -> str:
        """The list as people read it: at most twenty places in all, then how many more."""
        lines, left = [], SHOWN
        for kind in kinds:
            times = f" ({kind.count:,} times)" if kind.count > 1 else ""
            lines.append(f"  - {kind.what}{times}")
            places = [place for place in kind.places if place][: max(left, 1)]
            left -= len(places)
            lines += [f"      {place}" for place in places]
            if kind.count > len(places) and places:
                lines.append(f"      … and {kind.count - len(places):,} more")
        return "\n".join(lines)

    def require(self, *, doubts_too: bool = True, hint: str = "") -> None:
        """Raise BadRequest with everything found. Nothing has been kept by then."""
        told = [kind for kind in self.kinds.values() if doubts_too or not kind.doubt]
        if not told:
            return
        count = sum(kind.count for kind in told)
        only_doubts = all(kind.doubt for kind in told)
        way_out = "Correct them" + (", or add --anyway if all is meant so." if only_doubts else
                                    ", or add --skip-bad to leave unreadable rows out.")  # fmt: skip
        notes = "".join(f"\n  Note: {note}" for note in self.notes)
        raise BadRequest(
            f"{self.source} has {count:,} problem{'s' * (count > 1)}; nothing was kept.\n{self.text(told)}{notes}",
            code="data_doubtful" if only_doubts else "data_problems",
            hint=hint or way_out,
        )

    def plain(self) -> dict[str, Any]:
        """As JSON, to travel out of the limited process."""
        kinds = {code: {"what": kind.what, "doubt": kind.doubt, "count": kind.count, "places": kind.places}
                 for code, kind in self.kinds.items()}  # fmt: skip
        return {"source": self.source, "kinds": kinds, "notes": self.notes}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Problems":
        """Back from `plain`."""
        problems = cls(str(plain["source"]))
        problems.kinds = {code: Kind(**kind) for code, kind in plain["kinds"].items()}
        problems.notes = list(plain["notes"])
        return problems

    def merge(self, other: "Problems") -> None:
        """Take over what another list found."""
        for code, kind in other.kinds.items():
            mine = self.kinds.setdefault(code, Kind(kind.what, kind.doubt))
            mine.count += kind.count
            mine.places = (mine.places + kind.places)[:SHOWN]
        for note in other.notes:
            self.note(note)
