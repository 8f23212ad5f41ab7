"""Jobs: claimed by one, taken over from the dead, ended once; and the crew that works them off."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from tollway.kit import crew, jobs
from tollway.kit.clock import ManualClock
from tollway.kit.db import Database
from tollway.kit.errors import BadRequest, Conflict, NotFound, TollwayError, Unavailable
from tollway.kit.jobs import Job

NOW = 1_767_225_600_000


def put(conn: sa.Connection, name: str, org_id: str = "acme", kind: str = "batch") -> Job:
    return jobs.create(conn, Job(id=name, kind=kind, org_id=org_id, asked={"n": name}, created_ms=NOW), 10)


def claim(conn: sa.Connection, owner: str, now_ms: int = NOW, *, alone: bool = False, but: tuple[str, ...] = ()) -> str:
    found = jobs.claim(conn, now_ms, "batch", owner, alone=alone, but=but)
    return found.id if found else ""


def test_a_job_is_one_owners_until_it_gives_no_sign_of_life(db: Database) -> None:
    with db.write() as conn:
        put(conn, "job_1")
        assert claim(conn, "a") == "job_1"
        assert claim(conn, "b") == "", "somebody works on it"
        later = NOW + jobs.LEASE_MS + 1
        jobs.beat(conn, later, "job_1", "a")
        assert claim(conn, "b", later) == "", "and still does"
        assert claim(conn, "b", later + jobs.LEASE_MS + 1) == "job_1"
        with pytest.raises(Conflict):
            jobs.beat(conn, later, "job_1", "a")
        found = jobs.get(conn, "batch", "job_1")
        assert (found.owner, found.status, found.tries) == ("b", "running", 2)
        assert jobs.further(conn, "job_1", done=7).tries == 0
        assert jobs.get(conn, "batch", "job_1").made == {"done": 7}


def test_who_is_alone_takes_over_at_once(db: Database) -> None:
    with db.write() as conn:
        put(conn, "job_1")
        assert claim(conn, "a") == "job_1"
        assert claim(conn, "b", alone=True) == "job_1"


def test_what_was_begun_goes_on_first_and_organizations_take_turns(db: Database) -> None:
    with db.write() as conn:
        for name, org_id in (("job_1", "loud"), ("job_2", "loud"), ("job_3", "quiet"), ("job_4", "loud")):
            put(conn, name, org_id)
        order = []
        while found := claim(conn, "a", but=tuple(order)):
            order.append(found)
        assert order == ["job_1", "job_3", "job_2", "job_4"]
        put(conn, "job_0", "new")
        assert claim(conn, "b", alone=True) == "job_1", "before one that waits, though it is younger"


def test_an_organization_has_so_many_and_sees_its_own(db: Database) -> None:
    with db.write() as conn:
        for number in range(10):
            put(conn, f"job_{number}")
        with pytest.raises(Conflict) as refused:
            put(conn, "job_x")
        assert refused.value.code == "too_many_jobs"
        put(conn, "job_y", "other")
        put(conn, "job_z", kind="fine_tuning")
        with pytest.raises(NotFound):
            jobs.get(conn, "batch", "job_1", "other")
        with pytest.raises(NotFound):
            jobs.ask_to_cancel(conn, NOW, "batch", "other", "job_1")
        page = jobs.list_of(conn, "batch", "acme", limit=3, after="job_5")
        assert [one.id for one in page] == ["job_4", "job_3", "job_2"]


def test_the_first_end_counts(db: Database) -> None:
    with db.write() as conn:
        put(conn, "job_1")
        claim(conn, "a")
        assert jobs.ask_to_cancel(conn, NOW, "batch", "acme", "job_1").open, "it is being ended"
        jobs.end(conn, NOW + 1, "job_1", "cancelled", "Over.", settled=False, done=3)
        jobs.end(conn, NOW + 2, "job_1", "failed", "Again.", error={"code": "x"})
        found = jobs.get(conn, "batch", "job_1")
        assert (found.status, found.finished_ms, found.error, found.made) == ("cancelled", NOW + 1, None, {"done": 3})
        with pytest.raises(Conflict):
            jobs.ask_to_cancel(conn, NOW, "batch", "acme", "job_1")
        assert [one.id for one in jobs.list_of(conn, "batch", unsettled=True)] == ["job_1"]
        assert jobs.ended_of(conn, ["job_1"]) == []
        jobs.change(conn, "job_1", settled=True)
        assert jobs.ended_of(conn, ["job_1", "job_2"]) == ["job_1"]
        put(conn, "job_2")
        assert jobs.ask_to_cancel(conn, NOW, "batch", "acme", "job_2").status == "cancelled"
        assert claim(conn, "a") == ""


def test_time_is_booked_by_the_hour(db: Database) -> None:
    with db.write() as conn:
        put(conn, "job_1")
        claim(conn, "a")
        for minute in (0, 30, 59, 61):
            jobs.beat(conn, NOW + minute * 60_000, "job_1", "a", 1000)
        assert jobs.worked_us(conn, "job_1") == 4000
        assert [row.busy_us for row in conn.execute(sa.select(jobs.job_hour).order_by(jobs.job_hour.c.hour_ms))] == [
            3000,
            1000,
        ]


class Work:
    """Does what it is told to; remembers what it was given."""

    def __init__(
        self, write: Callable[[Callable[[sa.Connection], Any]], Any], act: Callable[[Job, asyncio.Event], Any]
    ) -> None:
        self.write, self.act = write, act
        self.seen: list[str] = []
        self.failed: dict[str, str] = {}

    async def run(self, job: Job, stop: asyncio.Event) -> None:
        self.seen.append(job.id)
        await self.act(job, stop)
        await self.write(
            lambda conn: jobs.end(conn, NOW, job.id, "cancelled" if stop.is_set() else "succeeded", "Done.")
        )

    async def fail(self, job: Job, error: TollwayError) -> None:
        self.failed[job.id] = error.code
        await self.write(lambda conn: jobs.end(conn, NOW, job.id, "failed", error.message, error={"code": error.code}))

    def busy_us(self, job_id: str) -> int:
        return 0

    def put_back(self, job_id: str, busy_us: int) -> None:
        assert not busy_us, "there was none"


class Timed(Work):
    """Its process worked for five milliseconds, and none since."""

    owed, back = 5000, 0

    def busy_us(self, job_id: str) -> int:
        taken, self.owed = self.owed, 0
        return taken

    def put_back(self, job_id: str, busy_us: int) -> None:
        self.owed += busy_us
        self.back += 1


class Yard:
    """A database, and crews that work on it."""

    def __init__(self, db: Database, clock: ManualClock) -> None:
        self.db, self.clock = db, clock
        with db.write() as conn:
            for number in range(3):
                put(conn, f"job_{number}", f"org_{number}")

    async def write(self, work: Callable[[sa.Connection], Any]) -> Any:
        with self.db.write() as conn:
            return work(conn)

    def status(self, job_id: str) -> str:
        with self.db.read() as conn:
            return jobs.get(conn, "batch", job_id).status

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.01)


@pytest.fixture
def yard(sqlite_db: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr(crew, "BEAT_S", 0.02)
    monkeypatch.setattr(crew, "LOOK_S", 0.02)
    return Yard(sqlite_db, clock)


async def test_a_crew_works_off_what_waits_so_many_at_a_time(yard: Yard) -> None:
    now = most = 0
    two = asyncio.Event()

    async def act(job: Job, stop: asyncio.Event) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 2:
            two.set()
        await asyncio.wait_for(two.wait(), 60)
        await asyncio.sleep(0.3)  # in which a third one would begin
        now -= 1

    work = Work(yard.write, act)
    task = asyncio.create_task(crew.Crew("batch", work, yard.clock, yard.write, at_once=2).work())
    await yard.until(lambda: all(yard.status(f"job_{n}") == "succeeded" for n in range(3)))
    task.cancel()
    assert sorted(work.seen) == ["job_0", "job_1", "job_2"] and most == 2


async def test_what_cannot_go_on_now_is_tried_again_as_often_as_it_takes(yard: Yard) -> None:
    async def act(job: Job, stop: asyncio.Event) -> None:
        if job.id == "job_0" and work.seen.count(job.id) < crew.TRIES_MAX + 3:
            raise Unavailable("Not now.")
        if job.id == "job_2":
            raise BadRequest("No.", code="wrong")

    work = Work(yard.write, act)
    task = asyncio.create_task(crew.Crew("batch", work, yard.clock, yard.write).work())
    await yard.until(lambda: all(yard.status(f"job_{n}") in ("succeeded", "failed") for n in range(3)))
    task.cancel()
    assert (yard.status("job_0"), work.failed) == ("succeeded", {"job_2": "wrong"})
    assert work.seen.count("job_0") == crew.TRIES_MAX + 3
    with yard.db.read() as conn:
        told = [event.message for event in jobs.events(conn, "job_0", 99)]
    once = ["Done.", "The job is waiting for its turn.", "The work begins."]  # two of them in one millisecond, perhaps
    assert sorted(told) == once, "waiting for long fills no table"


async def test_what_cannot_go_on_for_too_long_ends_and_says_what_it_waited_for(yard: Yard) -> None:
    async def act(job: Job, stop: asyncio.Event) -> None:
        if job.id == "job_0":
            raise Unavailable("The model is not ready.")

    def waits() -> str:
        with yard.db.read() as conn:
            return jobs.waits_for(jobs.get(conn, "batch", "job_0"))

    work = Work(yard.write, act)
    for _ in range(2):  # the wait goes on in the next gateway
        task = asyncio.create_task(crew.Crew("batch", work, yard.clock, yard.write, give_up_s=3600).work())
        seen = work.seen.count("job_0")
        await yard.until(lambda: work.seen.count("job_0") > seen + 1)  # noqa: B023
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert yard.status("job_0") == "running" and waits() == "The model is not ready."
        yard.clock.advance(seconds=1799)
    yard.clock.advance(seconds=2)
    task = asyncio.create_task(crew.Crew("batch", work, yard.clock, yard.write, give_up_s=3600).work())
    await yard.until(lambda: yard.status("job_0") == "failed")
    task.cancel()
    assert work.failed == {"job_0": "job_gave_up"}
    with yard.db.read() as conn:
        told = [event.message for event in jobs.events(conn, "job_0", 9)]
    assert "It could not go on for 60 min: The model is not ready." in told


def test_whoever_gets_further_waits_for_nothing(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        put(conn, "job_0", "org_0")
        assert jobs.waits(conn, 5, "job_0", "No.") == 5
        assert jobs.waits(conn, 9, "job_0", "Still no.") == 5
        jobs.further(conn, "job_0", completed=1)
        assert jobs.waits_for(jobs.get(conn, "batch", "job_0")) == ""
        assert jobs.waits(conn, 12, "job_0", "No.") == 12


async def test_what_its_workers_die_of_ends(yard: Yard) -> None:
    """Each try ends without a word, as it does when the process is killed."""

    async def hang(job: Job, stop: asyncio.Event) -> None:
        await asyncio.sleep(60)

    work, victim = Work(yard.write, hang), ""
    for tries in range(crew.TRIES_MAX + 1):
        task = asyncio.create_task(crew.Crew("batch", work, yard.clock, yard.write).work())
        await yard.until(lambda: len(work.seen) > tries or bool(work.failed))  # noqa: B023
        victim = victim or work.seen[0]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert work.failed == {victim: "job_broken_off"} and work.seen.count(victim) == crew.TRIES_MAX


async def test_time_that_could_not_be_written_comes_again(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LOOK_S", 60)  # nothing but beats writes
    away = True

    async def hang(job: Job, stop: asyncio.Event) -> None:
        await asyncio.sleep(60)

    async def write(work: Callable[[sa.Connection], Any]) -> Any:
        if timed.seen and timed.owed == 0 and away:
            raise Unavailable("The database is away.")
        return await yard.write(work)

    def worked_us() -> int:
        with yard.db.read() as conn:
            return jobs.worked_us(conn, timed.seen[0])

    timed = Timed(yard.write, hang)
    task = asyncio.create_task(crew.Crew("batch", timed, yard.clock, write).work())
    await yard.until(lambda: timed.back > 2)
    assert worked_us() == 0
    away = False
    await yard.until(lambda: worked_us() > 0)
    task.cancel()
    assert worked_us() == 5000


async def test_a_mistake_of_ours_ends_the_job_and_not_the_crew(yard: Yard) -> None:
    async def act(job: Job, stop: asyncio.Event) -> None:
        if job.id == "job_0":
            raise ZeroDivisionError

    work = Work(yard.write, act)
    task = asyncio.create_task(crew.Crew("batch", work, yard.clock, yard.write).work())
    await yard.until(lambda: yard.status("job_2") == "succeeded")
    task.cancel()
    assert yard.status("job_0") == "failed"


async def test_an_end_asked_for_elsewhere_is_heard_with_the_next_sign_of_life(yard: Yard) -> None:
    async def act(job: Job, stop: asyncio.Event) -> None:
        if job.id == "job_0":
            await asyncio.wait_for(stop.wait(), 60)

    work = Work(yard.write, act)
    task = asyncio.create_task(crew.Crew("batch", work, yard.clock, yard.write).work())
    await yard.until(lambda: "job_0" in work.seen)
    with yard.db.write() as conn:
        jobs.ask_to_cancel(conn, NOW, "batch", "org_0", "job_0")
    await yard.until(lambda: yard.status("job_0") == "cancelled")
    task.cancel()


async def test_what_a_crew_leaves_the_next_one_goes_on_with(yard: Yard) -> None:
    async def hang(job: Job, stop: asyncio.Event) -> None:
        await asyncio.sleep(60)

    async def done(job: Job, stop: asyncio.Event) -> None:
        pass

    first = Work(yard.write, hang)
    task = asyncio.create_task(crew.Crew("batch", first, yard.clock, yard.write).work())
    await yard.until(lambda: bool(first.seen))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert yard.status(first.seen[0]) == "running" and not first.failed
    second = Work(yard.write, done)
    task = asyncio.create_task(crew.Crew("batch", second, yard.clock, yard.write).work())
    await yard.until(lambda: all(yard.status(f"job_{n}") == "succeeded" for n in range(3)))
    task.cancel()
    assert second.seen[0] == first.seen[0]
