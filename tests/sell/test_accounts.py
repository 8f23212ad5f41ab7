"""Organizations, people and their sessions: unique names, roles that fit, cookies that are kept nowhere."""

import pytest
import sqlalchemy as sa

from tollway.kit.db import Database
from tollway.kit.errors import BadRequest, Conflict, NotFound, Unauthorized
from tollway.sell import accounts, tables

NOW = 1_767_225_600_000
PASSWORD = "correct horse battery"


def test_an_organization_is_found_by_id_and_by_name(db: Database) -> None:
    with db.write() as conn:
        made = accounts.create_organization(conn, NOW, " Acme 公司 ", "Billing@Acme.example")
        other = accounts.create_organization(conn, NOW + 1, made.id)  # a name that looks like another's id
        assert (made.name, made.billing_email) == ("Acme 公司", "billing@acme.example")
        assert accounts.get_organization(conn, made.id) == made
        assert accounts.get_organization(conn, "Acme 公司") == made
        assert accounts.list_organizations(conn) == [made, other]
        with pytest.raises(NotFound):
            accounts.get_organization(conn, "nobody")
        with pytest.raises(Conflict):
            accounts.create_organization(conn, NOW, "Acme 公司")


@pytest.mark.parametrize(
    ("name", "email"), [("", ""), ("  ", ""), ("a\nb", ""), ("x" * 201, ""), ("fine", "no-address")]
)
def test_a_name_that_is_none_is_a_bad_request(sqlite_db: Database, name: str, email: str) -> None:
    with pytest.raises(BadRequest), sqlite_db.write() as conn:
        accounts.create_organization(conn, NOW, name, email)


def test_suspending_and_resuming_can_be_repeated(db: Database) -> None:
    with db.write() as conn:
        org = accounts.create_organization(conn, NOW, "acme").id
        assert accounts.suspend(conn, NOW + 5, org).suspended_ms == NOW + 5
        assert accounts.suspend(conn, NOW + 9, "acme").suspended_ms == NOW + 5
        assert accounts.resume(conn, org).suspended_ms is None
        assert accounts.resume(conn, org) == accounts.get_organization(conn, org)


def test_a_member_signs_in_with_e_mail_and_password(db: Database) -> None:
    with db.write() as conn:
        org = accounts.create_organization(conn, NOW, "acme").id
        owner = accounts.create_member(conn, NOW, " Ann@Acme.example", PASSWORD, "owner", org)
        operator = accounts.create_member(conn, NOW, "op@shop.example", PASSWORD, "operator")
        assert accounts.authenticate(conn, "ANN@acme.example ", PASSWORD) == owner
        assert accounts.list_members(conn, org) == [owner]
        assert accounts.list_members(conn, None) == [operator]
        assert accounts.find_member(conn, "op@shop.example") == operator
        assert accounts.find_member(conn, "who@shop.example") is None
        messages = set()
        for email, password in (
            ("ann@acme.example", "wrong password"),
            ("who@acme.example", PASSWORD),
            ("", ""),
            ("\x00", "\x00"),
        ):
            with pytest.raises(Unauthorized) as refused:
                accounts.authenticate(conn, email, password)
            messages.add(str(refused.value))
        assert len(messages) == 1  # it does not say which of the two was wrong
        stored = conn.execute(sa.select(tables.member.c.password_hash)).scalars().all()
        assert all(one.startswith("$argon2id$") for one in stored)


@pytest.mark.parametrize(
    ("email", "password", "role", "in_organization"),
    [
        ("a@b.c", PASSWORD, "king", True),
        ("a@b.c", PASSWORD, "operator", True),
        ("a@b.c", PASSWORD, "owner", False),
        ("a@b.c", "short", "owner", True),
        ("no address", PASSWORD, "owner", True),
        ("a b@c.d", PASSWORD, "owner", True),
        ("@c.d", PASSWORD, "owner", True),
        ("a@b\n.c", PASSWORD, "owner", True),
    ],
)
def test_a_member_that_does_not_fit_is_a_bad_request(
    sqlite_db: Database, email: str, password: str, role: str, in_organization: bool
) -> None:
    with sqlite_db.write() as conn:
        org = accounts.create_organization(conn, NOW, "acme").id
        with pytest.raises(BadRequest):
            accounts.create_member(conn, NOW, email, password, role, org if in_organization else None)


def test_an_address_belongs_to_one_member(sqlite_db: Database) -> None:
    with sqlite_db.write() as conn:
        accounts.create_member(conn, NOW, "op@shop.example", PASSWORD, "operator")
        with pytest.raises(Conflict):
            accounts.create_member(conn, NOW, "OP@shop.example", PASSWORD, "operator")
        with pytest.raises(NotFound):
            accounts.create_member(conn, NOW, "x@shop.example", PASSWORD, "owner", "org_nope")


def test_a_session_lasts_its_hours_and_its_cookie_is_not_in_the_database(db: Database, pepper: bytes) -> None:
    with db.write() as conn:
        member = accounts.create_member(conn, NOW, "op@shop.example", PASSWORD, "operator")
        cookie = accounts.open_session(conn, NOW, member.id, 2, pepper)
        session = accounts.session_of(conn, NOW + 7_199_999, cookie, pepper)
        assert session is not None
        assert (session.member, session.expires_ms) == (member, NOW + 7_200_000)
        assert len(session.csrf) >= 32 and session.csrf != cookie
        assert accounts.session_of(conn, NOW + 7_200_000, cookie, pepper) is None
        assert accounts.session_of(conn, NOW, cookie, b"another pepper") is None
        for wrong in ("", cookie[:-1], "x" * 5000, "\x00", "é"):
            assert accounts.session_of(conn, NOW, wrong, pepper) is None
        row = conn.execute(sa.select(tables.session)).one()
        assert cookie not in str(row)


def test_signing_out_a_new_password_and_time_end_sessions(db: Database, pepper: bytes) -> None:
    with db.write() as conn:
        member = accounts.create_member(conn, NOW, "op@shop.example", PASSWORD, "operator")
        first, second = (accounts.open_session(conn, NOW, member.id, 1, pepper) for _ in range(2))
        accounts.close_session(conn, first, pepper)
        assert accounts.session_of(conn, NOW, first, pepper) is None
        assert accounts.session_of(conn, NOW, second, pepper) is not None
        accounts.set_password(conn, member.id, "another good password")
        assert accounts.session_of(conn, NOW, second, pepper) is None
        assert accounts.authenticate(conn, "op@shop.example", "another good password") == member
        with pytest.raises(NotFound):
            accounts.set_password(conn, "mem_nope", PASSWORD)
        accounts.open_session(conn, NOW, member.id, 1, pepper)
        accounts.open_session(conn, NOW + 3_600_000, member.id, 1, pepper)
        assert conn.execute(sa.select(sa.func.count()).select_from(tables.session)).scalar() == 1
