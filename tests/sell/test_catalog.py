"""Plans and subscriptions: terms checked as a whole, versions that never change, one running subscription."""

import threading

import msgspec
import pytest
import sqlalchemy as sa

from tollway.kit.db import Database
from tollway.kit.errors import BadRequest, Conflict, NotFound, TollwayError
from tollway.sell import accounts, catalog, revision, tables
from tollway.sell.catalog import Charge, Terms, UsageLimits

NOW = 1_767_225_600_000
OUT = Charge(meter="output_tokens", price_micros=600_000, included=100)
TERMS = Terms(flat_fee_micros=5_000_000, charges=(OUT,), limits=UsageLimits(rpm=60), models=("small",))


def test_a_plan_is_read_back_as_it_was_made(db: Database) -> None:
    with db.write() as conn:
        made = catalog.create_plan(conn, NOW, "starter", "Starter 入门", TERMS)
    with db.read() as conn:
        assert catalog.get_plan(conn, "starter") == made
        assert (made.version, made.terms, made.title, made.created_ms) == (1, TERMS, "Starter 入门", NOW)
        assert catalog.plan_versions(conn) == {made.id: made}
        assert catalog.get_plan_version(conn, made.id) == made


def test_a_change_of_terms_is_a_new_version_and_the_old_one_stays(db: Database) -> None:
    dearer = msgspec.structs.replace(TERMS, flat_fee_micros=9_000_000)
    with db.write() as conn:
        first = catalog.create_plan(conn, NOW, "starter", "Starter", TERMS)
        second = catalog.revise_plan(conn, NOW + 1, "starter", dearer)
        assert second.version == 2
        assert catalog.revise_plan(conn, NOW + 2, "starter", dearer) == second
        assert catalog.get_plan(conn, "starter", 1) == first
        assert catalog.list_plans(conn) == [second]
        with pytest.raises(NotFound):
            catalog.get_plan(conn, "starter", 3)
        with pytest.raises(BadRequest, match="currency"):
            catalog.revise_plan(conn, NOW, "starter", msgspec.structs.replace(TERMS, currency="EUR"))


