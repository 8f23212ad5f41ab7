"""`/admin/models/{name}/…`: versions in service, from programs: start a canary or a shadow, promote, go back, end."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import msgspec
from fastapi import Path
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from tollway.flows import release, unpriced, versions
from tollway.flows.rollout_verdict import policy_of
from tollway.serve import models
from tollway.shop import Shop

Name = Annotated[str, Path(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9_.:\-]+$")]


class NewDeployment(BaseModel):
    """A version to put into service. `policy`: see docs/deployments.md; what is left out has its default. `engine`: serve it
    on this one: onnx, openvino, litert, torch."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[^\x00/]+$")]
    role: Literal["stable", "canary", "shadow"] = "stable"
    share: Annotated[int, Field(ge=1, le=100)] = 10
    policy: dict[str, Any] = {}
    grace_s: Annotated[int, Field(ge=0, le=10**7)] = 0
    engine: Annotated[str, Field(max_length=20)] = ""


class Counter(Protocol):
    """Where routes are added (faces.http.admin.Counter)."""

    shop: Shop

    def route(self, method: str, path: str, summary: str) -> Callable[[Any], Any]:
        """Serve a function by this route, to operators only."""


def mount(counter: Counter) -> None:
    """Add the routes."""
    shop, route = counter.shop, counter.route

    def status(name: str) -> Response:
        return Response(msgspec.json.encode(versions.status(shop, name)), media_type="application/json")

    @route("GET", "/admin/models/{name}/deployments", "Its versions: in service, with figures, and before")
    def list_deployments(name: Name) -> Response:
        return status(name)

    @route(
        "POST", "/admin/models/{name}/deployments", "Put a version into service: for all calls, as canary, as shadow"
    )
    def deploy(name: Name, body: NewDeployment) -> Response:
        if body.role == "stable":
            release.deploy(shop, name, body.version, grace_s=body.grace_s, engine=body.engine)
        else:
            versions.start(shop, name, body.version, body.role, body.share, policy_of(body.policy), body.engine)
        with shop.db.read() as conn:
            missing = unpriced.warnings(conn, shop.store, models.get_model(conn, name)).rows
        told = msgspec.to_builtins(versions.status(shop, name)) | {"unpriced": missing}
        return Response(msgspec.json.encode(told), media_type="application/json")

    @route("POST", "/admin/models/{name}/promote", "Its canary answers all calls")
    def promote(name: Name) -> Response:
        versions.promote(shop, name)
        return status(name)

    @route("POST", "/admin/models/{name}/back", "The way back from the last step")
    def back(name: Name) -> Response:
        versions.back(shop, name)
        return status(name)

    @route("POST", "/admin/models/{name}/stop", "End what runs beside the stable version")
    def stop(name: Name) -> Response:
        versions.stop(shop, name)
        return status(name)
