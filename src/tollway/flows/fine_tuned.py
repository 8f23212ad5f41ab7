"""A trained adapter, from the worker's file to a model that answers its owner: signed, shelved, offered, loaded; or withdrawn."""

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from tollway import __version__
from tollway.artifacts import store
from tollway.artifacts.manifest import Lineage
from tollway.flows.call import Service
from tollway.insight import economics
from tollway.kit import jobs
from tollway.kit.errors import Forbidden, NotFound, Unavailable
from tollway.kit.jobs import Job
from tollway.kit.said import say
from tollway.sell import fine_tuning, revision
from tollway.sell.fine_tuning import KIND, Order
from tollway.serve import models
from tollway.shop import Shop

_LOADED_WITHIN_S: Final = 120.0


class FineTuned:
    """The models that buyers had made."""

    def __init__(self, shop: Shop, service: Service) -> None:
        self._shop, self._service = shop, service

    async def offer(self, job: Job, order: Order, made: dict[str, Any]) -> str:
        """The name under which its owner can call it from now on."""
        account, now_ms = self._service.access.account(job.org_id), self._shop.clock.now_ms()
        name = fine_tuning.name_of(order.base, account.name, order.suffix or "model", job.id)
        package = await asyncio.to_thread(self._shelve, job, order, made, name)

        def offer(conn: sa.Connection) -> Job:
            version = package.manifest.version
            models.offer_adapter(conn, now_ms, name, order.base, package.manifest.name, version, job.org_id)
            revision.touch(conn)
            jobs.tell(conn, now_ms, job.id, say("tuning.loading", "The model is being loaded."))
            return jobs.further(conn, job.id, model=name, trained_tokens=order.tokens_max)

        await self._service.recorder.run(offer)
        return name

    async def answers(self, name: str, org_id: str) -> bool:
        """Whether it answers, after a while at most."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LOADED_WITHIN_S
        while loop.time() < deadline:
            with contextlib.suppress(NotFound, Unavailable):
                if self._service.fleet.find(name, org_id).ready:
                    return True
            await asyncio.sleep(0.1)
        return False

    def _shelve(self, job: Job, order: Order, made: dict[str, Any], name: str) -> store.ModelPackage:
        folder = Path(self._shop.settings.home) / "fine_tuning" / job.id / "package"
        folder.mkdir(exist_ok=True)
        price = economics.machine_price(self._shop.settings)
        seconds = float(made["seconds"])
        about = store.About(
            kind="adapter",
            task="chat",
            title=name,
            architecture="lora",
            parameters=int(made["figures"].get("parameters", 0)),
            metrics={key: value for key, value in made["training"].items() if isinstance(value, int | float)},
            parity={key: value for key, value in made["figures"].items() if isinstance(value, int | float)},
            lineage=Lineage(
                parent=f"{order.base}@{order.base_version}",
                recipe="fine-tuning",
                recipe_digest="sha256:" + hashlib.sha256(str(made["recipe"]).encode()).hexdigest(),
                run=job.id,
                code_version=__version__,
                training_ms=round(seconds * 1000),
                training_cost_micros=round(seconds / 3600 * price.micros_per_hour),
                cost_currency=price.currency,
                datasets={order.training_file: str(made["digest"])},
            ),
        )
        shelf_name = job.id.replace("_", "-")
        return self._shop.store.add_package(shelf_name, folder, about, files={"adapter.gguf": Path(made["adapter"])})


def delete(shop: Shop, org_id: str, name: str) -> None:
    """An organization wants a model of its own no more: it leaves the offer and its base's engine; its usage and its package
    stay. Raises NotFound, also for another's, and Forbidden for what is not an organization's own."""
    with shop.db.write() as conn:
        found = next((one for one in models.list_models(conn) if one.name == name and one.org_id in ("", org_id)), None)
        if found is None:
            raise no_model(name)
        if not found.org_id:
            raise Forbidden(
                f"The model {name!r} is not yours to delete.",
                code="model_not_yours",
                param="model",
                hint="A model that your own fine-tuning job made can be deleted.",
            )
        models.retire_model(conn, shop.clock.now_ms(), name)
        revision.touch(conn)


def no_model(name: str) -> NotFound:
    """For an organization it does not exist, whoever else has it."""
    return NotFound(
        f"There is no model {name[:120]!r}.", code="model_not_found", param="model", hint="GET /v1/models lists them."
    )


def withdrawn(conn: sa.Connection, now_ms: int, job_id: str) -> dict[str, Any]:
    """A job that does not succeed leaves no model on offer that nobody paid for; its package stays on the shelf."""
    found = jobs.get(conn, KIND, job_id)
    name = fine_tuning.made_of(found).model if found.open else None
    if name is None:
        return {}
    with contextlib.suppress(NotFound):
        models.retire_model(conn, now_ms, name)
    revision.touch(conn)
    return {"model": None, "trained_tokens": None}
