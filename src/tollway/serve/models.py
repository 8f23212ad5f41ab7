"""Which models are on offer: the name a buyer calls, and the package version or upstream that answers it."""

from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
import sqlalchemy as sa

from tollway.artifacts.manifest import Kind as Kind  # one list for packages and for what is on offer
from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.kit.said import say
from tollway.serve import deployments, tables

EngineName = Literal["llama_cpp", "openvino_genai", "onnx", "openvino", "litert", "torch", "speech", "upstream"]


UPSTREAM_KINDS: Final = (
    "chat", "embedding", "classification", "rerank", "moderation", "image-generation", "transcription", "speech",
)  # fmt: skip
"""What somebody else's server can answer for us."""


class Upstream(msgspec.Struct, frozen=True):
    """An OpenAI-compatible server that answers for us. `key_env` names the variable that holds its key; `more` are further
    addresses of the same: calls go to whichever is least busy and well. `costs`: what it charges us, in micros per million
    units of a meter."""

    url: str
    model: str
    key_env: str = ""
    more: tuple[str, ...] = ()
    costs: tuple[tuple[str, int], ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses."""
        return (self.url, *self.more)


def without_secrets(url: str) -> str:
    """An address as it may be shown: without a name, a password and a query, where people put keys."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Serving(msgspec.Struct, frozen=True):
    """How one model is served on this machine, where that is not what the settings say. `wait_s`: how long calls may wait on
    average before another replica is started. `pinned`: it stays loaded. `limit_micros_per_hour`: what its replicas may
    cost; 0: no limit."""

    replicas_min: int | None = None
    replicas_max: int | None = None
    idle_s: float | None = None
    wait_s: float | None = None
    pinned: bool = False
    limit_micros_per_hour: int = 0


class Model(msgspec.Struct, frozen=True):
    """A model on offer. `version` is a package version, or "upstream"; `chosen_engine`: see `deployments.Deployment`. With
    `base` it is an adapter, served by the base's replica, for the organization `org_id` alone."""

    name: str
    kind: Kind
    title: str
    engine: EngineName
    version: str
    upstream: Upstream | None
    created_ms: int
    retired_ms: int | None = None
    org_id: str = ""
    base: str = ""
    package: str = ""
    serving: Serving = Serving()
    chosen_engine: str = ""

    @property
    def package_name(self) -> str:
        """The name of its package on the shelf."""
        return self.package or self.name


def offer_package(
    conn: sa.Connection,
    now_ms: int,
    name: str,
    kind: Kind,
    version: str,
    title: str = "",
    engine: EngineName = "llama_cpp",
    chosen_engine: str = "",
) -> Model:
    """Put a package version behind a name; an existing name moves to this version."""
    model = Model(name, kind, title or name, engine, version, None, now_ms, chosen_engine=chosen_engine)
    return _offer(conn, model)


def offer_adapter(
    conn: sa.Connection, now_ms: int, name: str, base: str, package: str, version: str, org_id: str, title: str = ""
) -> Model:
    """Put an adapter behind a name that only one organization can call."""
    model = Model(name, "chat", title or name, "llama_cpp", version, None, now_ms, None, org_id, base, package)
    return _offer(conn, model)


def offer_upstream(
    conn: sa.Connection, now_ms: int, name: str, kind: Kind, upstream: Upstream, title: str = ""
) -> Model:
    """Put an upstream behind a name. Raises BadRequest for a URL that is none."""
    for url in upstream.urls:
        if not url.startswith(("http://", "https://")):
            raise BadRequest(f"{url!r} is not an http(s) URL.", hint="Give the base URL up to and including /v1.")
    return _offer(conn, Model(name, kind, title or name, "upstream", "upstream", upstream, now_ms))


def list_models(conn: sa.Connection, *, retired: bool = False) -> list[Model]:
    """The models on offer by name; with `retired`, those withdrawn too."""
    query = sa.select(tables.model).order_by(tables.model.c.name)
    if not retired:
        query = query.where(tables.model.c.retired_ms.is_(None))
    return [_as_model(row) for row in conn.execute(query)]


def get_model(conn: sa.Connection, name: str) -> Model:
    """One model on offer. Raises NotFound."""
    row = conn.execute(
        sa.select(tables.model).where(tables.model.c.name == name, tables.model.c.retired_ms.is_(None))
    ).first()
    if row is None:
        raise NotFound(
            say("model.unknown", "There is no model {name!r} on offer.", name=name),
            code="model_not_found",
            hint=say("model.list", "`tollway model list` shows them."),
        )
    return _as_model(row)


def retire_model(conn: sa.Connection, now_ms: int, name: str) -> Model:
    """Withdraw a model from sale. Its packages and usage stay. Raises NotFound."""
    model = get_model(conn, name)
    conn.execute(tables.model.update().where(tables.model.c.name == name).values(retired_ms=now_ms))
    deployments.withdrawn(conn, now_ms, name)
    return model


def offer_adapter_again(conn: sa.Connection, name: str) -> Model | None:
    """Put an adapter that was withdrawn on offer to its organization again; None for anything else. Raises NotFound when its
    base is not on offer."""
    model = next((one for one in list_models(conn, retired=True) if one.name == name), None)
    if model is None or not model.base or model.retired_ms is None:
        return None
    get_model(conn, model.base)
    conn.execute(tables.model.update().where(tables.model.c.name == name).values(retired_ms=None))
    return get_model(conn, name)


def set_serving(conn: sa.Connection, name: str, serving: Serving) -> Model:
    """Serve a model this way from now on. Raises NotFound, BadRequest."""
    least, most = serving.replicas_min, serving.replicas_max
    if (least is not None and least < 0) or (most is not None and most < max(1, least or 0)):
        raise BadRequest(
            f"{least} to {most} replicas cannot be had.", hint="At most one or more, at least no more than that."
        )
    if min(serving.idle_s or 0, serving.wait_s or 0, serving.limit_micros_per_hour) < 0:
        raise BadRequest("Times and costs are not below zero.")
    get_model(conn, name)
    conn.execute(tables.model.update().where(tables.model.c.name == name).values(serving=msgspec.to_builtins(serving)))
    return get_model(conn, name)


def _offer(conn: sa.Connection, model: Model) -> Model:
    deployments.alone(conn, model.name)
    row = msgspec.to_builtins(model)
    del row["serving"]  # it goes with the name, whatever the version
    found = conn.execute(sa.select(tables.model).where(tables.model.c.name == model.name)).first()
    if found is None:
        conn.execute(tables.model.insert().values(row))
    elif found.org_id != model.org_id:
        raise Conflict(f"{model.name!r} belongs to somebody else.", hint="Choose another name for it.")
    elif found.kind != model.kind:
        raise Conflict(f"{model.name!r} is on offer as a {found.kind} model.", hint="Choose another name for it.")
    else:
        conn.execute(tables.model.update().where(tables.model.c.name == model.name).values(row))
    if not model.base:  # an adapter lives with its base
        deployments.moved(conn, model.created_ms, model.name, model.version, model.engine, model.chosen_engine)
    return model


def _as_model(row: sa.Row[tuple[object, ...]]) -> Model:
    found = {name: row._mapping[name] for name in Model.__struct_fields__}
    return msgspec.convert(found | {"serving": found["serving"] or {}}, Model)
