"""The data report: one HTML file with everything about a version that is worth seeing before a model is made from it.

Verdict and findings with examples and the command that mends each; class balance by split; a plot of every column; a
contact sheet of images; the words that set classes apart; where the rows are from. No script, nothing is fetched; light and
dark follow the reader's system. Everything from the data is escaped: a row may say `<script>` and is shown saying so. English, or
another language from `words/report.<lang>.toml`, whose keys are the English sentences.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tollway.forge.data import pictures
from tollway.forge.data.checks import Finding, worst
from tollway.forge.data.report_words import Words
from tollway.forge.data.shelf import Version
from tollway.forge.data.telling_words import telling

if TYPE_CHECKING:
    import pyarrow as pa

FILE: Final = "report.html"
_VERDICTS: Final = {
    "bad": ("bad", "Not fit to train on as it is"), "warn": ("warn", "Usable, with something to mend"),
    "note": ("fine", "Sound"), "fine": ("fine", "Sound"),
}  # fmt: skip
_LEVELS: Final = {"bad": "✕ bad", "warn": "! warn", "note": "i note"}
_COLUMNS_MAX: Final = 80
_SHEET_CLASSES, _SHEET_IMAGES = 20, 14
_CELL: Final = 220


def write(version: Version, described: Mapping[str, Any], findings: Sequence[Finding], lang: str = "en") -> Path:
    """Write the report into the version's folder (`report.zh.html` in another language); gives back its path."""
    path = version.folder / (FILE if lang == "en" else f"report.{lang}.html")
    text = page(version, described, findings, lang)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    return path


