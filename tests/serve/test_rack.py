"""The rack: shares by weight, like lengths together, tiers, what is late or left, nobody forgotten. No threads, no clock."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.serve.engines.rows.rack import Call, Piece, Rack, Racks, Shape, Turn

SHAPE = Shape(budget=256, rows=64, overhead=24)


def call(rack: Rack | Racks, lengths: list[int], turn: Turn | None = None, now: float = 0.0) -> Call:
    made = Call([{}] * len(lengths), turn or Turn(), now)
    rack.put([Piece(made, place, {}, length) for place, length in enumerate(lengths)])
    return made


def text_length(chance: random.Random) -> int:
    return int(min(250, max(2, chance.lognormvariate(3, 1))))


def test_weights_are_kept_in_what_is_served() -> None:
    """Three who always have twenty rows waiting: what is computed for them is as 1 to 2 to 4."""
    rack, chance = Rack(), random.Random(1)
    weights = {1: 1.0, 2: 2.0, 3: 4.0}
    waiting: Counter[int] = Counter()
    served: Counter[int] = Counter()
    for _ in range(3000):
        for who, weight in weights.items():
            while waiting[who] < 20:
                call(rack, [text_length(chance)], Turn(who, weight))
                waiting[who] += 1
        batch, _ = rack.pick(SHAPE, 64, 0.0)
        for piece in batch:
            waiting[piece.call.turn.who] -= 1
            served[piece.call.turn.who] += piece.length
    for who, weight in weights.items():
        assert served[who] / served.total() == pytest.approx(weight / 7, rel=0.1)


def test_batches_are_nearly_free_of_padding() -> None:
    rack, chance = Rack(), random.Random(2)
    useful = padded = batches = 0
    call(rack, [text_length(chance) for _ in range(64)])
    for _ in range(400):
        batch, _ = rack.pick(SHAPE, 64, 0.0)
        lengths = [piece.length for piece in batch]
        useful, padded, batches = useful + sum(lengths), padded + len(lengths) * max(lengths), batches + 1
        call(rack, [text_length(chance) for _ in batch])
    assert padded / useful < 1.2
    assert useful / batches > 80, "and they are not small"


def test_who_asks_little_goes_next_and_alone_beside_a_flood() -> None:
    rack = Rack()
    call(rack, [30] * 500, Turn(1))
    for _ in range(5):
        rack.pick(SHAPE, 64, 0.0)
    quiet = call(rack, [28], Turn(2))
    batch, _ = rack.pick(SHAPE, 64, 0.0)
    assert [piece.call for piece in batch] == [quiet]


def test_many_who_ask_little_share_their_batches() -> None:
    rack = Rack()
    for who in range(40):
        call(rack, [20 + who % 3], Turn(who))
    batch, _ = rack.pick(SHAPE, 64, 0.0)
    assert len(batch) >= 8 and len({piece.call.turn.who for piece in batch}) == len(batch)


def test_who_comes_back_has_saved_nothing() -> None:
    rack = Rack()
    call(rack, [100] * 50, Turn(1))
    for _ in range(10):
        rack.pick(SHAPE, 1, 0.0)
    call(rack, [100] * 50, Turn(2))
    seen = Counter(rack.pick(SHAPE, 1, 0.0)[0][0].call.turn.who for _ in range(20))
    assert seen == {1: 10, 2: 10}


def test_what_is_late_is_dropped_before_it_costs_anything() -> None:
    rack = Rack()
    late = call(rack, [10, 10], Turn(1, left_ms=50), now=0.0)
    good = call(rack, [10], Turn(1, left_ms=5000), now=0.0)
    batch, dropped = rack.pick(SHAPE, 64, 0.2)
    assert ([piece.call for piece in batch], dropped) == ([good], [late])
    assert (rack.waiting, rack.tokens, late.begun) == (0, 0, 0)


def test_the_most_urgent_of_one_goes_first() -> None:
    rack = Rack()
    call(rack, [50], Turn(1))
    urgent = call(rack, [200], Turn(1, left_ms=500))
    assert rack.pick(SHAPE, 1, 0.0)[0][0].call is urgent


def test_a_call_that_is_dropped_leaves_nothing() -> None:
    rack = Rack()
    kept, left = call(rack, [10, 20]), call(rack, [15] * 5)
    rack.drop(left)
    batch, _ = rack.pick(SHAPE, 64, 0.0)
    assert {piece.call for piece in batch} == {kept} and not rack.waiting and not rack.tokens


def test_tiers_go_in_their_order_and_the_standard_one_is_not_starved() -> None:
    racks = Racks()
    for tier in (3, 2, 1, 0):
        call(racks, [200] * 12, Turn(tier=tier))
    order = [racks.pick(SHAPE, 64, 0.0)[0][0].call.turn.tier for _ in range(48)]
    assert order[:9] == [0] * 7 + [1, 0]
    assert order[24:] == [2] * 12 + [3] * 12


@settings(max_examples=150, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.lists(st.integers(1, 300), min_size=1, max_size=12),
            st.sampled_from([0.5, 1.0, 4.0]),
            st.integers(0, 3),
            st.sampled_from([0, 40, 4000]),
        ),
        min_size=1,
        max_size=40,
    ),
    budget=st.integers(1, 600),
    most=st.integers(1, 20),
    seed=st.integers(0, 2**16),
)
def test_every_row_is_picked_once_or_dropped(
    calls: list[tuple[int, list[int], float, int, int]], budget: int, most: int, seed: int
) -> None:
    """Whatever waits, in whatever order it comes: batches fit, each row is in one of them or late or left, all end."""
    racks, chance, now = Racks(), random.Random(seed), 0.0
    shape = Shape(budget=budget, rows=16, overhead=24)
    calls: list[Call] = []
    picked: list[tuple[int, int]] = []
    over: set[int] = set()

    def step() -> None:
        batch, late = racks.pick(shape, most, now)
        over.update(id(one) for one in late)
        assert len(batch) <= min(most, 16)
        assert len(batch) <= 1 or len(batch) * max(piece.length for piece in batch) <= budget
        picked.extend((id(piece.call), piece.place) for piece in batch)
        assert all(piece.call.until > now for piece in batch)
        assert batch or not racks.waiting

    for who, lengths, weight, tier, left_ms in calls:
        calls.append(call(racks, lengths, Turn(who, weight, left_ms, tier), now))
        now += 0.01
        if chance.random() < 0.4:
            step()
        if chance.random() < 0.1:
            gone = chance.choice(calls)
            racks.drop(gone)
            over.add(id(gone))
    for _ in range(sum(len(lengths) for _, lengths, *_ in calls) + 1):
        step()
    assert not racks and racks.waiting == 0 and racks.tokens == 0
    assert len(picked) == len(set(picked))
    for one in calls:
        rows = sum(1 for number, _ in picked if number == id(one))
        assert rows == one.begun
        assert rows == len(one.rows) or id(one) in over
        assert one.until == math.inf or one.turn.left_ms
