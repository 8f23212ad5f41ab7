"""What is written is there whole, or what was there before."""

from pathlib import Path

import pytest

from tollway.kit import durable


def test_what_is_written_takes_the_place_of_what_was_there_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    durable.write(path, "before")
    durable.write(path, "nach Süden".encode())
    assert path.read_text(encoding="utf-8") == "nach Süden"
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    durable.write(path, "before")
    with pytest.raises(UnicodeEncodeError):
        durable.write(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]


def test_a_tree_is_synced_whatever_is_in_it_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "empty").touch()
    (tmp_path / "a" / "nowhere").symlink_to("gone")
    durable.sync_tree(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        durable.sync_tree(tmp_path / "nowhere")
