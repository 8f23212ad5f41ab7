"""The shelf: versions are immutable, known by their rows, numbered once, and appear whole or not at all."""

import subprocess
import sys
import time
import tomllib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.forge import data
from tollway.forge.data import changes, digest, schema
from tollway.kit.errors import BadRequest, NotFound


def test_the_same_rows_are_the_same_version(shelf, reviews):
    first = shelf.add("reviews", {"train": reviews}, licence="CC0-1.0", source="made up")
    again = shelf.add("reviews", {"train": pa.concat_tables([reviews.slice(0, 7), reviews.slice(7)])})
    other = shelf.add("reviews", {"train": reviews.slice(1)})
    assert (first.ref, again.ref, other.ref) == ("reviews@1", "reviews@1", "reviews@2")
    assert first.digest != other.digest
    assert shelf.get("reviews").version == 2 and shelf.get("reviews@1").rows() == 40
    assert shelf.get("reviews@1").read("train", ["text"]).column_names == ["text"]
    assert [version.ref for version in shelf.list()] == ["reviews@1", "reviews@2"]


def test_a_version_says_what_it_is(shelf, reviews):
    shelf.add("reviews", {"train": reviews, "test": reviews.slice(0, 3)}, licence='say "hi"\n', source="路径\\a.csv")
    about = tomllib.loads((shelf.get("reviews").folder / "dataset.toml").read_text("utf-8"))
    assert about["rows"] == {"train": 40, "test": 3} and about["licence"] == 'say "hi"\n' and about["source"] == "路径\\a.csv"
    assert about["created"] == "2026-01-01T00:00:00Z"
    assert [(one["name"], one["kind"]) for one in about["columns"]] == [("text", "text"), ("label", "category"), ("shop", "integer")]
    assert "reviews, version 1" in (shelf.get("reviews").folder / "card.md").read_text()


def test_the_card_of_a_changed_version_says_what_that_one_is(shelf, reviews):
    first = shelf.add("reviews", {"train": reviews}, source="a.csv")
    card = first.folder / "card.md"
    card.write_text(card.read_text("utf-8").replace("Not said yet.", "Asked at the till."), "utf-8")
    made, _ = changes.clean(shelf, first, ["truncate:5"])
    said = (made.folder / "card.md").read_text("utf-8")
    assert "reviews, version 2" in said and f"`{made.digest}`" in said and "made by: clean truncate:5 of reviews@1" in said
    assert "version 1" not in said and first.digest not in said and said.count("Asked at the till.") == 2


def test_numbers_are_never_used_twice(shelf, reviews):
    for start in range(3):
        shelf.add("reviews", {"train": reviews.slice(start)})
    assert shelf.remove("reviews@3") == 1
    assert shelf.add("reviews", {"train": reviews.slice(5)}).ref == "reviews@4"
    assert shelf.remove("reviews") == 3
    assert shelf.list() == []
    assert shelf.add("reviews", {"train": reviews}).ref == "reviews@5"


def test_what_is_not_there_is_said_with_the_nearest_name(shelf, reviews):
    shelf.add("reviews", {"train": reviews})
    with pytest.raises(NotFound, match="Did you mean 'reviews'"):
        shelf.get("reveiws")
    with pytest.raises(NotFound, match="no version 7"):
        shelf.get("reviews@7")
    with pytest.raises(NotFound):
        shelf.get("../reviews")
    with pytest.raises(BadRequest, match="Did you mean 'label'"):
        shelf.get("reviews").read("train", ["lable"])
    with pytest.raises(NotFound, match="no test split"):
        shelf.get("reviews").read("test")


@pytest.mark.parametrize("name", ["", "Reviews", "../x", "a/b", "x" * 101, "名字"])
def test_a_bad_name_is_refused(shelf, reviews, name):
    with pytest.raises(BadRequest, match="cannot be a dataset's name"):
        shelf.add(name, {"train": reviews})
    assert shelf.list() == []


def test_rows_changed_on_disk_are_found(shelf, reviews):
    version = shelf.add("reviews", {"train": reviews})
    version.verify()
    pq.write_table(reviews.set_column(1, "label", pa.array(["positive"] * 40)), version.folder / "train.parquet")
    with pytest.raises(BadRequest, match="digest differs"):
        shelf.get("reviews").verify()


