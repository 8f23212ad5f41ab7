"""The head of the report: what was made, the verdict in a sentence, the figures that matter, the gates, what to do next."""

import json

from tollway.forge.evaluate import Comparison
from tollway.forge.report import charts
from tollway.forge.report.markup import Child, Markup, badge, card, join, table, tag
from tollway.forge.report.story import Story
from tollway.forge.report.words import Words
from tollway.kit.clock import from_ms
from tollway.kit.said import translated


def head(story: Story, t: Words) -> Markup:
    """Title, state, and the verdict."""
    record = story.record
    made = from_ms(record.finished_ms or record.started_ms).strftime("%Y-%m-%d %H:%M UTC")
    facts = " · ".join(filter(None, [record.task, record.dataset, made, record.id]))
    return tag(
        "header",
        tag("div", tag("p", facts, cls="muted small"), tag("h1", story.part("package").get("title") or record.recipe)),
        tag("div", _state(story, t), badge(*_gates_word(story, t)), cls="row"),
        cls="page-head",
    )


def _state(story: Story, t: Words) -> Markup | None:
    """How the run ended; nothing while it goes on, for the report is written before its last step."""
    state = story.record.alive_state
    tone = {"failed": "bad", "done": "good"}.get(state, "warn")
    return None if state == "running" else badge(t(f"state.{state}"), tone)


def _gates_word(story: Story, t: Words) -> tuple[str, str]:
    if story.scores is None:
        return t("verdict.unmeasured"), ""
    gates = story.scores.gates
    failed = sum(not gate.passed for gate in gates)
    if not gates:
        return t("verdict.free"), ""
    return (
        (t("verdict.missed", failed=failed, count=len(gates)), "bad")
        if failed
        else (t("verdict.passed", count=len(gates)), "good")
    )


def verdict(story: Story, t: Words) -> Child:
    """One sentence somebody could repeat: how good, how sure, and better than what."""
    if story.record.error:
        ended = t("verdict.failed_run", step=story.record.step)
        return tag(
            "div", tag("p", ended, " ", story.record.error), tag("p", story.record.hint, cls="small"), cls="notice bad"
        )
    scores = story.scores
    if scores is None:
        return None
    main = scores.metrics[scores.primary]
    said = [t("verdict.main", metric=t.metric(scores.primary), value=t.number(main.value), rows=t.number(scores.rows))]
    if main.low is not None:
        said.append(t("verdict.interval", low=t.number(main.low), high=t.number(main.high)))
    lines = [tag("p", _sentence(("；" if t.lang == "zh" else "; ").join(said), t), cls="lead")]
    strongest = [one for one in scores.comparisons if one.kind == "baseline"][-1:]
    parents = [one for one in scores.comparisons if one.kind == "parent"]
    lines += [tag("p", _against(one, t)) for one in strongest + parents if one.difference.value is not None]
    beaten = scores.not_better_than
    loud = t("verdict.not_better", names=", ".join(beaten), rows=t.number(scores.rows)) if beaten else ""
    return join(
        [tag("div", tag("p", loud), cls="notice bad") if loud else None, tag("section", *lines, cls="card verdict")]
    )


def _against(one: Comparison, t: Words) -> str:
    apart = one.difference
    low, high, value = t.signed(apart.low), t.signed(apart.high), t.number(abs(apart.value or 0.0))
    name = t("quality.parent") if one.kind == "parent" else one.name
    if apart.low is None or apart.high is None:
        return f"{name}: {t.signed(apart.value)}"
    word = "better" if apart.low > 0 else "worse" if apart.high < 0 else "equal"
    said = t(f"verdict.{word}", name=name, value=value, low=low, high=high)
    return _sentence(said, t)


def _sentence(said: str, t: Words) -> str:
    return said[0].upper() + said[1:] + ("。" if t.lang == "zh" else ".")


def figures(story: Story, t: Words) -> Markup:
    """The row of large numbers."""
    record, scores = story.record, story.scores
    cells: list[Child] = []
    if scores is not None:
        main = scores.metrics[scores.primary]
        cells.append(_kpi(t.metric(scores.primary), t.number(main.value), t.interval(main.low, main.high)))
        for one in scores.comparisons[-1:]:
            cells.append(
                _kpi(
                    t("kpi.versus", name=one.name),
                    t.signed(one.difference.value),
                    t.interval(one.difference.low, one.difference.high),
                )
            )
    size = next((row.get("bytes") for row in story.formats if row.get("bytes")), None)
    if size:
        cells.append(_kpi(t("kpi.size"), t.size(size), t("kpi.served", format=story.formats[0].get("format", ""))))
    cached = sum(bool(row.get("cached")) for row in record.steps)
    cells.append(
        _kpi(
            t("kpi.time"),
            t.time(record.seconds),
            t("kpi.cached", count=cached, steps=len(record.steps)) if cached else "",
        )
    )
    price = (
        t("kpi.assumed_price", price=t.money(story.micros_per_hour, record.currency))
        if record.seconds
        else t("kpi.free")
    )
    cells.append(_kpi(t("kpi.cost"), t.money(record.cost_micros, record.currency), price))
    watts = t("kpi.assumed_watts", watts=t.number(round(story.watts, 1))) if record.seconds else t("kpi.free")
    cells.append(_kpi(t("kpi.energy"), f"{t.number(record.energy_wh)} Wh", watts))
    return tag("div", *cells, cls="kpis")


