"""What the doors of all durable jobs share: a buyer lists its own, looks at one, asks for its end. For batches and fine-tuning."""

from collections.abc import Awaitable
from typing import Any, ClassVar, Protocol

import msgspec

from tollway.faces.http import templates
from tollway.faces.http.listing import listing, page_of, query_of, reading
from tollway.faces.http.wire import Headers, Receive, Scope, Send, read_body, send_json
from tollway.kit import jobs
from tollway.kit.jobs import Job
from tollway.sell.access import Caller
from tollway.shop import Shop


class Flow(Protocol):
    """Who works such jobs off."""

    def cancel(self, org_id: str, job_id: str) -> Awaitable[Job]:
        """Ask for the end of one. Raises NotFound, Conflict."""


class JobDoors:
    """Lists, shows and cancels jobs of one kind; `place` is where in a path the id of one stands."""

    kind: ClassVar[str]
    place: ClassVar[int]

    def __init__(self, shop: Shop, flow: Flow) -> None:
        self._shop, self._jobs = shop, flow

    def shown(self, job: Job) -> dict[str, Any]:
        """A job as buyers see it."""
        raise NotImplementedError

    async def list_(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """GET …, newest first."""
        limit, after = page_of(query_of(scope, {"limit", "after"}))
        org_id, kind = caller.account.org_id, self.kind
        found = await reading(self._shop, lambda conn: jobs.list_of(conn, kind, org_id, limit=limit + 1, after=after))
        await send_json(send, 200, listing([self.shown(job) for job in found], limit, None), headers)
        return 200

    async def show(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """GET …/{job}."""
        return await self.answer(send, await self.get(scope, caller), headers)

    async def cancel(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """POST …/{job}/cancel."""
        await read_body(scope, receive, self._shop.settings.body_bytes_max)
        return await self.answer(send, await self._jobs.cancel(caller.account.org_id, self._id_in(scope)), headers)

    async def get(self, scope: Scope, caller: Caller) -> Job:
        """The caller's job that a path names. Raises NotFound."""
        job_id, org_id = self._id_in(scope), caller.account.org_id
        return await reading(self._shop, lambda conn: jobs.get(conn, self.kind, job_id, org_id))

    async def answer(self, send: Send, job: Job, headers: Headers) -> int:
        """Answer with a job."""
        await send_json(send, 200, self.encoded(job), headers)
        return 200

    def encoded(self, job: Job) -> bytes:
        """A job as it is sent."""
        return msgspec.json.encode(self.shown(job))

    def _id_in(self, scope: Scope) -> str:
        return templates.name_in(scope["path"], self.place)