def test_two_processes_that_add_at_once_get_a_number_each(shelf, tmp_path):
    script = (
        "import sys, pyarrow as pa; from pathlib import Path; from tollway.forge.data import Shelf; "
        "from tollway.kit.clock import SystemClock; s = Shelf(Path(sys.argv[1]), SystemClock())\n"
        "for n in range(5): s.add('x', {'train': pa.table({'a': [int(sys.argv[2]) * 100 + n]})})"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, str(shelf.root), str(n)]) for n in (1, 2)]
    assert [one.wait(300) for one in both] == [0, 0]
    assert [version.version for version in shelf.list()] == list(range(1, 11))
    assert len({version.digest for version in shelf.list()}) == 10


def test_a_process_killed_at_any_moment_leaves_whole_versions_only(tmp_path, clock):
    """Versions appear one after the other while the writer is killed; what is there afterwards is complete."""
    script = (
        "import sys, pyarrow as pa; from pathlib import Path; from tollway.forge.data import Shelf; "
        "from tollway.kit.clock import SystemClock; s = Shelf(Path(sys.argv[1]), SystemClock()); "
        "s.add('x', {'train': pa.table({'a': [0]})}); print('go', flush=True)\n"
        "for n in range(10_000): s.add('x', {'train': pa.table({'a': list(range(n, n + 5000)), 'b': [str(i) * 9 for i in range(5000)]})})"
    )
    shelf = data.Shelf(tmp_path / "killed", clock)
    for delay in (0.05, 0.11, 0.17, 0.23):
        writer = subprocess.Popen([sys.executable, "-c", script, str(shelf.root)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        end = time.monotonic() + 60
        while not shelf.list() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(delay)
        writer.kill()
        writer.communicate()
        for version in shelf.list():
            version.verify()
    assert shelf.list()
    last = shelf.list()[-1].version
    assert shelf.add("x", {"train": pa.table({"a": [1]})}).version > last
    assert not list((shelf.root / "x").glob(".incoming-*"))


def test_splits_must_fit_together(shelf, reviews):
    with pytest.raises(BadRequest, match="split is one of"):
        shelf.add("x", {"holdout": reviews})
    with pytest.raises(BadRequest, match="no rows to keep"):
        shelf.add("x", {"train": reviews.slice(0, 0)})
    version = shelf.add("x", {"train": reviews, "test": reviews.select(["text"]).slice(0, 2)})
    assert version.read("test")["label"].to_pylist() == [None, None]
    assert version.column("label").nullable


VALUES = st.one_of(st.none(), st.text(max_size=8), st.floats(allow_nan=True), st.binary(max_size=6))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), st.text(max_size=8)), st.one_of(st.none(), st.floats()), st.lists(st.text(max_size=3), max_size=3)), min_size=1, max_size=20), st.data())
def test_the_digest_is_of_the_values_not_of_their_storage(rows, draw):
    table = pa.table({"s": pa.array([row[0] for row in rows], pa.string()), "f": pa.array([row[1] for row in rows], pa.float64()),
                      "t": pa.array([row[2] for row in rows], pa.list_(pa.string()))})  # fmt: skip
    columns = schema.columns_of(table)
    cut = draw.draw(st.integers(0, len(rows)))
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    assert digest.digest({"train": table}, columns) == digest.digest({"train": chunked}, columns)
    place = draw.draw(st.integers(0, len(rows) - 1))
    texts = [row[0] for row in rows]
    texts[place] = (texts[place] or "") + "x"
    changed = table.set_column(0, "s", pa.array(texts, pa.string()))
    assert digest.digest({"train": changed}, columns) != digest.digest({"train": table}, columns)


def test_a_value_that_is_missing_is_not_an_empty_one():
    def of(values):
        table = pa.table({"a": pa.array(values, pa.string())})
        return digest.digest({"train": table}, schema.columns_of(table))

    assert len({of([None, "ab"]), of(["", "ab"]), of(["a", "b"]), of(["ab", ""]), of(["ab", None])}) == 5


def test_strings_become_what_all_of_them_are():
    table = pa.table({
        "whole": ["1", " 22", "NA"], "number": ["1.5", "-2e3", ""], "zip": ["00123", "99999", "10115"], "flag": ["True", "false", "TRUE"],
        "day": ["2026-01-31", "2026-02-01", None], "not_a_day": ["2026-02-31", "2026-02-01", "2026-01-01"], "text": ["1", "two", "3"],
    })  # fmt: skip
    found = schema.guess(table, {})
    kinds = {column.name: column.kind for column in schema.columns_of(found)}
    assert kinds == {"whole": "integer", "number": "number", "zip": "text", "flag": "boolean", "day": "time", "not_a_day": "text", "text": "text"}
    assert found["whole"].to_pylist() == [1, 22, None] and found["zip"].to_pylist()[0] == "00123"
    assert data.KINDS == schema.KINDS
