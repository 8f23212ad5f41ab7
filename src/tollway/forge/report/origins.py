"""The end of the report: compression and formats, the data, what it took to make it, where everything came from."""

from typing import Any

from tollway.forge.report.details import facts
from tollway.forge.report.markup import Child, badge, card, table, tag
from tollway.forge.report.story import Story
from tollway.forge.report.words import Words


def compression(story: Story, t: Words) -> Child:
    """Each step's size, quality and speed, the source first."""
    if not story.compression:
        return None
    first = story.compression[0]
    rows = []
    for row in story.compression:
        smaller = (
            f" ({first['bytes'] / row['bytes']:.2f}×)"
            if row.get("bytes") and first.get("bytes") and row is not first
            else ""
        )
        rows.append((
            tag("code", row.get("step") or "–"), row.get("what", ""), t.size(row.get("bytes")) + smaller, t.number(row.get("quality")),
            f"{row['speedup']:.2f}×" if row.get("speedup") else t("none"),
        ))  # fmt: skip
    metric = str(first.get("metric") or "")
    quality = f"{t('compress.quality')} ({t.metric(metric)})" if metric else t("compress.quality")
    heads = (t("compress.step"), t("compress.what"), t("compress.size"), quality, t("compress.speed"))
    return card(t("compress.title"), table(heads, rows, (2, 3, 4)), note=t("compress.note"), id="compression")


def formats(story: Story, t: Words) -> Child:
    """Each format's parity, speed and size."""
    if not story.formats:
        return None
    rows = []
    for row in story.formats:
        speed = f"{row['speedup']:.2f}×" if row.get("speedup") else t("none")
        difference = (
            f"{row['max_difference']:.2g}" if isinstance(row.get("max_difference"), (int, float)) else t("none")
        )
        rows.append(
            (
                tag("code", row.get("format", "")),
                difference,
                t.percent(row.get("agreement")),
                t.number(row.get("drop")),
                speed,
                t.size(row.get("bytes")),
            )
        )
    heads = (
        t("convert.format"),
        t("convert.difference"),
        t("convert.agreement"),
        t("convert.drop"),
        t("convert.speed"),
        t("convert.size"),
    )
    return card(t("convert.title"), table(heads, rows, (1, 2, 3, 4, 5)), note=t("convert.note"), id="formats")


def data(story: Story, t: Words) -> Child:
    """A summary of the data card."""
    meta = story.data
    if not meta:
        return None
    counts = meta.get("rows")
    rows: list[tuple[Child, Child]] = [
        (t("lineage.dataset"), str(meta.get("dataset") or story.record.dataset or t("data.unknown")))
    ]
    if isinstance(counts, dict):
        rows.append((t("data.rows"), " · ".join(f"{name} {count:,}" for name, count in counts.items())))
    split = meta.get("split") or {}
    if split:
        rows.append((t("data.split"), str(split.get("by", ""))))
    rows.append((t("data.licence"), str(meta.get("licence") or t("data.unknown"))))
    rows.append((t("data.source"), str(meta.get("source") or t("data.unknown"))))
    for name, word in (("clean", "data.cleaned"), ("augment", "data.augmented"), ("masked", "data.masked")):
        if meta.get(name):
            rows.append((t(word), _listed(meta[name])))
    columns = meta.get("columns")
    if isinstance(columns, dict):
        rows.append(
            (
                t("data.columns"),
                ", ".join(
                    f"{name} ← {source}" if name != source else str(name) for name, source in list(columns.items())[:24]
                ),
            )
        )
    rows.append((t("data.digest"), tag("code", str(meta.get("digest") or story.record.dataset_digest)[:23])))
    return card(t("data.title"), facts(rows), _balance(meta, t), id="data")


def _listed(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _balance(meta: dict[str, Any], t: Words) -> Child:
    """How many training rows each class has."""
    counts = (meta.get("classes") or {}).get("train") or {}
    if not counts:
        return None
    most = max(counts.values()) or 1
    rows = [
        (name, f"{count:,}", tag("span", cls="meter plain", style=f"--share: {round(100 * count / most)}%"))
        for name, count in sorted(counts.items(), key=lambda one: -one[1])[:20]
    ]
    return tag(
        "details",
        tag("summary", t("data.balance")),
        table((t("quality.class"), t("data.rows"), ""), rows, (1,)),
        open=True,
    )


def lineage(story: Story, t: Words) -> Child:
    """Steps with their time and cost, and the chain from the dataset to the package."""
    record = story.record
    rows = []
    for step in record.steps:
        where = badge(t("lineage.cached"), "info") if step.get("cached") else ""
        cost = 0 if step.get("cached") else round(float(step.get("seconds", 0)) * story.micros_per_hour / 3600)
        rows.append(
            (
                str(step["name"]),
                where,
                f"{step.get('seconds', 0):.1f}",
                f"{step.get('cpu_seconds', 0):.1f}",
                t.money(cost, record.currency),
                tag("code", str(step.get("folder", "")), cls="wrap"),
            )
        )
    total = (
        t("lineage.total"),
        "",
        f"{record.seconds:.1f}",
        f"{record.cpu_seconds:.1f}",
        t.money(record.cost_micros, record.currency),
        f"{t.number(record.energy_wh)} Wh",
    )
    heads = (t("lineage.step"), "", t("lineage.seconds"), t("lineage.cpu"), t("kpi.cost"), t("lineage.output"))
    chain: list[tuple[Child, Child]] = [
        (t("lineage.dataset"), tag("span", record.dataset, " ", tag("code", record.dataset_digest[:23]))),
        (t("lineage.recipe"), record.recipe),
        (t("lineage.run"), tag("code", record.id)),
        (t("lineage.seed"), str(story.part("recipe").get("seed", 7))),
        (t("lineage.parent"), story.part("package").get("parent") or t("none")),
        (t("lineage.package"), record.package or t("none")),
    ]
    return card(
        t("lineage.title"), table(heads, [*rows, total], (2, 3, 4), cls="totalled"), facts(chain),
        tag("p", t("lineage.assumption"), cls="muted small"), note=t("lineage.note"), id="lineage",
    )  # fmt: skip
