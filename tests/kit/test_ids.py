"""Ids: typed, unique, sorted by birth."""

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
