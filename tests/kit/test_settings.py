"""Settings: flag over variable over file over default, all problems at once, secrets covered."""

from pathlib import Path

import pytest

from tollway.kit.errors import BadRequest
from tollway.kit.settings import TABLE, Settings


def test_the_nearer_word_wins_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "tollway.toml").write_text('port = 1001\nhost = "127.0.0.2"\nqueue_max = 7\n')
    environment = {"TOLLWAY_PORT": "1002", "TOLLWAY_HOST": "127.0.0.3"}
    made = Settings(tmp_path, {"port": 1003}, environment)
    assert (made.port, made.source("port")) == (1003, "--port")
    assert (made.host, made.source("host")) == ("127.0.0.3", "TOLLWAY_HOST")
    assert (made.queue_max, made.source("queue_max")) == (7, "tollway.toml")
    assert made.source("currency") == "default"


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "tollway.toml").write_text('prot = 1\nqueue_max = "many"\n')
    with pytest.raises(BadRequest) as told:
        Settings(tmp_path, {}, {"TOLLWAY_PORT": "http"})
    for word in ("prot", "queue_max", "TOLLWAY_PORT"):
        assert word in str(told.value)


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "tollway.toml").write_bytes(b"port = \xff")
    with pytest.raises(BadRequest, match="not valid TOML"):
        Settings(tmp_path, {}, {})


def test_secrets_are_covered(tmp_path: Path) -> None:
    made = Settings(tmp_path, {}, {"TOLLWAY_DATABASE_URL": "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in str(made.rows())
    assert {row["name"] for row in made.rows()} == {setting.name for setting in TABLE}


def test_there_is_no_unknown_setting(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        _ = Settings(tmp_path, {}, {}).colour