def page(version: Version, described: Mapping[str, Any], findings: Sequence[Finding], lang: str = "en") -> str:
    """The report as HTML. Raises BadRequest for a language there is none in."""
    t = Words(lang)
    tone, verdict = _VERDICTS[worst(list(findings))]
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    first = version.read(version.splits[0]).slice(0, 8)
    parts = [
        f'<header class="head"><div><p class="muted small">{t("Data report")}</p><h1>{escape(version.ref)}</h1></div>'
        f'<span class="badge {tone}">{t(verdict)}</span></header>',
        _figures(version, described, t),
        _found(findings, version, t),
        _balance(described, t),
        _sheet(version, t),
        _words(version, t),
        _columns(described, t),
        _rows(first, t),
        _origin(version, t),
    ]
    return (
        '<!doctype html>' f'<html lang="{t.html_lang}"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(version.ref)}: {t('Data report')}</title><style>{style}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _figures(version: Version, described: Mapping[str, Any], t: Words) -> str:
    cells = sum(one["missing"] for one in described["columns"].values())
    classes = {name for counts in described["classes"].values() for name in counts}
    shown = {t("rows in {split}", split=split): f"{count:,}" for split, count in described["rows"].items()}
    shown |= {t("columns"): f"{len(described['columns'])}", t("empty cells"): f"{cells:,}"}
    shown |= {t("classes"): f"{len(classes)}"} if classes else {}
    shown[t("on disk")] = f"{version.bytes / 1e6:,.1f} MB" if version.bytes >= 100_000 else f"{version.bytes / 1e3:,.0f} kB"
    return '<section class="kpis">' + "".join(
        f'<div class="card kpi"><b>{value}</b><span>{escape(name)}</span></div>' for name, value in shown.items()
    ) + "</section>"  # fmt: skip


def _found(findings: Sequence[Finding], version: Version, t: Words) -> str:
    head = f"<h2>{t('Findings')}</h2>"
    if not findings:
        return f'{head}<section class="card"><p>{t("Nothing was found: no leaks, no duplicates, no doubtful labels.")}</p></section>'
    images = {split: version.read(split, [one.name]) for one in version.columns[:1] if one.kind == "image" for split in version.splits}
    cards = []
    for one in findings:
        mend = f"<p>{_command(t(one.mend) if one.mend[:7] != 'tollway' else one.mend)}</p>" if one.mend else ""
        said = t(one.sentence, **one.values) if one.sentence else one.text
        cards.append(
            f'<section class="card finding {one.level}"><span class="badge">{t(_LEVELS[one.level])}</span>'
            f"<div><p>{escape(said)}</p>{mend}{_examples(one.examples, images, t)}</div></section>"
        )
    return head + "".join(cards)


def _command(mend: str) -> str:
    return f"<code>{escape(mend)}</code>" if mend.startswith("tollway") else f'<span class="muted">{escape(mend)}</span>'


def _examples(examples: Sequence[Mapping[str, Any]], images: "Mapping[str, pa.Table]", t: Words) -> str:
    if not examples:
        return ""
    heads = list(dict.fromkeys(key for row in examples for key in row))
    body = ""
    for row in examples:
        cells = []
        for key in heads:
            value = row.get(key, "")
            if key == "image" and row["split"] in images:
                data = images[row["split"]].column(0)[row["row"] - 1].as_py()
                cells.append(f"<td>{_image(data)}</td>")
            else:
                shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                cells.append(f"<td>{escape(shown)}</td>")
        body += f"<tr>{''.join(cells)}</tr>"
    return f'<div class="scroll"><table><tr>{"".join(f"<th>{escape(t(key))}</th>" for key in heads)}</tr>{body}</table></div>'


def _image(data: bytes | None) -> str:
    if not data or len(data) > 400_000:
        return "(image)"
    return f'<img alt="" loading="lazy" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _balance(described: Mapping[str, Any], t: Words) -> str:
    if not described["classes"]:
        return ""
    return f'<h2>{t("Classes")}</h2><section class="card">{pictures.classes(described["classes"], t)}</section>'


def _sheet(version: Version, t: Words) -> str:
    """A row of images for each class."""
    name = next((one.name for one in version.columns if one.kind == "image"), "")
    if not name:
        return ""
    label = version.about.get("roles", {}).get("label", "label")
    has_label = any(one.name == label for one in version.columns)
    table = version.read(version.splits[0], [name, label] if has_label else [name])
    chosen: dict[str, list[bytes]] = {}
    labels = table[label].to_pylist() if has_label else [""] * table.num_rows
    step = max(1, table.num_rows // 4000)
    for row in range(0, table.num_rows, step):
        mine = chosen.setdefault(str(labels[row]), []) if len(chosen) < _SHEET_CLASSES or str(labels[row]) in chosen else None
        if mine is not None and len(mine) < _SHEET_IMAGES:
            mine.append(table[name][row].as_py())
    rows = "".join(
        f'<div class="sheet-row"><span>{escape(of)}</span><div class="sheet">{"".join(map(_image, images))}</div></div>'
        for of, images in sorted(chosen.items())
    )
    return f'<h2>{t("What they look like")}</h2><section class="card">{rows}</section>'


def _words(version: Version, t: Words) -> str:
    roles = version.about.get("roles", {})
    text, label = roles.get("text", "text"), roles.get("label", "label")
    kinds = {one.name: one.kind for one in version.columns}
    if kinds.get(text) != "text" or kinds.get(label) not in ("category", "text", "integer", "boolean"):
        return ""
    table = version.read(version.splits[0], [text, label])
    found = telling([one or "" for one in table[text].to_pylist()], table[label].to_pylist())
    if not found:
        return ""
    rows = ""
    for name, words in found.items():
        shown = "".join(f"<span>{escape(word)}</span>" for word in words)
        rows += f'<div class="sheet-row"><span>{escape(name)}</span><div class="words">{shown}</div></div>'
    why = f'<p class="muted small">{t("Words that are in rows of one class more often than chance allows (train).")}</p>'
    return f'<h2>{t("Words that set classes apart")}</h2><section class="card">{rows}{why}</section>'


def _columns(described: Mapping[str, Any], t: Words) -> str:
    columns = list(described["columns"].items())
    cards = "".join(_column(name, one, t) for name, one in columns[:_COLUMNS_MAX])
    more = f'<p class="muted">{t("and {count} more columns", count=len(columns) - _COLUMNS_MAX)}</p>' if len(columns) > _COLUMNS_MAX else ""
    return f'<h2>{t("Columns")}</h2><div class="columns">{cards}</div>{more}'


def _column(name: str, one: Mapping[str, Any], t: Words) -> str:
    facts: dict[str, Any] = {"missing": f"{one['missing']:,}"} if one["missing"] else {}
    body = ""
    if one.get("histogram"):
        what = {"text": "length in characters", "tokens": "number of tokens"}.get(one["kind"], "values")
        edges, high = one["histogram"]["edges"], (one.get("chars") or one.get("tokens") or one).get("max", 0)
        more = not isinstance(high, str) and high > edges[-1]
        body = pictures.histogram(edges, one["histogram"]["counts"], f"{name}: {t(what)}", t, one["kind"] == "time", more)
    spread = one.get("chars") or one.get("tokens") or (one if "median" in one else {})
    for key in ("median", "mean", "std", "max") if spread else ():
        facts[key] = f"{spread[key]:,.4g}"
    if one.get("languages"):
        facts["script"] = ", ".join(f"{script} {share:.0%}" for script, share in one["languages"].items() if share >= 0.01)
    if one.get("not_finite"):
        facts["not finite"] = f"{one['not_finite']:,}"
    if "distinct" in one:
        facts["distinct"] = f"{one['distinct']:,}"
    if one["kind"] in ("category", "boolean") and one.get("top"):
        body = pictures.bars(one["top"], t, 8)
    if "sizes" in one:
        body = pictures.bars(one["sizes"], t, 6)
        facts |= {"colours": ", ".join(one["colours"])}
    if one["kind"] == "time" and "min" in one:
        facts |= {"from": one["min"][:10], "to": one["max"][:10]}
    return (
        f'<section class="card"><div class="title"><h3>{escape(name)}</h3><span class="muted small">{escape(t(one["kind"]))}</span></div>'
        f"{body}{pictures.facts({t(key): value for key, value in facts.items()})}</section>"
    )


def _rows(table: "pa.Table", t: Words) -> str:
    body = ""
    for row in table.to_pylist():
        cells = ""
        for value in list(row.values())[:16]:
            if isinstance(value, bytes):
                cells += f"<td>{_image(value)}</td>"
            else:
                text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
                cells += f"<td>{escape(text[:_CELL] + (' …' if len(text) > _CELL else ''))}</td>"
        body += f"<tr>{cells}</tr>"
    heads = "".join(f"<th>{escape(name)}</th>" for name in table.column_names[:16])
    return f'<h2>{t("First rows")}</h2><section class="card scroll"><table><tr>{heads}</tr>{body}</table></section>'


def _origin(version: Version, t: Words) -> str:
    facts = {
        t("made by"): version.operation + (f" ← {version.parent}" if version.parent else ""),
        t("source"): version.source or t("not said"), t("licence"): version.licence or t("not said"),
        t("created"): version.about["created"], t("digest"): version.digest,
    }  # fmt: skip
    notes = "".join(f'<p class="muted small">{escape(note)}</p>' for note in version.about.get("notes", []))
    return f'<h2>{t("Where it is from")}</h2><section class="card">{pictures.facts(facts)}{notes}</section>'
