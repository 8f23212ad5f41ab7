"""What buyers say of answers: paged, counted in the database, and never more than is kept."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from tollway.kit.db import Database
from tollway.kit.errors import Conflict
from tollway.sell import accounts, catalog, feedback, tables


class Buyer:
    """An organization with answers to speak of."""

    def __init__(self, conn: sa.Connection, record_use: Callable[..., str], name: str, answers: int) -> None:
        self._conn = conn
        self.org_id = accounts.create_organization(conn, 0, name).id
        plan = catalog.create_plan(conn, 0, f"plan-{name}", "P", catalog.Terms())
        sub = catalog.subscribe(conn, 0, self.org_id, plan.id)
        self.answers = [record_use(conn, sub, model="mood", at_ms=number) for number in range(answers)]

    def say(self, now_ms: int, answer: str, rating: int = 0, **words: Any) -> feedback.Feedback:
        return feedback.give(self._conn, now_ms, self.org_id, "key_1", answer, rating, **words)


def test_an_answer_takes_a_few_words(db: Database, record_use: Callable[..., str]) -> None:
    with db.write() as conn:
        buyer = Buyer(conn, record_use, "a", 2)
        for _ in range(feedback.ANSWER_MOST):
            buyer.say(1, buyer.answers[0])
        with pytest.raises(Conflict) as told:
            buyer.say(1, buyer.answers[0])
        assert (told.value.status, told.value.code) == (409, "too_much_feedback")
        buyer.say(1, buyer.answers[1])


def test_the_oldest_of_an_organization_goes_and_nobody_elses(
    db: Database, record_use: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "KEPT_MOST", 20)
    with db.write() as conn:
        loud, quiet = Buyer(conn, record_use, "loud", 12), Buyer(conn, record_use, "quiet", 1)
        first = quiet.say(1, quiet.answers[0])
        said = [loud.say(2 + number, loud.answers[number // 4], comment=str(number)).id for number in range(48)]
        kept = [one.id for one in feedback.list_of(conn, org_id=loud.org_id)]
        assert len(kept) <= 20 and kept == said[-len(kept) :]
        assert [one.id for one in feedback.list_of(conn, org_id=quiet.org_id)] == [first.id]


def test_pages_are_read_newest_first_and_only_ones_own(db: Database, record_use: Callable[..., str]) -> None:
    with db.write() as conn:
        buyer, other = Buyer(conn, record_use, "a", 1), Buyer(conn, record_use, "b", 1)
        said = [buyer.say(1 + number, buyer.answers[0]).id for number in range(5)]
        theirs = other.say(99, other.answers[0]).id
        newest = feedback.page_of(conn, buyer.org_id, 2)
        assert [one.id for one in newest] == [said[4], said[3]]
        assert [one.id for one in feedback.page_of(conn, buyer.org_id, 9, newest[-1].id)] == said[2::-1]
        assert [one.id for one in feedback.page_of(conn, buyer.org_id, 9, theirs)] == said[::-1]


def test_words_are_counted_where_they_are(db: Database, record_use: Callable[..., str]) -> None:
    with db.write() as conn:
        buyer = Buyer(conn, record_use, "a", 2)
        buyer.say(1, buyer.answers[0], 1)
        buyer.say(2, buyer.answers[0], -1, input="a", correction="b")
        buyer.say(3, buyer.answers[0], -1, input={"a": 1}, correction=2.5)
        buyer.say(4, buyer.answers[1], 0, input="only what was asked")
        assert feedback.tallies(conn) == [feedback.Tally("mood", 1, 2, 1, 2, 4)]
        assert len(feedback.list_of(conn, model="mood", corrected=True)) == 2
        conn.execute(tables.feedback.delete())
        assert feedback.tallies(conn) == []
