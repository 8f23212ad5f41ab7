"""The buyers and the people: organizations, members, console sessions. For the console, the CLI and first start.

Operators belong to no organization; owners and members belong to one. A session cookie is random and stored as an HMAC,
so that a stolen database opens no console. E-mail addresses are compared in lower case.
"""

import secrets
from typing import Literal, cast

import msgspec
import sqlalchemy as sa

from tollway.guard import keys, passwords
from tollway.kit.errors import BadRequest, Conflict, NotFound, Unauthorized
from tollway.kit.ids import new_id
from tollway.kit.said import say
from tollway.sell import revision, tables

Role = Literal["operator", "owner", "member"]
ROLES = ("operator", "owner", "member")


class Organization(msgspec.Struct, frozen=True):
    """A buyer's account."""

    id: str
    name: str
    billing_email: str
    created_ms: int
    suspended_ms: int | None


class Member(msgspec.Struct, frozen=True):
    """A person who signs in."""

    id: str
    org_id: str | None
    email: str
    role: Role
    created_ms: int


class Session(msgspec.Struct, frozen=True):
    """A signed-in browser. `csrf` must come back with every form."""

    member: Member
    csrf: str
    expires_ms: int


# -- organizations ---------------------------------------------------------------------------------------------------


def create_organization(conn: sa.Connection, now_ms: int, name: str, billing_email: str = "") -> Organization:
    """A new organization; its name is unique. Raises BadRequest or Conflict."""
    name = name.strip()
    if not 0 < len(name) <= 200 or not name.isprintable():
        raise BadRequest(
            say("org.name", "The name of an organization has 1 to 200 printable characters."), param="name"
        )
    if billing_email:
        billing_email = _checked_email(billing_email)
    if conn.execute(sa.select(tables.organization.c.id).where(tables.organization.c.name == name)).first():
        raise Conflict(
            say("org.exists", "There is already an organization {name!r}.", name=name),
            param="name",
            hint=say("another_name", "Choose another name."),
        )
    made = Organization(new_id("org", now_ms), name, billing_email, now_ms, None)
    conn.execute(tables.organization.insert().values(**msgspec.structs.asdict(made)))
    revision.touch(conn)
    return made


def list_organizations(conn: sa.Connection) -> list[Organization]:
    """All organizations, oldest first."""
    query = sa.select(tables.organization).order_by(tables.organization.c.created_ms, tables.organization.c.id)
    return [Organization(**row._mapping) for row in conn.execute(query)]


def get_organization(conn: sa.Connection, id_or_name: str) -> Organization:
    """An organization by its id or its name. Raises NotFound."""
    columns = tables.organization.c
    found = conn.execute(
        sa.select(tables.organization).where((columns.id == id_or_name) | (columns.name == id_or_name))
    ).all()
    if not found:
        raise NotFound(
            say("org.unknown", "There is no organization {name!r}.", name=id_or_name),
            code="organization_not_found",
            hint=say("org.list", "`tollway org list` shows all."),
        )
    by_id = [row for row in found if row.id == id_or_name]  # a name that looks like another's id must not shadow it
    return Organization(**(by_id or found)[0]._mapping)


def suspend(conn: sa.Connection, now_ms: int, id_or_name: str) -> Organization:
    """Refuse all calls of an organization until it is resumed. Nothing is deleted. Suspended already: no change."""
    return _set_suspended(conn, id_or_name, now_ms)


def resume(conn: sa.Connection, id_or_name: str) -> Organization:
    """Let a suspended organization call again."""
    return _set_suspended(conn, id_or_name, None)


def _set_suspended(conn: sa.Connection, id_or_name: str, suspended_ms: int | None) -> Organization:
    found = get_organization(conn, id_or_name)
    if (found.suspended_ms is None) == (suspended_ms is None):
        return found
    organization = tables.organization
    conn.execute(organization.update().where(organization.c.id == found.id).values(suspended_ms=suspended_ms))
    revision.touch(conn)
    return msgspec.structs.replace(found, suspended_ms=suspended_ms)


# -- members ---------------------------------------------------------------------------------------------------------


