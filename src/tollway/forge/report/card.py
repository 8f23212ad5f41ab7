"""The model card: what travels with the package, in Markdown (Mitchell et al. 2019): use, data, figures with intervals, limits."""

from tollway.forge.report.story import Story
from tollway.forge.report.words import Words

ECE_LIMIT = 0.05


def render(story: Story, lang: str = "en") -> str:
    """The card of a run's model."""
    t, package, record = Words(lang), story.part("package"), story.record
    lines = [f"# {package.get('title') or record.recipe}", "", str(package.get("description") or record.task), ""]
    lines += [f"## {t('card.use')}", "", str(package.get("intended_use") or t("card.use_default")), ""]
    lines += [f"## {t('card.data')}", "", *_data(story, t), ""]
    lines += [f"## {t('card.training')}", "", *_training(story, t), ""]
    if story.scores is not None:
        lines += [f"## {t('card.metrics')}", "", *_metrics(story, t), ""]
    lines += [f"## {t('card.limits')}", "", *([str(package["limits"]), ""] if package.get("limits") else [])]
    lines += [f"- {one}" for one in limits(story, t)] + [""]
    if story.explanations.get("methods"):
        lines += [f"## {t('card.explained')}", "", *_explained(story, t), ""]
    lines += [f"## {t('card.cost')}", "", *_cost(story, t), ""]
    return "\n".join(lines)


def _data(story: Story, t: Words) -> list[str]:
    meta = story.data
    counts = meta.get("rows")
    found = [
        f"- {t('lineage.dataset')}: {story.record.dataset or meta.get('dataset', '')} `{story.record.dataset_digest}`"
    ]
    if isinstance(counts, dict):
        found.append(f"- {t('data.rows')}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    found.append(f"- {t('data.licence')}: {meta.get('licence') or t('data.unknown')}")
    found.append(f"- {t('data.source')}: {meta.get('source') or t('data.unknown')}")
    return found


def _training(story: Story, t: Words) -> list[str]:
    model, train = story.part("model"), story.part("train")
    what = model.get("base") or model.get("architecture") or ""
    found = [f"- {what}, {train.get('method', 'full')}" if what else f"- {train.get('method', 'full')}"]
    for name, word in (("steps", "curves.steps"), ("learning_rate", "curves.learning_rate")):
        if story.training.get(name):
            found.append(f"- {t(word)}: {story.training[name]:g}")
    return found


def _metrics(story: Story, t: Words) -> list[str]:
    scores = story.scores
    assert scores is not None
    heads = [t("quality.metric"), t("quality.ours"), t("quality.interval"), *(one.name for one in scores.comparisons)]
    lines = [t("quality.note", rows=t.number(scores.rows), replicates=t.number(scores.replicates)), ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, one in scores.metrics.items():
        if "." not in name:
            cells = [
                t.metric(name),
                t.number(one.value),
                t.interval(one.low, one.high),
                *(t.number(other.metrics.get(name)) for other in scores.comparisons),
            ]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def limits(story: Story, t: Words) -> list[str]:
    """What was measured to be weak, in sentences; what was not looked at is said too."""
    scores = story.scores
    if scores is None:
        return [t("verdict.unmeasured")]
    metric, found = t.metric(scores.primary), []
    if scores.not_better_than:
        found.append(t("card.not_better", names=", ".join(scores.not_better_than)))
    if scores.rows < 300:
        found.append(t("card.few", rows=scores.rows))
    higher = scores.metrics[scores.primary].higher
    parts = [one for one in scores.slices if not one.small and one.figure.value is not None]
    if parts:
        worst = (min if higher else max)(parts, key=lambda one: one.figure.value or 0.0)
        found.append(
            t(
                "card.worst_part",
                column=worst.column,
                part=worst.value,
                metric=metric,
                value=t.number(worst.figure.value),
                rows=worst.rows,
            )
        )
    for gap in scores.gaps:
        if gap.worst is not None:
            found.append(t("card.gap", column=gap.column, value=t.number(gap.worst)))
    if not scores.gaps:
        found.append(t("card.unexamined"))
    if scores.noise:
        most = max(scores.noise, key=lambda one: one.lost or 0.0)
        if (most.lost or 0.0) > 0:
            found.append(
                t(
                    "card.noise",
                    kind=t.noise(most.kind),
                    level=f"{most.level:g}",
                    lost=t.number(most.lost),
                    metric=metric,
                )
            )
    if scores.calibration is not None and scores.calibration.ece > ECE_LIMIT:
        found.append(t("card.uncalibrated", ece=t.number(scores.calibration.ece)))
    return found


def _explained(story: Story, t: Words) -> list[str]:
    methods = story.explanations["methods"]
    return [
        f"- {t('card.faithful', method=name, gain=t.signed(one.get('gain')), rows=int(one.get('rows', 0)))}"
        for name, one in methods.items()
    ]


def _cost(story: Story, t: Words) -> list[str]:
    record = story.record
    money = t.money(record.cost_micros, record.currency)
    return [f"- {t.time(record.seconds)}, {money}, {t.number(record.energy_wh)} Wh", f"- {t('lineage.assumption')}"]
