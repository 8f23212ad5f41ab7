"""The factory's curves: one line for each stretch of steps, within the drawing, whatever the values."""

import re

from hypothesis import given
from hypothesis import strategies as st

from tollway.faces.console.factory import curves


def metric(at, value, name="loss"):
    return {"kind": "metric", "name": name, "at": at, "value": value}


def test_another_member_begins_another_line():
    found = curves([metric(1, 3.0), metric(2, 2.0), metric(3, 1.0), metric(1, 4.0), metric(2, 2.5)])
    assert found[0].path.count("M") == 2
    assert (found[0].first, found[0].last, found[0].least, found[0].most) == (3.0, 2.5, 1.0, 4.0)


def test_single_points_and_other_events_draw_nothing():
    assert curves([metric(1, 3.0), {"kind": "note", "text": "x"}, metric(None, 2.0, "accuracy")]) == []


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e6, 1e6)), min_size=2, max_size=900))
def test_every_point_lies_within_the_drawing(points):
    path = curves([metric(at, value) for at, value in points])[0].path
    found = [tuple(map(float, pair)) for pair in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]
    assert found and all(0 <= x <= 320 and 0 <= y <= 96 for x, y in found)
