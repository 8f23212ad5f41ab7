"""The check finds what would spoil a model, in real data with planted faults, and is quiet where nothing is wrong."""

from pathlib import Path

import pyarrow as pa
import pytest

from tollway.forge.data import changes, checks, report, samples, statistics
from tollway.forge.data.labels import distance, typos
from tollway.forge.data.split import split
from tollway.kit.errors import BadRequest


def codes(findings):
    return {one.code: one for one in findings}


def movies(count=1200):
    rows = samples.load("movies").read("train", ["text", "label"])
    return rows.take(list(range(0, 8 * count, 8)))


def test_sound_data_is_called_sound(shelf):
    parts = split(movies(), label="label", content=["text"])
    version = shelf.add("movies", parts, licence="MIT", kinds={"text": "text"}, extra={"roles": {"text": "text", "label": "label"}})
    findings = checks.check(version)
    assert checks.worst(findings) in ("note", "fine") and not {"leak_duplicates", "label_typo", "missing"} & set(codes(findings))


def test_planted_faults_are_found_with_the_command_that_mends_them(shelf):
    rows = movies()
    train, test = rows.slice(0, 1000), rows.slice(1000)
    leaked = pa.concat_tables([test, train.slice(0, 12)])
    nearly = train.slice(20, 8)
    texts = [one + " ." for one in nearly["text"].to_pylist()]
    leaked = pa.concat_tables([leaked, nearly.set_column(0, "text", pa.array(texts))])
    labels = train["label"].to_pylist()
    labels[0], labels[1] = "postive", None
    twin = pa.table({"text": [train["text"][50].as_py()], "label": ["negative" if labels[50] == "positive" else "positive"]})
    train = pa.concat_tables([train.set_column(1, "label", pa.array(labels)), twin, train.slice(70, 30)])
    version = shelf.add("bad", {"train": train, "test": leaked}, kinds={"text": "text", "label": "category"})
    found = codes(checks.check(version))
    assert found["leak_duplicates"].level == "bad" and found["leak_duplicates"].count == 12
    assert found["leak_near_duplicates"].count == 8 and found["duplicates"].count >= 30
    assert found["label_typo"].mend == "tollway dataset clean bad@1 --step rename:postive=positive"
    assert found["missing"].count == 1 and found["conflicts"].count == 4 and found["no_licence"].level == "note"
    assert found["leak_duplicates"].examples[0]["split"] == "test"
    assert checks.worst(checks.check(version, deep=False)) == "bad"


def test_flipped_labels_are_among_the_suspects(shelf):
    """Twenty labels of clear reviews are turned round; most of them are found, few others are."""
    rows = samples.load("reviews-zh").read("train")
    rows = pa.concat_tables([rows.slice(0, 1500), rows.slice(rows.num_rows - 1500)])
    labels = rows["label"].to_pylist()
    turned = list(range(0, 3000, 150))
    for row in turned:
        labels[row] = "negative" if labels[row] == "positive" else "positive"
    from tollway.forge.data import noise, schema

    table = rows.set_column(1, "label", pa.array(labels))
    suspects = noise.suspects(table, "label", ["text"], schema.columns_of(table, {"text": "text"}))
    hit = {one.row for one in suspects} & set(turned)
    assert len(hit) >= 8 and len(suspects) <= 3 * len(turned)


def test_a_column_that_gives_the_label_away_is_named(shelf):
    table = samples.load("credit").read("train")
    given = pa.array([1 if one == "bad" else 0 for one in table["label"].to_pylist()])
    version = shelf.add("credit", {"train": table.append_column("defaulted", given)}, licence="x")
    assert "'defaulted'" in codes(checks.check(version))["telltale"].text
    assert "telltale" not in codes(checks.check(samples.load("credit")))


def test_an_empty_class_and_a_lopsided_one(shelf):
    rows = movies(300)
    train = rows.filter(pa.compute.equal(rows["label"], "positive"))
    some = pa.concat_tables([train, rows.filter(pa.compute.equal(rows["label"], "negative")).slice(0, 2)])
    version = shelf.add("one", {"train": train, "test": rows.slice(0, 40)}, kinds={"text": "text"})
    assert codes(checks.check(version, deep=False))["empty_class"].level == "bad"
    version = shelf.add("lopsided", {"train": some}, kinds={"text": "text"})
    assert "imbalance" in codes(checks.check(version, deep=False))


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ({"positive": 100, "postive": 2, "negative": 90}, {"postive": "positive"}),
        ({"Positive": 3, "positive": 100, " positive": 1}, {"Positive": "positive", " positive": "positive"}),
        ({"cat": 50, "car": 40, "bat": 1}, {}),
        ({"level 1": 90, "level 2": 3}, {}),
        ({"good": 50, "goood": 50}, {}),
        ({"正面": 90, "负面": 5}, {}),
        ({"negative": 90, "negaitve": 1, "neutral": 50}, {"negaitve": "negative"}),
    ],
)
def test_typing_errors_among_labels(counts, found):
    assert typos(counts) == found


