"""The journal of a batch: what was kept is there again, a torn end is not, and nothing is there twice."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tollway.flows.batch_journal import Journal


async def keep(folder: Path, lines: list[tuple[int, bool]]) -> None:
    journal = Journal(folder)
    journal.open()
    await asyncio.gather(*(journal.keep(line, good, {"line": line, "text": "é\n" * 9}, None) for line, good in lines))
    await journal.close()


def read(folder: Path) -> Journal:
    journal = Journal(folder)
    journal.open()
    return journal


async def test_many_answers_share_one_write_and_all_are_there(tmp_path: Path) -> None:
    await keep(tmp_path, [(line, line % 3 > 0) for line in range(200)])
    found = read(tmp_path)
    assert (found.lines, found.good, found.bad) == (set(range(200)), 133, 67)
    assert [entry.line for entry in found.entries()] == list(range(200))
    await found.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 1500), rest=st.binary(max_size=12))
async def test_a_torn_end_is_cut_off_and_what_follows_is_whole(tmp_path_factory: Any, cut: int, rest: bytes) -> None:
    folder = tmp_path_factory.mktemp("torn")
    await keep(folder, [(line, True) for line in range(12)])
    path = folder / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))] + rest.replace(b"\n", b""))
    found = read(folder)
    before = set(found.lines)
    assert before == set(range(whole[: min(cut, len(whole))].count(b"\n")))
    await found.keep(99, True, {}, None)
    await found.close()
    assert read(folder).lines == before | {99}


async def test_an_answer_whose_caller_went_away_is_kept_all_the_same(tmp_path: Path) -> None:
    journal = read(tmp_path)
    waiting = asyncio.create_task(journal.keep(1, True, {}, None))
    await asyncio.sleep(0)
    waiting.cancel()
    await journal.close()
    assert read(tmp_path).lines == {1}


async def test_a_full_disk_is_told_and_tears_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    journal = read(tmp_path)
    await journal.keep(1, True, {}, None)
    real, left = os.fsync, [1]

    def full(handle: int) -> None:
        if left and left.pop():
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        await journal.keep(2, True, {}, None)
    await journal.keep(3, True, {}, None)
    await journal.close()
    assert read(tmp_path).lines == {1, 3}


async def test_what_no_disk_says_ends_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours while writing is told to whoever waits; who comes next is written."""
    journal = read(tmp_path)

    def wrong(data: bytes) -> None:
        raise ValueError("a mistake")

    with monkeypatch.context() as patched:
        patched.setattr(journal, "_append", wrong)
        with pytest.raises(ValueError, match="a mistake"):
            async with asyncio.timeout(60):
                await journal.keep(1, True, {}, None)
    async with asyncio.timeout(60):
        await journal.keep(2, True, {}, None)
    await journal.close()
    assert read(tmp_path).lines == {2}
