"""The report: complete in itself, in two languages, safe against what it shows, honest about what is missing."""

import html
import json
import re
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tollway.forge import evaluate, explain, report
from tollway.forge.evaluate import Rows, Wishes
from tollway.forge.evaluate.baselines import Linear
from tollway.forge.report import card, charts, page, words
from tollway.forge.report.markup import Markup, table, tag
from tollway.forge.steps import Cost, Runs
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest

HOSTILE = '<script>alert("1")</script><img src=http://evil.example/x onerror=alert(1)> & "quotes" 很好'


def rows_of(count, seed=0):
    """Sentences of two classes with some noise, one of them hostile."""
    rng = np.random.default_rng(seed)
    good, bad = ["lovely", "wonderful", "funny", "很好看"], ["dreadful", "boring", "long", "很难看"]
    rows = []
    for at in range(count):
        label = "good" if at % 2 else "bad"
        words_of = good if (label == "good") != (rng.random() < 0.15) else bad
        text = f"a {rng.choice(words_of)} film of {rng.integers(60, 200)} minutes"
        rows.append(
            {"text": text, "label": label, "x_country": str(rng.choice(["cn", "us", "fr"], p=[0.5, 0.45, 0.05]))}
        )
    rows[0]["text"] = HOSTILE
    return rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of real steps: a classifier evaluated and explained, with curves, formats and a hostile row."""
    runs = Runs(tmp_path_factory.mktemp("home"), SystemClock())
    text = '[recipe]\nname = "films"\ntask = "text-classification"\n[package]\ntitle = "Films <b>电影</b>"\n[train]\nepochs = 2\n'
    run = runs.begin(text, "films", "text-classification", Cost(3_600_000, "USD", 10.0))
    run.record.dataset, run.record.dataset_digest = "films@1", "sha256:" + "a" * 64
    train, test = rows_of(400), rows_of(300, 1)
    model = Linear("text-classification", train)

    def fit(desk):
        for step in range(40):
            desk.metric("train.loss", 1 / (step + 1), step)
            desk.metric("validation.loss", 1 / (step + 1) + 0.1, step) if step % 10 == 0 else None
        desk.warn("the label 'goood' looks like 'good'")
        return {"steps": 40, "history": [], "rows_per_s": 900.0}

    def judge(desk):
        wishes = Wishes(slices=["country"], require={"accuracy": ">=0.7", "gap.country": "<=0.0001"}, bootstrap=200)
        scores = evaluate.examine("text-classification", model, Rows(test, train, test[:50]), wishes, desk=desk)
        scores.save(desk.out)
        return scores.figures

    def why(desk):
        items = [{"input": {"text": row["text"]}, "truth": row["label"],
                  "by": {"shap": explain.explain(model, row, "shap", budget=100).to_json()}} for row in test[:3]]  # fmt: skip
        figures = {
            "rows": 3,
            "methods": explain.summary(items),
            "skipped": {"attention": "This model has no attention."},
        }
        (desk.out / explain.FILE_NAME).write_text(json.dumps({**figures, "items": items}))
        return figures

    formats = [
        {
            "format": "onnx-int8",
            "max_difference": 0.01,
            "agreement": 0.997,
            "drop": 0.001,
            "speedup": 3.2,
            "bytes": 120_000,
        }
    ]
    meta = {
        "rows": {"train": 400, "test": 300},
        "dataset": "films@1",
        "licence": "MIT",
        "classes": {"train": {"good": 200, "bad": 200}},
    }
    run.step("prepare", {}, (), lambda desk: (desk.out / "meta.json").write_text(json.dumps(meta)) and None)
    run.step("train", {}, (), fit)
    run.step(
        "compress",
        {},
        (),
        lambda desk: {"steps": [{"step": "", "bytes": 4e5}, {"step": "prune:0.5", "bytes": 2e5, "speedup": 1.1}]},
    )
    run.step("convert", {}, (), lambda desk: {"formats": formats})
    run.step("evaluate", {}, (), judge)
    run.step("explain", {}, (), why)
    run.finish("done")
    return runs, run.record


def test_english_and_chinese_have_the_same_words():
    def names(found, before=""):
        for name, value in found.items():
            yield from (
                names(value, f"{before}{name}.")
                if isinstance(value, dict)
                else [(f"{before}{name}", set(re.findall(r"{\w+}", value)))]
            )

    both = [
        dict(names(tomllib.loads((words.files("tollway.forge.report") / "words" / f"{lang}.toml").read_text("utf-8"))))
        for lang in words.LANGUAGES
    ]
    assert both[0] == both[1]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_report_loads_nothing_and_says_everything(finished, lang):
    runs, record = finished
    path = report.write(runs, record, lang)
    text = path.read_text(encoding="utf-8")
    t = words.Words(lang)
    assert not re.findall(r'(?:src|href|url\()\s*=?\s*"?(?!data:|#)[a-z]+:', text)
    assert "<script" not in text and "onerror=alert(1)>" not in text and "<b>电影" not in text
    assert "&lt;script&gt;" in text and "很好" in text
    for name in (
        "gates",
        "quality",
        "curves",
        "confusion",
        "slices",
        "noise",
        "examples",
        "explain",
        "compress",
        "convert",
        "data",
        "lineage",
    ):
        assert t(f"{name}.title") in text, name
    assert text.count("<svg") >= 5 and f'lang="{t("lang")}"' in text and "default-src 'none'" in html.unescape(text)
    assert (path.parent / "card.md").read_text(encoding="utf-8").startswith("# Films")


def test_the_figures_on_the_page_are_the_scores(finished):
    runs, record = finished
    story = report.gather(runs, record)
    text = report.render(story)
    scores = story.scores
    assert f"{scores.metrics['accuracy'].value:.3f}" in text
    assert [gate.passed for gate in scores.gates] == [True, False, True, True] and "1 of 4 gates missed" in text
    assert "It missed its gates" in text and "tollway deploy" not in text
    assert record.cost_micros and words.Words().money(record.cost_micros, "USD") in text
    assert "the label &#x27;goood&#x27;" in text or "the label 'goood'" in text
    assert "too few rows" in text  # of fr


def test_the_card_names_measured_limits(finished):
    runs, record = finished
    text = card.render(report.gather(runs, record))
    assert "Weakest part" in text and "Groups of country" in text and "| accuracy |" in text and "films@1" in text
    assert "Not stated" in text  # the intended use: nobody wrote it


def test_a_report_of_a_run_that_failed_at_once(tmp_path):
    runs = Runs(tmp_path, SystemClock())
    run = runs.begin("[recipe]\nname='x'\n", "x", "text-classification", Cost())
    run.finish("failed", BadRequest("The data has no label.", hint="Name it."))
    text = report.write(runs, run.record).read_text("utf-8")
    assert "The data has no label." in text and "Name it." in text and "Not evaluated" in text


def test_outputs_that_were_cleared_away_are_named(finished, tmp_path):
    import shutil

    runs, record = finished
    home = tmp_path / "home"
    shutil.copytree(runs.root, home / "runs")
    shutil.rmtree(home / "runs" / "steps")
    text = report.render(report.gather(Runs(home, SystemClock()), record))
    assert "were cleared away: prepare, train" in text


def test_runs_side_by_side(finished):
    runs, record = finished
    rows = report.compare(runs, [record, record])
    by_name = {row["figure"]: row for row in rows}
    column = f"films·{record.id[-4:]}"
    assert by_name["accuracy"][column] > 0.7 and by_name["gates"][column] == "3 of 4"
    assert list(by_name)[3:6] == ["accuracy", "accuracy from", "accuracy to"]
    assert json.loads(json.dumps(rows)) == rows


def test_settings_that_differ_stand_below_the_figures(finished, tmp_path):
    import shutil

    runs, record = finished
    home = tmp_path / "home"
    shutil.copytree(runs.root, home / "runs")
    other = msgspec.structs.replace(record, id=record.id[:-4] + "zzzz")
    folder = Path(shutil.copytree(home / "runs" / record.id, home / "runs" / other.id))
    (folder / "run.json").write_bytes(msgspec.json.encode(other))
    recipe = folder / "recipe.toml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("[train]\n", "[train]\nsearch = {space = {clip = [1, 2]}}\n"), encoding="utf-8")
    rows = {row["figure"]: list(row.values())[1:] for row in report.compare(Runs(home, SystemClock()), [record, other])}
    assert [name for name in rows if name.startswith("[")] == ["[train] search.space.clip"]
    assert rows["[train] search.space.clip"] == [None, "[1, 2]"]


def test_a_language_nobody_wrote():
    with pytest.raises(BadRequest, match="fr"):
        words.Words("fr")


def test_markup_escapes_all_but_markup():
    made = tag("p", "<b>", Markup("<i>x</i>"), 3, None, ["a", "&"], title='"<', hidden=False)
    assert made == '<p title="&quot;&lt;">&lt;b&gt;<i>x</i>3a&amp;</p>'
    assert "<td" in table(("a", "b"), [("1", "<2>")], (1,)) and "&lt;2&gt;" in table(("a", "b"), [("1", "<2>")])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.8734, "0.873"),
        (0.0123456, "0.0123"),
        (-0.5, "−0.500"),
        (-0.0, "0"),
        (12345, "12,345"),
        (1234.56, "1,234.6"),
        (None, "–"),
        (3.14159, "3.142"),
        (1e-10, "≈ 0"),
    ],
)
def test_numbers_for_people(value, shown):
    assert words.Words().number(value) == shown


def test_metrics_have_titles_with_their_class_and_depth():
    t = words.Words()
    assert [t.metric(name) for name in ("f1.not.good", "recall@10", "ndcg@5", "map@0.5", "odd")] == [
        "F1 · not.good",
        "recall@10",
        "NDCG@5",
        "MAP@0.5",
        "odd",
    ]


def test_charts_stand_odd_input():
    assert charts.lines({"loss": [(1, float("nan")), (2, float("inf"))]}, "x") == ""
    assert "polyline" in charts.lines({"loss": [(step, 1.0) for step in range(5000)]}, "x")
    assert charts.lines({"loss": [(step, 1.0) for step in range(5000)]}, "x").count(",") < 400
    assert charts.differences([("a", None, None, None)], "x", "b", "w") == ""
    assert "circle" in charts.differences([("a", 0.0, 0.0, 0.0)], "x", "b", "w")


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "lang"), [("light", "en"), ("dark", "zh")])
def test_a_browser_shows_it_without_asking_for_anything(finished, scheme, lang, tmp_path):
    from playwright.sync_api import sync_playwright

    runs, record = finished
    path = tmp_path / "report.html"
    path.write_text(page.render(report.gather(runs, record), lang), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
        said, asked = [], []
        view.on("console", lambda message: said.append(message.text))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(path.as_uri())
        width = view.evaluate("document.documentElement.scrollWidth")
        dark = view.evaluate("getComputedStyle(document.body).color")
        browser.close()
    assert said == [] and [one for one in asked if not one.startswith(("data:", "file:"))] == []
    assert width <= 390, "the page is wider than a phone"
    assert (dark == "rgb(231, 234, 236)") == (scheme == "dark")


@pytest.mark.parametrize(
    ("task", "call", "labels", "door", "body"),
    [
        ("image-generation", None, ["Bag", "Coat"], "images/generations", {"model": "m", "n": 1, "prompt": "Bag"}),
        ("image-generation", None, [], "images/generations", {"model": "m", "n": 1}),
        ("recommendation", "u7", [], "recommendations", {"model": "m", "user": "u7", "top_n": 5}),
        ("text-classification", "a film", ["a", "b"], "classify", {"model": "m", "input": "a film"}),
    ],
)
def test_the_call_that_is_shown_is_one_that_is_answered(task, call, labels, door, body):
    from types import SimpleNamespace

    from tollway.forge.report import opening

    story = SimpleNamespace(record=SimpleNamespace(task=task), scores=SimpleNamespace(labels=labels), call=call)
    found, text = opening._call(story, "m")
    assert (found, json.loads(text)) == (door, body)
