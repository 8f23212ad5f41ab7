"""The console's own reads against slow, obvious sums, on both databases."""

import random

import pytest

from tollway.faces.console import queries
from tollway.faces.console.ranges import DAY_MS, RANGES
from tollway.kit.clock import day_of
from tollway.sell import accounts, catalog
from tollway.sell import tables as sell

NOW_MS = 1_795_358_040_000


@pytest.fixture
def busy(db, record_use):
    """Two organizations, two models, a few hundred calls over forty days."""
    draw = random.Random(7)
    terms = catalog.Terms(charges=(catalog.Charge(meter="output_tokens", price_micros=3_000_000, included=500),))
    rows = []
    with db.write() as conn:
        plan = catalog.create_plan(conn, 1, "p", "P", terms)
        subscriptions = [
            catalog.subscribe(conn, 1, accounts.create_organization(conn, 1, name).id, plan.id) for name in ("a", "b")
        ]
        for _ in range(300):
            subscription = draw.choice(subscriptions)
            at_ms = NOW_MS - int(draw.random() ** 3 * 40 * DAY_MS)
            given = {
                name: draw.randrange(1000)
                for name in ("input_tokens", "cached_tokens", "output_tokens", "prefill_us", "decode_us", "duration_us")
            }
            more = {
                "model": draw.choice(("m", "n")),
                "key_id": draw.choice(("k1", "k2")),
                "status": draw.choice(("ok", "ok", "aborted")),
            }
            record_use(
                conn,
                subscription,
                at_ms=at_ms,
                first_token_us=draw.choice((None, draw.randrange(900))),
                **given,
                **more,
            )
    with db.read() as conn:
        rows = [dict(row._mapping) for row in conn.execute(sell.usage_event.select())]
    return db, rows, [one.org_id for one in subscriptions]


@pytest.mark.parametrize("span", RANGES.values(), ids=lambda span: span.name)
def test_overview_adds_up(busy, span):
    db, rows, orgs = busy
    from_ms, to_ms = span.window(NOW_MS)
    for org_id in (None, orgs[0]):
        mine = [row for row in rows if org_id in (None, row["org_id"])]
        inside = [row for row in mine if from_ms <= row["at_ms"] < to_ms]
        with db.read() as conn:
            found = queries.overview(conn, {"in_flight": 2}, span, NOW_MS, org_id)
        assert found.totals["requests"] == len(inside) == sum(found.series["requests"])
        for name in queries.METERS[1:]:
            assert found.totals[name] == sum(row[name] for row in inside), name
        before = [row for row in mine if from_ms - span.span_ms <= row["at_ms"] < from_ms]
        assert found.before["output_tokens"] == sum(row["output_tokens"] for row in before)
        for place, start in enumerate(found.starts_ms):
            assert found.series["requests"][place] == sum(
                start <= row["at_ms"] < start + span.step_ms for row in inside
            )
        assert (found.latency.sample, found.latency.aborted) == (
            len(inside),
            sum(row["status"] == "aborted" for row in inside),
        )
        durations = sorted(row["duration_us"] for row in inside)
        assert found.latency.p50_us == queries.percentile(durations, 50)
        assert (found.live["in_flight"], found.live["queued"]) == (2, None)


@pytest.mark.parametrize(("group", "column"), [("day", None), ("model", "model"), ("key", "key_id"), ("org", "org_id")])
def test_usage_rows_add_up_under_every_filter(busy, group, column):
    db, rows, orgs = busy
    first, last = day_of(NOW_MS - 20 * DAY_MS), day_of(NOW_MS)
    for org_id, model, key in ((None, None, None), (orgs[1], None, "k1"), (None, "m", None), (orgs[0], "n", "k2")):
        kept = [
            row
            for row in rows
            if first <= day_of(row["at_ms"]) <= last
            and org_id in (None, row["org_id"])
            and model in (None, row["model"])
            and key in (None, row["key_id"])
        ]
        expected: dict[str, int] = {}
        for row in kept:
            name = row[column] if column else day_of(row["at_ms"])
            expected[name] = expected.get(name, 0) + row["price_picos"]
        with db.read() as conn:
            found = queries.usage_rows(conn, group, first, last, org_id, model, key)
        assert {row["group"]: row["price_picos"] for row in found} == expected
        assert sum(row["requests"] for row in found) == len(kept)


def test_pages_of_calls_neither_skip_nor_repeat(busy):
    db, rows, orgs = busy
    seen, before = [], None
    with db.read() as conn:
        while page := queries.events(conn, orgs[0], {}, before, 7):
            seen += [row["id"] for row in page]
            before = page[-1]["id"]
    mine = [row for row in rows if row["org_id"] == orgs[0]]
    assert seen == [row["id"] for row in sorted(mine, key=lambda row: (row["at_ms"], row["id"]), reverse=True)]


def test_a_call_is_found_by_either_id_by_its_owner_only(busy):
    db, rows, orgs = busy
    one = next(row for row in rows if row["org_id"] == orgs[0])
    with db.read() as conn:
        assert queries.event(conn, one["id"], orgs[0])["id"] == one["id"]
        assert queries.event(conn, one["id"].replace("evt_", "req_"), orgs[0])["id"] == one["id"]
        assert queries.event(conn, one["id"], orgs[1]) is None
        assert queries.event(conn, "", orgs[0]) is None


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, None), ([5], 95, 5), ([1, 2, 3, 4], 50, 2), (list(range(1, 101)), 95, 95)],
)
def test_percentiles_are_nearest_rank(values, percent, expected):
    assert queries.percentile(values, percent) == expected
