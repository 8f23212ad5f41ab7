"""The command of a device tells what it cannot do in a sentence, and counts nothing for it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tollway.edge import command

ABOUT = {
    **dict.fromkeys(("organization", "digest", "manifest", "url", "device", "version"), "x"),
    "model": "mood", "kind": "classification", "input": "text", "format": "onnx", "key": "ab" * 32,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "device.json").write_text(json.dumps(ABOUT))
    return tmp_path


def said(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int | str | None, str]:
    try:
        code: int | str | None = command.main(folder, words)
    except SystemExit as end:  # argparse
        code = end.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("classify", "--top-k", "0", "a joy"), "from 1"),
        (("--threads", "-1", "classify", "a joy"), "from 1"),
        (("serve", "--port", "99999"), "65535"),
        (("--state", "/proc/none", "classify", "a joy"), "cannot be kept in /proc/none"),
        (("classify", "{"), "not valid JSON"),
        (("classify", "@none.png"), "no file none.png"),
        (("sync", "--url", "file:///etc/passwd"), "no address of a shop"),
        (("sync", "--url", "shop"), "no address of a shop"),
    ],
)
def test_what_a_device_cannot_do_is_said_in_words(
    folder: Path,
    words: tuple[str, ...],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOLLWAY_KEY", "tw_live_x")
    code, error = said(folder, capsys, *words)
    assert (code, told in error) == (2, True), error
    assert not (folder / "state" / "usage.jsonl").exists(), "nothing was counted"


@pytest.mark.parametrize("about", ["{", [], {"key": "ab"}, ABOUT | {"key": "not hex"}, ABOUT | {"url": None}])
def test_a_device_that_was_not_told_who_it_is_says_so(
    folder: Path, about: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "device.json").write_text(about if isinstance(about, str) else json.dumps(about))
    code, error = said(folder, capsys, "status")
    assert code == 2 and "device.json" in error and "Do this: Restore it" in error