def test_a_plan_name_is_taken_once_and_looks_like_one(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        catalog.create_plan(conn, NOW, "starter", "", TERMS)
        with pytest.raises(Conflict, match="revise"):
            catalog.create_plan(conn, NOW, "starter", "", TERMS)
        for name in ("", "Starter", "a b", "-a", "a-", "a" * 61, "a\n", "计划"):
            with pytest.raises(BadRequest):
                catalog.create_plan(conn, NOW, name, "", TERMS)


def test_all_problems_of_terms_are_told_at_once() -> None:
    wrong = Terms(
        currency="XXX",
        flat_fee_micros=-1,
        charges=(OUT, OUT, Charge(meter="requests", model=" ", price_micros=-5, included=-1)),
        limits=UsageLimits(rpm=0, monthly_tokens=-3),
        models=(),
    )
    problems = wrong.check()
    assert len(problems) == 9
    text = "; ".join(problems)
    for part in (
        "XXX",
        "flat_fee",
        "twice",
        "price_micros -5",
        "included -1",
        "model is empty",
        "rpm",
        "monthly_tokens",
        "models",
    ):
        assert part in text
    assert TERMS.check() == []


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"flat_fee": 1}, "flat_fee"),
        ({"flat_fee_micros": 1.5}, "int"),
        ({"flat_fee_micros": "12"}, "int"),
        ({"overage": "debt"}, "debt"),
        ({"charges": [{"meter": "tokens", "price_micros": 1}]}, "tokens"),
        ({"charges": [{"meter": "requests"}]}, "price_micros"),
        ({"charges": [{"meter": "requests", "price_micros": 1, "modell": "x"}]}, "modell"),
        ({"limits": {"rpm": 0}}, "rpm"),
        ([], "object"),
        (None, "object"),
    ],
)
def test_terms_that_cannot_be_read_are_a_bad_request(given: object, named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        catalog.parse_terms(given)


def test_terms_survive_json() -> None:
    assert catalog.parse_terms(msgspec.json.decode(msgspec.json.encode(TERMS))) == TERMS


def _organization(conn: sa.Connection, name: str = "acme") -> str:
    return accounts.create_organization(conn, NOW, name).id


def test_subscribing_ends_what_ran_before(db: Database) -> None:
    with db.write() as conn:
        org = _organization(conn)
        one, two = (catalog.create_plan(conn, NOW, name, name, TERMS) for name in ("one", "two"))
        first = catalog.subscribe(conn, NOW, org, one.id)
        assert catalog.subscribe(conn, NOW + 5, org, one.id) == first
        second = catalog.subscribe(conn, NOW + 9, org, two.id)
        assert catalog.running_subscription(conn, org) == second
        assert catalog.get_subscription(conn, first.id).ended_ms == NOW + 9 == second.started_ms
        assert catalog.cancel(conn, NOW + 12, org).ended_ms == NOW + 12
        assert catalog.running_subscription(conn, org) is None
        assert [one.id for one in catalog.list_subscriptions(conn, org)] == [first.id, second.id]
        with pytest.raises(Conflict):
            catalog.cancel(conn, NOW + 13, org)


def test_two_subscriptions_at_the_same_time_leave_one_running(db: Database) -> None:
    with db.write() as conn:
        org = _organization(conn)
        plans = [catalog.create_plan(conn, NOW, f"plan-{n}", "", TERMS).id for n in range(4)]
        revision.touch(conn)
    barrier = threading.Barrier(4)

    def subscribe(plan: str) -> None:
        barrier.wait()
        with db.write() as conn:
            catalog.subscribe(conn, NOW, org, plan)

    threads = [threading.Thread(target=subscribe, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.read() as conn:
        rows = catalog.list_subscriptions(conn, org)
    assert len(rows) == 4
    assert sum(row.ended_ms is None for row in rows) == 1


def test_an_archived_plan_goes_on_for_its_subscribers_only(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        old, new = _organization(conn, "old"), _organization(conn, "new")
        plan = catalog.create_plan(conn, NOW, "gone", "", TERMS)
        catalog.subscribe(conn, NOW, old, plan.id)
        catalog.archive_plan(conn, NOW, "gone")
        catalog.archive_plan(conn, NOW + 1, "gone")
        assert catalog.list_plans(conn) == []
        assert [one.archived_ms for one in catalog.list_plans(conn, archived=True)] == [NOW]
        assert catalog.running_subscription(conn, old) is not None
        for act in (
            lambda: catalog.subscribe(conn, NOW, new, plan.id),
            lambda: catalog.revise_plan(conn, NOW, "gone", TERMS),
        ):
            with pytest.raises(Conflict):
                act()


def test_what_does_not_exist_is_not_found(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        org = _organization(conn)
        plan = catalog.create_plan(conn, NOW, "starter", "", TERMS)
        for act in (
            lambda: catalog.get_plan(conn, "nope"),
            lambda: catalog.get_plan_version(conn, "nope"),
            lambda: catalog.revise_plan(conn, NOW, "nope", TERMS),
            lambda: catalog.archive_plan(conn, NOW, "nope"),
            lambda: catalog.subscribe(conn, NOW, "nope", plan.id),
            lambda: catalog.subscribe(conn, NOW, org, "nope"),
            lambda: catalog.get_subscription(conn, "nope"),
        ):
            with pytest.raises(NotFound):
                act()


def test_every_change_tells_the_gateways(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        org = _organization(conn)
        moves = (
            lambda: catalog.create_plan(conn, NOW, "starter", "", TERMS),
            lambda: catalog.subscribe(conn, NOW, org, catalog.get_plan(conn, "starter").id),
            lambda: catalog.revise_plan(conn, NOW, "starter", Terms()),
            lambda: catalog.cancel(conn, NOW, org),
            lambda: catalog.archive_plan(conn, NOW, "starter"),
            lambda: accounts.suspend(conn, NOW, org),
            lambda: accounts.resume(conn, org),
        )
        for move in moves:
            before = revision.current(conn)
            move()
            assert revision.current(conn) > before


def test_a_refused_change_leaves_nothing_behind(sqlite_db: Database) -> None:
    with pytest.raises(TollwayError), sqlite_db.write() as conn:
        catalog.create_plan(conn, NOW, "starter", "", TERMS)
        catalog.revise_plan(conn, NOW, "starter", msgspec.structs.replace(TERMS, flat_fee_micros=-1))
    with sqlite_db.read() as conn:
        assert conn.execute(sa.select(tables.plan)).all() == []
