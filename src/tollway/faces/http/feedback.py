"""`/v1/feedback`: what a buyer thinks of an answer, and what it should have been."""

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tollway.faces.http.listing import listing, page_of, query_of, reading
from tollway.faces.http.policy import Door
from tollway.faces.http.wire import Headers, Receive, Scope, Send, decode, read_body, send_json
from tollway.flows.gateway import Gateway
from tollway.kit.errors import BadRequest
from tollway.sell import feedback
from tollway.sell.access import Caller

_RATINGS = {"good": 1, "bad": -1, "neutral": 0}
_WORDS = {number: word for word, number in _RATINGS.items()}
_BYTES_MAX = 64 * 1024


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/feedback. `id`: the answer's id, or its x-request-id."""

    id: Annotated[str, Meta(min_length=4, max_length=64)]
    rating: Literal["good", "bad", "neutral"] = "neutral"
    input: str | dict[str, Any] | list[dict[str, Any]] | None = None
    correction: str | float | None = None
    comment: Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00]*$")] = ""


def doors(gateway: Gateway) -> list[Door]:
    """The doors of `/v1/feedback`."""
    doors = Feedback(gateway)
    return [
        Door("POST", "/v1/feedback", "inference", doors.give),
        Door("GET", "/v1/feedback", "inference", doors.list_),
    ]


class Feedback:
    """Answers `/v1/feedback`."""

    def __init__(self, gateway: Gateway) -> None:
        self._shop = gateway.shop
        self._decoder = msgspec.json.Decoder(FeedbackRequest)

    async def give(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """POST /v1/feedback."""
        said: FeedbackRequest = decode(self._decoder, await read_body(scope, receive, _BYTES_MAX))
        if said.correction is not None and said.input is None:
            raise BadRequest(
                "A correction needs its input: the shop keeps no prompts.", param="input", code="missing_input"
            )
        org_id, key_id, now_ms = caller.account.org_id, caller.key.id, self._shop.clock.now_ms()

        def work() -> feedback.Feedback:
            with self._shop.db.write() as conn:
                return feedback.give(
                    conn, now_ms, org_id, key_id, said.id, _RATINGS[said.rating],
                    input=said.input, correction=said.correction, comment=said.comment,
                )  # fmt: skip

        made = await asyncio.to_thread(work)
        await send_json(send, 200, msgspec.json.encode(_shown(made)), headers)
        return 200

    async def list_(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """GET /v1/feedback, newest first."""
        limit, after = page_of(query_of(scope, {"limit", "after"}))
        org_id = caller.account.org_id
        found = await reading(self._shop, lambda conn: feedback.page_of(conn, org_id, limit + 1, after))
        await send_json(send, 200, listing([_shown(one) for one in found], limit, None), headers)
        return 200


def _shown(one: feedback.Feedback) -> dict[str, Any]:
    return {
        "object": "feedback",
        "id": one.id,
        "created_at": one.created_ms // 1000,
        "answer_id": one.event_id.replace("evt_", "req_"),
        "model": one.model,
        "model_version": one.model_version,
        "rating": _WORDS[one.rating],
        "input": one.input,
        "correction": one.correction,
        "comment": one.comment,
    }
