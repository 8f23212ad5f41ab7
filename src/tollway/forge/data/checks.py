"""The check of a dataset version: everything that would spoil a model made from it, worst first, with examples.

    findings = data.check(version)          # [Finding("leak", "bad", "12 rows of test are in train as well", …), …]

Each finding says what it is, how much of it there is, where, and which command mends it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data import duplicates, labels, noise
from tollway.forge.data.shelf import Version

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN: Final = 5
_NEAR_MAX: Final = 60_000
_IMBALANCE: Final = 20
_RANK: Final = {"bad": 0, "warn": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """One thing about the data that somebody should know."""

    code: str
    level: str  # bad | warn | note
    text: str
    count: int = 0
    mend: str = ""
    examples: list[dict[str, Any]] = field(default_factory=list)
    sentence: str = ""  # the text before its values were put in: what other languages translate
    values: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ("sentence", "values")}


def _finding(
    code: str, level: str, sentence: str, count: int = 0, mend: str = "", examples: Sequence[dict[str, Any]] = (), **values: Any
) -> Finding:  # fmt: skip
    """Numbers among the values are written with their commas."""
    told = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in values.items()}
    return Finding(code, level, sentence.format(**told), count, mend, list(examples), sentence, told)


@dataclass(frozen=True)
class _Rows:
    """All rows of a version with the split of each."""

    version: Version
    whole: "pa.Table"
    splits: list[str]
    content: list[str]
    main: list[str]
    label: str

    def shown(self, row: int) -> dict[str, Any]:
        """A row as an example: where it stands and how it begins."""
        found: dict[str, Any] = {"split": self.splits[row], "row": row - self.splits.index(self.splits[row]) + 1}
        value = self.whole[self.main[0]][row].as_py() if self.main else None
        if isinstance(value, bytes):
            found["image"] = "(image)"
        elif self.main:
            found["text"] = str(value).replace("\n", " ")[:120]
        return found | ({"label": str(self.whole[self.label][row].as_py())} if self.label else {})


def check(version: Version, *, deep: bool = True, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """All findings, worst first. `deep` also looks for near duplicates and rows that are probably mislabelled."""
    rows = _rows(version)
    looks: list[Callable[[_Rows], list[Finding]]] = [_missing, _classes, _exact, _conflicts, _telltale]
    if deep:
        looks += [_near, _mislabelled]
    found: list[Finding] = []
    for done, look in enumerate(looks):
        if progress is not None:
            progress(done, len(looks))
        found += look(rows)
    if not version.licence:
        found.append(_finding("no_licence", "note", "Nobody has said under which licence these rows may be used.",
                             mend="tollway dataset import FILE --licence LICENCE"))  # fmt: skip
    named = [replace(one, mend=one.mend.replace("…", version.ref)) for one in found]
    return sorted(named, key=lambda one: _RANK[one.level])


def _rows(version: Version) -> _Rows:
    import pyarrow as pa

    tables = version.tables()
    whole = pa.concat_tables(tables.values()).combine_chunks()
    splits = [split for split, table in tables.items() for _ in range(table.num_rows)]
    roles = version.about.get("roles", {})
    kinds = {one.name: one.kind for one in version.columns}
    label = roles.get("label", "label")
    label = label if kinds.get(label) in ("category", "text", "integer", "boolean") else ""
    asked = [roles.get(one) for one in ("text", "image", "question", "source", "prompt") if roles.get(one) in kinds]
    shown = [name for name, kind in kinds.items() if kind in ("text", "image") and name not in (label, "file")]
    main = [one for one in asked if one] or shown
    if not main and all(kind != "json" and kind != "tokens" for kind in kinds.values()):
        content = [name for name in kinds if name != label]
    else:
        main = main or [name for name, kind in kinds.items() if kind in ("json", "tokens")]
        content = main + [name for name in ("context",) if name in kinds]
    return _Rows(version, whole, splits, content, main, label)


def _missing(rows: _Rows) -> list[Finding]:
    found = []
    for one in rows.version.columns:
        count = rows.whole[one.name].null_count
        share = count / max(rows.whole.num_rows, 1)
        needed = one.name == rows.label or one.name in rows.main
        if count and (needed or share >= 0.2):
            mend = "tollway dataset clean … --step drop-missing" if needed else ""
            found.append(_finding(
                "missing", "bad" if needed else "warn", "{rows} rows ({share}) have no {column}.", count, mend,
                rows=count, share=f"{share:.1%}", column=repr(one.name),
            ))  # fmt: skip
        if count == rows.whole.num_rows or (one.kind in ("category", "integer", "number", "boolean")
                                            and one.name != rows.label and rows.whole[one.name].unique().null_count == 0
                                            and len(rows.whole[one.name].unique()) == 1):  # fmt: skip
            found.append(_finding("constant", "note", "The column {column} has the same value in all rows.", column=repr(one.name)))
    return found


def _classes(rows: _Rows) -> list[Finding]:
    if not rows.label:
        return []
    per: dict[str, Counter[str]] = defaultdict(Counter)
    for split, one in zip(rows.splits, rows.whole[rows.label].to_pylist(), strict=True):
        if one is not None:
            per[split][str(one)] += 1
    total: Counter[str] = sum(per.values(), Counter())
    found = []
    if len(total) == 1:
        only = repr(next(iter(total)))
        found.append(_finding("one_class", "bad", "All rows have the same label, {label}.", rows.whole.num_rows, label=only))
    for split, counts in per.items():
        lost = sorted(set(total) - set(counts))
        if lost and len(total) <= 1000:
            found.append(_finding(
                "empty_class", "bad" if split == "train" else "warn", "{split} has no row of {lost} of the {all} classes: {names}.",
                len(lost), "tollway dataset split … --by stratified",
                split=split, lost=len(lost), all=len(total), names=", ".join(lost[:8]),
            ))  # fmt: skip
    if len(total) > 1:
        (most, many), (least, few) = total.most_common()[0], total.most_common()[-1]
        if many >= _IMBALANCE * few:
            found.append(_finding(
                "imbalance", "warn", "Classes are far from even: {most} has {many} rows, {least} has {few}.",
                mend="Judge by balanced accuracy or F1, not by accuracy.", most=repr(most), many=many, least=repr(least), few=few,
            ))  # fmt: skip
    for wrong, right in labels.typos(total).items():
        found.append(_finding(
            "label_typo", "bad", "The label {wrong} ({few} rows) looks like {right} ({many}).", total[wrong],
            f"tollway dataset clean … --step rename:{wrong}={right}",
            wrong=repr(wrong), few=total[wrong], right=repr(right), many=total[right],
        ))  # fmt: skip
    return found


def _groups(rows: _Rows, groups: list[list[int]], code: str, what: str, mend: str) -> list[Finding]:
    """Duplicates within a split, and those that lie in two of them."""
    inside, across = 0, Counter[str]()
    examples: list[dict[str, Any]] = []
    leaks: list[dict[str, Any]] = []
    for group in groups:
        by = Counter(rows.splits[row] for row in group)
        inside += len(group) - len(by)
        if len(by) > 1 and "train" in by:
            for split in ("validation", "test"):
                across[split] += by[split]
            if len(leaks) < _SHOWN:
                leaks += [rows.shown(row) for row in group[:2] if rows.splits[row] != "train"][:1] or [rows.shown(group[-1])]
        elif len(examples) < _SHOWN:
            examples.append(rows.shown(group[0]) | {"times": len(group)})
    found = []
    for split, count in across.items():
        if count:
            share = count / max(rows.splits.count(split), 1)
            text = f"{{rows}} rows of {{split}} ({{share}}) are in train as well ({what}): the figures will be too good."
            bad = share > (0.001 if code == "duplicates" else 0.02)  # short texts are often nearly equal by nature
            level = "bad" if bad else "warn"
            found.append(_finding(f"leak_{code}", level, text, count, mend, leaks, rows=count, split=split, share=f"{share:.1%}"))
    if inside:
        share = inside / max(rows.whole.num_rows, 1)
        text = f"{{rows}} rows ({{share}}) repeat another one ({what})."
        level = "warn" if share > 0.01 else "note"
        found.append(_finding(code, level, text, inside, mend, examples, rows=inside, share=f"{share:.1%}"))
    return found


def _exact(rows: _Rows) -> list[Finding]:
    if not rows.content:
        return []
    groups = duplicates.exact(rows.whole, rows.content)
    return _groups(rows, groups, "duplicates", "equal", "tollway dataset clean … --step deduplicate")


def _near(rows: _Rows) -> list[Finding]:
    if not rows.main or any(one.kind not in ("text", "image", "category") for one in rows.version.columns if one.name in rows.main):
        return []
    if rows.whole.num_rows > _NEAR_MAX:
        return [_finding("near_skipped", "note", "Near duplicates are looked for up to {most} rows; here are more.", most=_NEAR_MAX)]
    looked_at = rows.content  # a question with its context: two towns may be asked the same
    exact = {row: group[0] for group in duplicates.exact(rows.whole, looked_at) for row in group}
    groups = []
    for group in duplicates.near(rows.whole, looked_at):
        if len({exact.get(row, row) for row in group}) > 1:
            groups.append(group)
    return _groups(rows, groups, "near_duplicates", "nearly equal", "tollway dataset clean … --step near-deduplicate")


def _conflicts(rows: _Rows) -> list[Finding]:
    if not rows.label or not rows.content:
        return []
    names = rows.whole[rows.label].to_pylist()
    groups = duplicates.exact(rows.whole, rows.content)
    bad = [group for group in groups if len({names[row] for row in group} - {None}) > 1]
    count = sum(map(len, bad))
    if not bad:
        return []
    examples = [rows.shown(group[0]) | {"labels": sorted({str(names[row]) for row in group} - {"None"})} for group in bad[:_SHOWN]]
    text, mend = "{rows} rows have the same content under different labels.", "tollway dataset clean … --step drop-conflicts"
    return [_finding("conflicts", "warn", text, count, mend, examples, rows=count)]


def _telltale(rows: _Rows) -> list[Finding]:
    """A column that alone gives the label away: most often it was filled in after the fact. Texts and images have features
    of their own; what else stands in their rows is not learned from."""
    if not rows.label or rows.main or rows.whole.num_rows < 20:
        return []
    names = rows.whole[rows.label].to_pylist()
    if len(set(names)) < 2:
        return []
    found = []
    for one in rows.version.columns:
        if one.name == rows.label or one.kind not in ("category", "integer", "number", "boolean", "text"):
            continue
        values = rows.whole[one.name].to_pylist()
        by: dict[Any, set[Any]] = defaultdict(set)
        for value, name in zip(values, names, strict=True):
            by[value].add(name)
        if len(by) <= rows.whole.num_rows / 4 and all(len(one) == 1 for one in by.values()):
            text = "The column {column} alone tells the label: is it known when the model will be asked?"
            mend = f'Leave it out: columns = {{drop = "{one.name}"}}.'
            found.append(_finding("telltale", "warn", text, mend=mend, column=repr(one.name)))
    return found


def _mislabelled(rows: _Rows) -> list[Finding]:
    if not rows.label:
        return []
    doubtful = noise.suspects(rows.whole, rows.label, rows.main or rows.content, rows.version.columns)
    if not doubtful:
        return []
    examples = [rows.shown(one.row) | {"rather": one.rather, "sure": round(one.sure, 3)} for one in doubtful[: 4 * _SHOWN]]
    share = len(doubtful) / rows.whole.num_rows
    text = "{rows} rows ({share}) look like another class to a simple model that has not seen them: worth a look."
    level = "warn" if share >= 0.005 else "note"
    return [_finding("label_noise", level, text, len(doubtful), "", examples, rows=len(doubtful), share=f"{share:.1%}")]


def worst(findings: list[Finding]) -> str:
    """bad, warn, note or fine."""
    return findings[0].level if findings else "fine"


def counts(findings: list[Finding]) -> Mapping[str, int]:
    """How many of each level."""
    return Counter(one.level for one in findings)
