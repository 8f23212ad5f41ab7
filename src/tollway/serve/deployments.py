"""Which versions of a model are in service, in which role, and with what share of the calls; and which ones were.

A model on offer names one version: that is `stable`. Beside it other versions may be in service:

    canary   takes `share` percent of the calls, its answers go to callers
    shadow   gets copies of calls, its answers go to nobody
    warm     loaded and idle, so that going back to it is instant

Every change is a row of the table `deployment` that ends with a reason: a model's history, and its way back. Of each role
one at most is running. Nothing here decides anything; `flows/release.py` acts, `flows/rollout_verdict.py` judges.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from tollway.kit.errors import NotFound
from tollway.kit.ids import new_id
from tollway.kit.said import Said, coded, say
from tollway.serve import tables

Role = Literal["stable", "canary", "shadow", "warm"]
State = Literal["running", "promoted", "rolled_back", "ended"]
_WHY_MAX: Final = 1000
_NAMES: Final = 0x7011D  # the class of PostgreSQL's advisory locks for names on offer


class Deployment(msgspec.Struct, frozen=True):
    """One version in service under a model's name. `share`: percent of the calls, for a canary or a shadow. `engine`: what
    serves this version, where it is not what serves the stable one. `chosen_engine`: the engine chosen for it by name, for as
    long as it is in service; "": as it was measured where it runs, else as its manifest says."""

    model: str
    version: str
    role: Role
    share: int
    began_ms: int
    engine: str = ""
    chosen_engine: str = ""


class Record(Deployment, frozen=True, kw_only=True):
    """A deployment as it is kept: with its policy, its end and what was measured."""

    id: str
    policy: dict[str, Any]
    state: State
    ready_ms: int | None
    ended_ms: int | None
    why: str
    figures: dict[str, Any]
    said: dict[str, Any] | None = None  # why, as code and figures

    @property
    def running(self) -> bool:
        """Whether it is in service."""
        return self.state == "running"


def begin(
    conn: sa.Connection,
    now_ms: int,
    model: str,
    version: str,
    role: Role,
    *,
    share: int = 0,
    policy: Mapping[str, Any] | None = None,
    engine: str = "",
    chosen_engine: str = "",
    why: str = "",
) -> Record:
    """Put a version into service; what had the role before ends."""
    before = running(conn, model).get(role)
    if before is not None:
        taken = say("rollout.place_taken", "version {version} took its place as {role}", version=version, role=role)
        if before.version == version and before.chosen_engine != chosen_engine:
            taken = _other_engine(chosen_engine)
        end(conn, now_ms, before, "ended", taken)
    made = Record(
        model=model, version=version, role=role, share=share, began_ms=now_ms, engine=engine, chosen_engine=chosen_engine,
        id=_next_id(conn, now_ms, model), policy=dict(policy or {}), state="running", ready_ms=None, ended_ms=None,
        why=str(why)[:_WHY_MAX], figures={}, said=coded(why),
    )  # fmt: skip
    conn.execute(tables.deployment.insert().values(**msgspec.structs.asdict(made)))
    return made


def reshape(conn: sa.Connection, one: Record, share: int, policy: Mapping[str, Any]) -> Record:
    """Another share and policy for what is in service; what was measured of it stays."""
    _set(conn, one.id, share=share, policy=dict(policy))
    return msgspec.structs.replace(one, share=share, policy=dict(policy))


def end(conn: sa.Connection, now_ms: int, one: Record, state: State, why: str) -> None:
    """Take it out of service, with the reason."""
    _set(conn, one.id, state=state, ended_ms=now_ms, why=str(why)[:_WHY_MAX], said=coded(why))


def note_ready(conn: sa.Connection, now_ms: int, id_: str) -> None:
    """It can answer."""
    _set(conn, id_, ready_ms=now_ms, why="", said=None)


def note_figures(conn: sa.Connection, id_: str, figures: Mapping[str, Any], why: str) -> None:
    """What was measured so far, and what that says."""
    _set(conn, id_, figures=dict(figures), why=str(why)[:_WHY_MAX], said=coded(why))


def alone(conn: sa.Connection, model: str) -> None:
    """Nobody else changes what is in service under this name before this transaction ends. Comes before anything is read: of two
    operators (or an operator and a rollout's own decision) the second sees what the first has done."""
    if conn.dialect.name == "postgresql":  # a name that was never on offer has no row to lock
        place = sa.func.hashtext(sa.func.concat(sa.func.current_schema(), "/", model))
        conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_NAMES, place)))
    conn.execute(sa.select(tables.model.c.name).where(tables.model.c.name == model).with_for_update())