def create_member(
    conn: sa.Connection, now_ms: int, email: str, password: str, role: str, org_id: str | None = None
) -> Member:
    """A new person. Operators have no organization, owners and members must have one."""
    email = _checked_email(email)
    if role not in ROLES:
        raise BadRequest(f"{role!r} is not a role.", param="role", hint="Use one of " + ", ".join(ROLES) + ".")
    if (role == "operator") != (org_id is None):
        raise BadRequest("Operators belong to no organization; owners and members belong to one.", param="org_id")
    if org_id is not None:
        org_id = get_organization(conn, org_id).id
    if _member_row(conn, email) is not None:
        raise Conflict(
            say("member.exists", "There is already a member {email}.", email=email),
            param="email",
            hint=say("member.other_address", "Sign in, or use another address."),
        )
    made = Member(new_id("mem", now_ms), org_id, email, cast(Role, role), now_ms)
    hashed = passwords.hash_password(password)
    conn.execute(tables.member.insert().values(**msgspec.structs.asdict(made), password_hash=hashed))
    return made


def authenticate(conn: sa.Connection, email: str, password: str) -> Member:
    """The member with this e-mail and password. Raises Unauthorized, after the same time whichever of them is wrong."""
    row = _member_row(conn, email.strip().lower())
    if not passwords.verify_password(password, None if row is None else row.password_hash) or row is None:
        raise Unauthorized(
            "E-mail or password is wrong.", code="wrong_login", hint="An operator can set a new password."
        )
    return _member(row)


def set_password(conn: sa.Connection, member_id: str, password: str) -> None:
    """A new password; every session of the member ends."""
    hashed = passwords.hash_password(password)
    member, session = tables.member, tables.session
    if conn.execute(member.update().where(member.c.id == member_id).values(password_hash=hashed)).rowcount == 0:
        raise NotFound(f"There is no member {member_id!r}.", code="member_not_found")
    conn.execute(session.delete().where(session.c.member_id == member_id))


def list_members(conn: sa.Connection, org_id: str | None) -> list[Member]:
    """The members of an organization; with None the operators."""
    column = tables.member.c.org_id
    query = sa.select(tables.member).where(column.is_(None) if org_id is None else column == org_id)
    return [_member(row) for row in conn.execute(query.order_by(tables.member.c.created_ms, tables.member.c.id))]


def find_member(conn: sa.Connection, email: str) -> Member | None:
    """The member with this e-mail, or None."""
    row = _member_row(conn, email.strip().lower())
    return None if row is None else _member(row)


# -- sessions --------------------------------------------------------------------------------------------------------


def open_session(conn: sa.Connection, now_ms: int, member_id: str, hours: float, pepper: bytes) -> str:
    """Sign a browser in; returns the cookie's text, which is kept nowhere else. Sessions that ran out are cleared."""
    session = tables.session
    conn.execute(session.delete().where(session.c.expires_ms <= now_ms))
    cookie = secrets.token_urlsafe(32)
    conn.execute(
        session.insert().values(
            digest=keys.digest(cookie, pepper),
            member_id=member_id,
            csrf=secrets.token_urlsafe(32),
            created_ms=now_ms,
            expires_ms=now_ms + round(hours * 3_600_000),
        )
    )
    return cookie


def session_of(conn: sa.Connection, now_ms: int, cookie: str, pepper: bytes) -> Session | None:
    """Whose session this cookie is; None when it is unknown or has run out."""
    if not cookie or len(cookie) > 200:
        return None
    session, member = tables.session, tables.member
    query = (
        sa.select(member, session.c.csrf, session.c.expires_ms)
        .join(member, member.c.id == session.c.member_id)
        .where(session.c.digest == keys.digest(cookie, pepper), session.c.expires_ms > now_ms)
    )
    row = conn.execute(query).first()
    return None if row is None else Session(_member(row), row.csrf, row.expires_ms)


def close_session(conn: sa.Connection, cookie: str, pepper: bytes) -> None:
    """Sign the browser out."""
    session = tables.session
    conn.execute(session.delete().where(session.c.digest == keys.digest(cookie, pepper)))


def _checked_email(text: str) -> str:
    """The address in the form we keep. Only the shape is checked: whether it is read, only mail can tell."""
    email = text.strip().lower()
    name, _, domain = email.rpartition("@")
    if not name or not domain or len(email) > 320 or not email.isprintable() or any(one in email for one in ' ,;<>"'):
        raise BadRequest(say("email.bad", "{text!r} is not an e-mail address.", text=text), param="email")
    return email


def _member_row(conn: sa.Connection, email: str) -> sa.Row[tuple[object, ...]] | None:
    if not email.isprintable():  # nobody has such an address, and PostgreSQL would refuse a NUL with an error
        return None
    return conn.execute(sa.select(tables.member).where(tables.member.c.email == email)).first()


def _member(row: sa.Row[tuple[object, ...]]) -> Member:
    return Member(row.id, row.org_id, row.email, row.role, row.created_ms)