def _kpi(label: str, value: str, note: str) -> Markup:
    return tag(
        "div",
        tag("div", label, cls="kpi-label"),
        tag("div", value, cls="kpi-value"),
        tag("div", note, cls="kpi-note"),
        cls="card kpi",
    )


def gates(story: Story, t: Words) -> Child:
    """Every gate with what it met."""
    if story.scores is None or not story.scores.gates:
        return None
    rows = [
        (
            join([tag("code", gate.name), " ", tag("small", t("gates.usual"), cls="muted") if gate.usual else None]),
            tag("code", gate.rule), t.number(gate.value) if gate.value is not None else t("gates.unknown"),
            badge(t("gates.passed"), "good") if gate.passed else badge(t("gates.missed"), "bad"),
        )
        for gate in story.scores.gates
    ]  # fmt: skip
    heads = (t("gates.gate"), t("gates.rule"), t("gates.value"), t("gates.result"))
    return card(t("gates.title"), table(heads, rows, (2,)), id="gates")


def warnings(story: Story, t: Words) -> Child:
    """What a reader should know before believing the rest."""
    said = list(dict.fromkeys(translated(t.lang, text, kept) for text, kept in story.warnings))
    for note in story.scores.notes if story.scores else []:
        name, _, value = note.partition(":")
        said.append(t(f"warnings.{name}", value=value))
    if story.missing:
        said.append(t("warnings.missing", value=", ".join(story.missing)))
    if not said:
        return None
    shown = tag("ul", [tag("li", one) for one in said[:20]])
    return tag("section", tag("div", tag("h2", t("warnings.title")), shown), cls="notice warn")


def deploy(story: Story, t: Words) -> Markup:
    """The commands that sell it, or why there is nothing to sell yet."""
    if story.scores is not None and not story.scores.passed:
        return card(t("deploy.title"), tag("p", t("deploy.missed")), id="deploy")
    name = story.record.package.partition("@")[0] or story.record.recipe
    door, body = _call(story, name)
    body = body.replace("'", "'\\''")
    commands = f"tollway deploy {name}"
    key = "Authorization: Bearer $TOLLWAY_KEY"
    call = (
        f'curl http://127.0.0.1:8080/v1/{door} \\\n  -H "{key}" \\\n  -H "Content-Type: application/json" -d \'{body}\''
    )
    steps = [
        tag("h3", t("deploy.first")), tag("pre", commands, cls="command"),
        tag("h3", t("deploy.call")), tag("pre", call, cls="command"),
    ]  # fmt: skip
    return card(t("deploy.title"), *steps, note=t("deploy.note"), id="deploy")


def _call(story: Story, name: str) -> tuple[str, str]:
    task = story.record.task
    if task in ("language-modeling", "preference"):
        return "completions", json.dumps({"model": name, "prompt": "Once upon a time", "max_tokens": 40})
    if task == "chat":
        return "chat/completions", json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
    if task == "sentence-embedding":
        return "embeddings", json.dumps({"model": name, "input": "a text"})
    if task == "image-generation":
        asked = _label(story)
        return "images/generations", json.dumps(
            {"model": name, "n": 1} | ({"prompt": asked} if asked else {}), ensure_ascii=False
        )
    if task == "recommendation":
        return "recommendations", json.dumps({"model": name, "user": story.call or "…", "top_n": 5}, ensure_ascii=False)
    if task == "object-detection":
        return "detect", json.dumps({"model": name, "input": story.call or "…"}, ensure_ascii=False)
    return "classify", json.dumps({"model": name, "input": story.call or "…"}, ensure_ascii=False)


def _label(story: Story) -> str:
    """A class that the model draws when it is asked for; "" where it draws whatever comes."""
    labels = story.scores.labels if story.scores is not None else []
    return labels[0] if labels else ""


def against(story: Story, t: Words) -> Child:
    """The paired differences, drawn."""
    scores = story.scores
    if scores is None or not scores.comparisons:
        return None
    rows = [
        (
            t("quality.parent") if one.kind == "parent" else one.name,
            one.difference.value,
            one.difference.low,
            one.difference.high,
        )
        for one in scores.comparisons
    ]
    note = t("quality.against_note", metric=t.metric(_compared(story)))
    drawn = charts.differences(rows, t("quality.against"), t("quality.better"), t("quality.worse"))
    return card(t("quality.against"), drawn, note=note)


def _compared(story: Story) -> str:
    scores = story.scores
    assert scores is not None
    return "bits_per_byte" if "bits_per_byte" in scores.metrics else scores.primary


def quality(story: Story, t: Words) -> Child:
    """Every metric with its interval, and the others on the same rows beside it."""
    scores = story.scores
    if scores is None:
        return None
    names = [name for name in scores.metrics if "." not in name]
    heads = [
        t("quality.metric"),
        t("quality.ours"),
        t("quality.interval"),
        *(t("quality.parent") if one.kind == "parent" else one.name for one in scores.comparisons),
    ]
    rows = []
    for name in names:
        one = scores.metrics[name]
        lower = tag("small", t("quality.lower_is_better"), cls="muted") if not one.higher else None
        label = join([t.metric(name), " ", lower])
        mine = tag("strong", t.number(one.value)) if name == scores.primary else t.number(one.value)
        rows.append(
            (
                label,
                mine,
                t.interval(one.low, one.high),
                *(t.number(other.metrics.get(name)) for other in scores.comparisons),
            )
        )
    note = t("quality.note", rows=t.number(scores.rows), replicates=t.number(scores.replicates))
    return card(t("quality.title"), table(heads, rows, range(1, len(heads))), note=note, id="quality")
