"""The secrets of a home are made once, readable by their owner alone, and never silently replaced."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from tollway.guard import secrets
from tollway.kit.errors import Unavailable


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_first_use_makes_them_and_later_uses_find_the_same(tmp_path):
    first = secrets.Secrets.load(tmp_path / "keys")
    again = secrets.Secrets.load(tmp_path / "keys")
    assert first == again
    assert len(first.pepper) == 32 and first.pepper != first.signing_seed
    assert secrets.Secrets.load(tmp_path / "other") != first


def test_only_the_owner_can_read_them(tmp_path):
    secrets.Secrets.load(tmp_path / "keys")
    assert mode(tmp_path / "keys") == 0o700
    files = list((tmp_path / "keys").iterdir())
    assert sorted(file.name for file in files) == ["pepper", "signing.key"]  # nothing left beside them
    assert {mode(file) for file in files} == {0o600}


def test_many_starters_at_once_agree(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        loaded = list(pool.map(lambda _: secrets.Secrets.load(tmp_path / "keys"), range(64)))
    assert len({one.pepper for one in loaded}) == 1
    assert len({one.signing_seed for one in loaded}) == 1


def test_a_file_others_can_read_is_refused_with_the_command_that_fixes_it(tmp_path):
    secrets.Secrets.load(tmp_path / "keys")
    pepper = tmp_path / "keys" / "pepper"
    pepper.chmod(0o644)
    with pytest.raises(Unavailable) as refused:
        secrets.Secrets.load(tmp_path / "keys")
    assert refused.value.hint == f"Run `chmod 600 {pepper}`."
    assert secrets.problems(tmp_path / "keys") == [(f"{pepper} can be read by others", f"chmod 600 {pepper}")]


@pytest.mark.parametrize("content", [b"", b"abcd", b"\xff" * 64, b"zz" * 32, b"00" * 31])
def test_a_damaged_file_is_an_error_and_stays_as_it_is(tmp_path, content):
    secrets.Secrets.load(tmp_path / "keys")
    pepper = tmp_path / "keys" / "pepper"
    pepper.write_bytes(content)
    with pytest.raises(Unavailable, match="damaged"):
        secrets.Secrets.load(tmp_path / "keys")
    assert pepper.read_bytes() == content


def test_a_link_in_place_of_a_secret_is_not_followed(tmp_path):
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "elsewhere").write_text("00" * 32)
    (tmp_path / "elsewhere").chmod(0o600)
    (tmp_path / "keys" / "pepper").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable):
        secrets.Secrets.load(tmp_path / "keys")


def test_nothing_shows_a_secret_by_accident(tmp_path):
    loaded = secrets.Secrets.load(tmp_path / "keys")
    assert loaded.pepper.hex() not in repr(loaded) and str(loaded.pepper) not in repr(loaded)
