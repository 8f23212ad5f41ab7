"""Ids: typed, unique, sorted by birth."""

import os

from hypothesis import given
from hypothesis import strategies as st

from tollway.kit import ids


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=20, unique=True))
def test_ids_sort_by_their_time(times: list[int]) -> None:
    made = [ids.new_id("evt", now_ms) for now_ms in times]
    assert sorted(made) == [one for _, one in sorted(zip(times, made, strict=True))]


def test_ids_are_unique_and_fit_their_column() -> None:
    made = {ids.new_id("org") for _ in range(10_000)}
    assert len(made) == 10_000
    assert all(len(one) == 30 and one.startswith("org_") for one in made)


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_base32_keeps_the_order(one: int, other: int) -> None:
    assert (one < other) == (ids.base32(one) < ids.base32(other))


def test_the_bits_are_a_uuid_of_version_7() -> None:
    number = ids.uuid7_int(0x123456789ABC)
    assert number >> 80 == 0x123456789ABC
    assert number >> 76 & 0xF == 7
    assert number >> 62 & 0b11 == 0b10


def _number(code: str) -> int:
    found = 0
    for character in code:
        found = found << 5 | "0123456789abcdefghjkmnpqrstvwxyz".index(character)
    assert found & 0b11 == 0  # 128 bits in 130
    return found >> 2


def test_fresh_codes_are_uuids_of_version_7_with_all_their_chance() -> None:
    numbers = [_number(ids.new_code(0x123456789ABC)) for _ in range(5000)]
    for number in numbers:
        assert number >> 80 == 0x123456789ABC
        assert number >> 76 & 0xF == 7
        assert number >> 62 & 0b11 == 0b10
    for bit in [*range(62), *range(64, 76)]:
        share = sum(number >> bit & 1 for number in numbers) / len(numbers)
        assert 0.42 < share < 0.58, f"bit {bit} is one in {share:.0%}"


def test_a_forked_child_has_ids_of_its_own() -> None:
    ids.new_code()  # some are kept ready
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, " ".join(ids.new_code(1)[10:] for _ in range(100)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 10_000).decode().split()
    ours = {ids.new_code(1)[10:] for _ in range(100)}
    assert len(theirs) == 100 and ours.isdisjoint(theirs)
