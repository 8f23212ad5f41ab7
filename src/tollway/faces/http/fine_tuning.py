"""`/v1/fine_tuning/jobs`: a buyer's own model on the shared base, in OpenAI's shape."""

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollway.faces.http import once
from tollway.faces.http.job_doors import JobDoors
from tollway.faces.http.listing import Metadata, listing, page_of, query_of, reading
from tollway.faces.http.policy import Door
from tollway.faces.http.wire import Headers, Receive, Scope, Send, decode, read_body, send_json
from tollway.flows import fine_tuned
from tollway.flows.fine_tuning import Wish
from tollway.flows.gateway import Gateway
from tollway.kit import jobs
from tollway.kit.errors import BadRequest
from tollway.kit.jobs import Job
from tollway.sell import fine_tuning
from tollway.sell.access import Caller
from tollway.sell.fine_tuning import KIND
from tollway.serve.requests import Name


class Hyperparameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How to train; "auto" looks at the number of examples."""

    n_epochs: Annotated[int, Meta(ge=1, le=50)] | Literal["auto"] = "auto"
    batch_size: Annotated[int, Meta(ge=1, le=64)] | Literal["auto"] = "auto"
    learning_rate_multiplier: Annotated[float, Meta(gt=0, le=20)] | Literal["auto"] = "auto"


class Supervised(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The settings of the method."""

    hyperparameters: Hyperparameters = msgspec.field(default_factory=Hyperparameters)


class Method(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How to learn; supervised is what there is."""

    type: Literal["supervised"] = "supervised"
    supervised: Supervised = msgspec.field(default_factory=Supervised)


class FineTuningRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/fine_tuning/jobs."""

    model: Name
    training_file: Annotated[str, Meta(min_length=1, max_length=60)]
    validation_file: Annotated[str, Meta(min_length=1, max_length=60)] | None = None
    suffix: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]{0,39}$")] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    metadata: Metadata | None = None
    integrations: None = None


def doors(gateway: Gateway) -> list[Door]:
    """The doors of `/v1/fine_tuning/jobs`."""
    doors = Jobs(gateway)
    base = "/v1/fine_tuning/jobs"
    return [
        Door("POST", base, "inference", doors.create),
        Door("GET", base, "inference", doors.list_),
        Door("GET", base + "/{job}", "inference", doors.show),
        Door("POST", base + "/{job}/cancel", "inference", doors.cancel),
        Door("GET", base + "/{job}/events", "inference", doors.events),
        Door("GET", base + "/{job}/checkpoints", "inference", doors.checkpoints),
        Door("DELETE", "/v1/models/{model}", "inference", doors.delete_model),
    ]


class Jobs(JobDoors):
    """Answers `/v1/fine_tuning/jobs*`."""

    kind, place = KIND, 4

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway.shop, gateway.fine_tuning)
        self._flow, self._gateway = gateway.fine_tuning, gateway
        self._decoder = msgspec.json.Decoder(FineTuningRequest)

    def shown(self, job: Job) -> dict[str, Any]:
        return _shown(job)

    async def create(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """POST /v1/fine_tuning/jobs."""
        body = await read_body(scope, receive, self._shop.settings.body_bytes_max)
        asked: FineTuningRequest = decode(self._decoder, body)
        if asked.hyperparameters is not None and asked.method is not None:
            raise BadRequest(
                "Name the hyperparameters once: in `method`, or the older way beside it.",
                param="hyperparameters",
                code="invalid_value",
            )
        chosen = asked.method.supervised.hyperparameters if asked.method else asked.hyperparameters or Hyperparameters()
        wish = Wish(
            model=asked.model,
            training_file=asked.training_file,
            validation_file=asked.validation_file,
            suffix=asked.suffix or "",
            seed=asked.seed,
            metadata=asked.metadata or {},
            **msgspec.structs.asdict(chosen),
        )

        async def make(note: once.Note) -> bytes:
            return self.encoded(await self._flow.create(caller, wish, lambda conn, job: note(conn, self.encoded(job))))

        return await once.answer(self._shop, send, headers, once.asked_of(scope, caller, body), make)

    async def events(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """GET /v1/fine_tuning/jobs/{job}/events, newest first."""
        limit, after = page_of(query_of(scope, {"limit", "after"}))
        job = await self.get(scope, caller)
        found = await reading(self._shop, lambda conn: jobs.events(conn, job.id, limit + 1, after))
        shown = [
            {
                "object": "fine_tuning.job.event",
                "id": one.id,
                "created_at": one.at_ms // 1000,
                "level": one.level,
                "message": one.message,
                "type": one.kind,
                "data": one.data,
            }
            for one in found
        ]
        await send_json(send, 200, listing(shown, limit, None), headers)
        return 200

    async def checkpoints(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """GET /v1/fine_tuning/jobs/{job}/checkpoints: the finished model, with what it was measured at last."""
        limit, after = page_of(query_of(scope, {"limit", "after"}))
        job = await self.get(scope, caller)
        found = await reading(self._shop, lambda conn: jobs.events(conn, job.id, 1, kind="metrics"))
        last = found[0] if found else None
        shown = []
        if job.status == "succeeded" and last is not None:
            figures = {"step": last.data.get("step", 0), "train_loss": last.data.get("train_loss")}
            shown.append(
                {
                    "object": "fine_tuning.job.checkpoint",
                    "id": job.id.replace("ftjob", "ftckpt"),
                    "created_at": (job.finished_ms or job.created_ms) // 1000,
                    "fine_tuned_model_checkpoint": fine_tuning.made_of(job).model,
                    "fine_tuning_job_id": job.id,
                    "step_number": last.data.get("step", 0),
                    "metrics": figures,
                }
            )
        await send_json(send, 200, listing(shown, limit, after), headers)
        return 200

    async def delete_model(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """DELETE /v1/models/{model}: a model that a job of this organization made."""
        name = scope["path"].removeprefix("/v1/models/")
        if not self._gateway.service.access.may_use(caller, name):
            raise fine_tuned.no_model(name)
        await asyncio.to_thread(fine_tuned.delete, self._shop, caller.account.org_id, name)
        await self._gateway.refresh()
        await send_json(send, 200, msgspec.json.encode({"id": name, "object": "model", "deleted": True}), headers)
        return 200


def _shown(job: Job) -> dict[str, Any]:
    order, made = fine_tuning.order_of(job), fine_tuning.made_of(job)
    return {
        "object": "fine_tuning.job",
        "id": job.id,
        "created_at": job.created_ms // 1000,
        "finished_at": job.finished_ms // 1000 if job.finished_ms else None,
        "estimated_finish": None,
        "model": order.base,
        "fine_tuned_model": made.model if job.status == "succeeded" else None,
        "organization_id": job.org_id,
        "status": job.status,
        "training_file": order.training_file,
        "validation_file": order.validation_file,
        "result_files": [],
        "trained_tokens": made.trained_tokens if job.status != "running" else None,
        "hyperparameters": order.hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": order.hyperparameters}},
        "seed": order.seed,
        "suffix": order.suffix or None,
        "metadata": order.metadata,
        "integrations": [],
        "error": job.error,
    }
