"""Buyers' trainings in the books: their machine time is hardware, paid for or lost, and the books close with it."""

from collections.abc import Callable

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.insight.test_economics import HOUR, LATER, NOON, PRICE, alive, subscribed
from tollway.insight import economics
from tollway.kit import jobs
from tollway.kit.db import Database
from tollway.sell import fine_tuning

RecordUse = Callable[..., str]


def trained(
    conn: sa.Connection,
    name: str,
    org_id: str,
    hours: dict[int, int],
    status: str,
    tokens: int | None,
    base: str = "small",
) -> None:
    """A job whose process worked so many microseconds in these hours."""
    order = fine_tuning.Order(
        key_id="key", base=base, base_version="v1", training_file="f", validation_file=None, suffix="", seed=1,
        hyperparameters={}, metadata={}, tokens_max=1000, subscription_id="s", plan_version_id="p",
    )  # fmt: skip
    asked = {name: getattr(order, name) for name in order.__struct_fields__}
    jobs.create(conn, jobs.Job(id=name, kind=fine_tuning.KIND, org_id=org_id, asked=asked, created_ms=NOON), 1000)
    for hour_ms, us in hours.items():
        jobs.worked(conn, hour_ms + 5, name, us)
    jobs.change(conn, name, status=status, made={"trained_tokens": tokens} if tokens is not None else {})


def test_a_training_shares_the_hour_with_the_replica_and_is_its_buyers(db: Database, record_use: RecordUse) -> None:
    with db.write() as conn:
        acme = subscribed(conn, "acme")
        alive(conn, idle=HOUR)
        trained(conn, "ftjob_a", acme.org_id, {NOON: HOUR // 2}, "succeeded", 500)
        trained(conn, "ftjob_b", acme.org_id, {NOON: HOUR // 4}, "failed", None)
        record_use(
            conn, acme, at_ms=NOON + 9, operation="fine-tuning", meter="training_tokens", units=500,
            input_tokens=0, output_tokens=0, prefill_us=0, decode_us=HOUR // 2,
        )  # fmt: skip
        books = economics.report(conn, PRICE, NOON, LATER)
    assert books.hardware_micros == 116_000, "the machine was there for an hour, whatever ran on it"
    assert books.attributed_micros + books.idle.cost_micros + books.failed.cost_micros == books.hardware_micros
    rows = {row.model: row for row in books.rows}
    assert rows["training:small"].cost_micros == round(116_000 * 2 / 7)
    assert books.failed.cost_micros == round(116_000 / 7)
    assert rows["small"].requests == 0, "the base's own row has no part of it"
    assert [(one.name, one.cost_micros) for one in books.organizations] == [("acme", round(116_000 * 2 / 7))]


def test_a_job_that_still_runs_is_nobodys_yet(db: Database) -> None:
    with db.write() as conn:
        trained(conn, "ftjob_a", subscribed(conn, "acme").org_id, {NOON: HOUR}, "running", None)
        books = economics.report(conn, PRICE, NOON, LATER)
    assert (books.attributed_micros, books.failed.cost_micros) == (116_000, 0)
    assert [(one.org_id, one.cost_micros) for one in books.organizations] == [("", 116_000)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    replicas=st.lists(st.tuples(st.integers(0, HOUR), st.integers(0, HOUR)), max_size=2),
    worked=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from([NOON, LATER]), st.integers(1, HOUR), max_size=2),
            st.sampled_from(
                [("succeeded", 7), ("failed", None), ("cancelled", 0), ("cancelled", 3), ("running", None)]
            ),
            st.sampled_from(["small", "large"]),
        ),
        max_size=4,
    ),
)
def test_the_books_close_whatever_was_trained(
    sqlite_db: Database,
    replicas: list[tuple[int, int]],
    worked: list[tuple[dict[int, int], tuple[str, int | None], str]],
) -> None:
    with sqlite_db.read() as conn:  # rolled back: each example begins with an empty house
        for number, (busy, idle) in enumerate(replicas):
            alive(conn, f"m{number}", busy=busy, idle=idle)
        for number, (hours, (status, tokens), base) in enumerate(worked):
            trained(conn, f"ftjob_{number}", f"org_{number}", hours, status, tokens, base)
        books = economics.report(conn, PRICE, NOON, LATER + 3_600_000)
    assert books.attributed_micros + books.idle.cost_micros + books.failed.cost_micros == books.hardware_micros
    assert books.hardware_micros <= 2 * PRICE.micros_per_hour
    assert sum(row.cost_micros for row in books.rows) == books.attributed_micros
    lost = sum(sum(hours.values()) for hours, (status, tokens), _ in worked if status != "running" and not tokens)
    assert books.failed.failed_us == lost
