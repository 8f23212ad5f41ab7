"""What is asked twice under one key is done once, for a day, and nothing is shared between organizations."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from tollway.kit.db import Database
from tollway.kit.errors import Conflict
from tollway.sell import once, tables


def test_the_answer_comes_again_for_a_day(db: Database) -> None:
    request = once.asked("org_a", "k", b"/door", b"body")
    with db.write() as conn:
        assert once.answer_of(conn, 1000, request) is None
        once.keep(conn, 1000, request, '{"a": "é"}'.encode())
    with db.read() as conn:
        assert once.answer_of(conn, 1000 + once.KEPT_MS - 1, request) == '{"a": "é"}'.encode()
        assert once.answer_of(conn, 1000 + once.KEPT_MS, request) is None
        assert once.answer_of(conn, 1000, once.asked("org_b", "k", b"/door", b"body")) is None
    with db.write() as conn:
        once.keep(conn, 1000 + once.KEPT_MS, request, b"new")
        assert conn.execute(sa.select(sa.func.count()).select_from(tables.answered_once)).scalar() == 1


@pytest.mark.parametrize(
    "content", [(b"/door", b"other"), (b"/other", b"body"), (b"/doorbo", b"dy"), (b"/door", b"bo", b"dy")]
)
def test_another_request_under_the_same_key_is_told_so(db: Database, content: tuple[bytes, ...]) -> None:
    with db.write() as conn:
        once.keep(conn, 0, once.asked("org_a", "k", b"/door", b"body"), b"1")
    with db.read() as conn, pytest.raises(Conflict) as told:
        once.answer_of(conn, 0, once.asked("org_a", "k", *content))
    assert (told.value.status, told.value.code) == (409, "idempotency_key_reused")


def test_of_many_at_once_one_stays(db: Database) -> None:
    """Each does something in the transaction that keeps its answer; what the others did is gone."""
    request = once.asked("org_a", "k", b"/door", b"body")

    def ask(number: int) -> bool:
        try:
            with db.write() as conn:
                conn.execute(tables.revision.insert().values(name=f"done-{number}", value=1))
                once.keep(conn, 0, request, str(number).encode())
        except once.Repeated:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(ask, range(16)))
    assert sum(done) == 1
    with db.read() as conn:
        left = (
            conn.execute(sa.select(tables.revision.c.name).where(tables.revision.c.name.like("done-%"))).scalars().all()
        )
        assert left == [f"done-{done.index(True)}"]
        assert once.answer_of(conn, 0, request) == str(done.index(True)).encode()


def test_made_up_keys_push_out_their_own_organizations_oldest_only(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "KEPT_MOST", 20)
    other = once.asked("org_b", "k", b"/door")
    with db.write() as conn:
        once.keep(conn, 0, other, b"kept")
        for number in range(100):
            once.keep(conn, number, once.asked("org_a", f"k{number}", b"/door"), b"1")
        table = tables.answered_once
        kept = conn.execute(sa.select(table.c.key).where(table.c.org_id == "org_a").order_by(table.c.created_ms)).all()
        assert len(kept) <= 20 and [row.key for row in kept] == [f"k{number}" for number in range(100 - len(kept), 100)]
        assert once.answer_of(conn, 100, other) == b"kept"