def test_distance_counts_letters():
    assert [distance("kitten", "sitting"), distance("ab", "ba"), distance("a", "abcdef", 2), distance("x", "x")] == [3, 1, 3, 0]


def test_statistics_say_what_the_columns_are(shelf):
    found = statistics.describe(samples.load("credit"))
    assert found["rows"] == {"train": 1000} and found["classes"]["train"] == {"good": 700, "bad": 300}
    assert found["columns"]["age_in_years"]["min"] == 19 and sum(found["columns"]["age_in_years"]["histogram"]["counts"]) == 1000
    chinese = statistics.describe(samples.load("reviews-zh"))["columns"]["text"]
    assert chinese["languages"]["Chinese"] > 0.95
    assert statistics.describe(samples.load("digits"))["columns"]["image"]["sizes"] == {"8 x 8": 1797}


def test_the_report_is_one_file_that_asks_nobody_and_runs_nothing(shelf):
    hostile = "<script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(1)>"
    table = pa.table({"text": [hostile, "fine"] * 10, "label": ["</style><b>", "b"] * 10})
    version = shelf.add("hostile", {"train": table}, kinds={"text": "text"}, licence="<i>")
    path = report.write(version, statistics.describe(version), checks.check(version))
    page = path.read_text()
    assert path == version.folder / "report.html" and "<script" not in page and "<img src=http" not in page and "</style><b>" not in page
    assert "&lt;script&gt;alert(1)" in page and "default-src 'none'" in page and "&lt;i&gt;" in page
    assert "duplicates" not in page or "tollway dataset clean hostile@1 --step deduplicate" in page
    version.verify()


def test_reports_of_every_kind_of_data_are_drawn():
    for name, words in (("digits", "What they look like"), ("movies", "Words that set classes apart"), ("credit", "age_in_years"), ("ml-100k", "1997-09-2")):
        version = samples.load(name)
        page = report.page(version, statistics.describe(version), [])
        assert words in page and page.count("<svg") == page.count("</svg>") and "Nothing was found" in page


def test_the_report_in_chinese_has_every_sentence_translated(shelf):
    """Every sentence that the page or a finding can say has its translation, and the page uses them."""
    import ast

    import tollway.forge.data as room
    from tollway.forge.data.report_words import _table

    folder = Path(room.__file__).parent
    known, said = _table("zh"), set()
    for name in ("report.py", "pictures.py", "checks.py"):
        for node in ast.walk(ast.parse((folder / name).read_text(encoding="utf-8"))):
            called = getattr(getattr(node, "func", None), "id", "")
            if isinstance(node, ast.Call) and called in ("t", "_finding"):
                at = 0 if called == "t" else 2
                said |= {node.args[at].value} if isinstance(node.args[at], ast.Constant) else set()
    assert len(said) > 25 and said <= set(known)
    rows = pa.table({"text": ["good film", "good film", "bad film", "a film"] * 6, "label": ["a", "a", "b", "b"] * 6, "score": [1, None, 2, None] * 6})
    version = shelf.add("films", {"train": rows, "test": rows.slice(0, 4)})
    found = checks.check(version)
    path = report.write(version, statistics.describe(version), found, "zh")
    page = path.read_text("utf-8")
    assert path.name == "report.zh.html" and 'lang="zh-CN"' in page
    assert "也在训练集中（完全相同）" in page and "数据报告" in page and "Findings" not in page and "rows of" not in page
    assert all(one.text == one.sentence.format(**one.values) for one in found)
    with pytest.raises(BadRequest, match="no report in 'fr'"):
        report.page(version, statistics.describe(version), found, "fr")


def test_questions_alike_about_different_texts_repeat_nothing_and_the_mend_mends(shelf):
    rows = [{"context": f"{town} has a tower. {first} built it long ago, of stone from the hills around {town}.",
             "question": "Who built the tower?", "answer": first, "answer_start": 0}
            for town, first in (("Bath", "Jane Mason"), ("Ghent", "Pieter de Witte"), ("Oslo", "Ingrid Solberg"))]  # fmt: skip
    twin = rows[0] | {"question": "Who built that tower?", "answer": "Mason"}
    kinds = dict.fromkeys(("context", "question", "answer"), "text")
    roles = {"roles": {name: name for name in ("context", "question", "answer", "answer_start")}}
    version = shelf.add("towers", {"train": pa.Table.from_pylist([*rows, twin])}, kinds=kinds, extra=roles)
    found = codes(checks.check(version))["near_duplicates"]
    assert found.count == 1
    cleaned, done = changes.clean(shelf, version, ["near-deduplicate"])
    assert (done[0].dropped, cleaned.rows("train")) == (1, 3)