def running(conn: sa.Connection, model: str) -> dict[Role, Record]:
    """What is in service under a model's name, by role."""
    row = tables.deployment.c
    query = sa.select(tables.deployment).where(row.model == model, row.state == "running").order_by(row.id)
    return {one.role: one for one in map(_as_record, conn.execute(query))}


def all_running(conn: sa.Connection) -> list[Record]:
    """What is in service under all names."""
    row = tables.deployment.c
    query = sa.select(tables.deployment).where(row.state == "running").order_by(row.model, row.id)
    return [_as_record(found) for found in conn.execute(query)]


def history(conn: sa.Connection, model: str, limit: int = 100) -> list[Record]:
    """All deployments of a model, the newest first."""
    row = tables.deployment.c
    query = sa.select(tables.deployment).where(row.model == model).order_by(row.id.desc()).limit(limit)
    return [_as_record(found) for found in conn.execute(query)]


def get(conn: sa.Connection, id_: str, *, to_change: bool = False) -> Record:
    """One deployment; `to_change`: nobody else changes it before this transaction ends. Raises NotFound."""
    query = sa.select(tables.deployment).where(tables.deployment.c.id == id_)
    found = conn.execute(query.with_for_update() if to_change else query).first()
    if found is None:
        raise NotFound(f"There is no deployment {id_[:60]!r}.", code="deployment_not_found")
    return _as_record(found)


def version_before(conn: sa.Connection, model: str) -> Record | None:
    """The version that callers got before the one they get now, or the same one on another engine. What was taken back is
    forgotten, so that going back twice goes further back and not forth again."""
    row = tables.deployment.c
    query = sa.select(tables.deployment).where(row.model == model, row.role == "stable").order_by(row.id)
    path: list[Record] = []
    taken_back = False
    for one in map(_as_record, conn.execute(query)):
        if taken_back:
            path.pop()
        if not path or _what(path[-1]) != _what(one):
            path.append(one)
        taken_back = one.state == "rolled_back"
    return path[-2] if len(path) > 1 else None


def chosen_for(in_service: Mapping[Role, Record], version: str) -> str:
    """The engine that a version in service has by name: what goes on in another role goes on with it."""
    return next((one.chosen_engine for one in in_service.values() if one.version == version), "")


def moved(conn: sa.Connection, now_ms: int, model: str, version: str, engine: str, chosen_engine: str = "") -> Record:
    """A model's name points at this version on this engine from now on: the stable one before ends, and whatever stands
    beside the new one for nothing (it became stable itself)."""
    now = running(conn, model)
    stable = now.get("stable")
    for role, one in now.items():
        if role != "stable" and one.version == version:
            as_it_is = one.chosen_engine == chosen_engine
            words = say("rollout.became_stable", "it became the stable version") if as_it_is else _other_engine(chosen_engine)
            end(conn, now_ms, one, "promoted" if role == "canary" and as_it_is else "ended", words)
    if stable is not None and (stable.version, stable.chosen_engine) == (version, chosen_engine):
        return stable
    return begin(conn, now_ms, model, version, "stable", engine=engine, chosen_engine=chosen_engine)


def withdrawn(conn: sa.Connection, now_ms: int, model: str) -> None:
    """Nothing is in service under this name any more."""
    for one in running(conn, model).values():
        end(conn, now_ms, one, "ended", say("rollout.retired", "the model was retired"))


def _other_engine(chosen: str) -> Said:
    """Why a version left its role to itself on another engine."""
    if chosen:
        return say("rollout.other_engine", "{engine} took its place", engine=chosen)
    return say("rollout.measured", "what was measured of it, or its manifest, says how it is served")


def _what(one: Record) -> tuple[str, str]:
    """What callers get: a version, on the engine that was chosen for it by name."""
    return one.version, one.chosen_engine


def _next_id(conn: sa.Connection, now_ms: int, model: str) -> str:
    """An id after all others of the model: the order of ids is its history, also within one millisecond."""
    row = tables.deployment.c
    same = conn.execute(sa.select(sa.func.count()).where(row.model == model, row.began_ms >= now_ms)).scalar_one()
    return new_id("dep", now_ms + int(same))


def _set(conn: sa.Connection, id_: str, **values: Any) -> None:
    conn.execute(tables.deployment.update().where(tables.deployment.c.id == id_).values(**values))


def _as_record(row: Any) -> Record:
    return msgspec.convert({name: row._mapping[name] for name in Record.__struct_fields__}, Record)
