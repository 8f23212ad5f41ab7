"""`/v1/responses`: the basic Responses API on top of chat, in one piece or as its own kind of events."""

from contextlib import aclosing
from typing import Any

import msgspec

from tollway.faces.http import call_headers
from tollway.faces.http import response_words as words
from tollway.faces.http.policy import Door
from tollway.faces.http.response_words import ResponsesRequest
from tollway.faces.http.wire import (
    EVENTS,
    Departure,
    Headers,
    Receive,
    Scope,
    Send,
    decode,
    read_body,
    send_json,
    timeout_of,
)
from tollway.flows.answer import answer_stream, answer_whole, open_call
from tollway.flows.call import Call
from tollway.flows.gateway import Gateway
from tollway.kit.crash import crashpoint
from tollway.kit.delays import Delays
from tollway.kit.errors import TollwayError
from tollway.sell.access import Caller
from tollway.serve.requests import StreamOptions

_NO_BUFFERING = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def doors(gateway: Gateway) -> list[Door]:
    """The door of `/v1/responses`."""
    return [Door("POST", "/v1/responses", "inference", Responses(gateway).respond)]


class Responses:
    """Answers `/v1/responses`."""

    def __init__(self, gateway: Gateway) -> None:
        self._service, self._limit = gateway.service, gateway.shop.settings.body_bytes_max
        self._departures = Delays(Departure.AFTER_S)
        self._decoder = msgspec.json.Decoder(ResponsesRequest)

    async def respond(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, call_id: str, headers: Headers
    ) -> int:
        """POST /v1/responses."""
        asked: ResponsesRequest = decode(self._decoder, await read_body(scope, receive, self._limit))
        request = words.as_chat(asked)
        if asked.stream:
            request.stream_options = StreamOptions(include_usage=True)
        call = await open_call(self._service, caller, request, call_id, timeout_s=timeout_of(scope))
        headers += self._service.access.rate_headers(caller)
        async with Departure(receive, self._departures) as departure:
            if asked.stream:
                await self._stream(asked, call, send, headers)
            else:
                chat = msgspec.json.decode(await answer_whole(call))
                shown = words.answered(asked, call.id, call.at_ms // 1000, chat)
                await send_json(send, 200, msgspec.json.encode(shown), headers + call_headers.of(call))
            crashpoint("answer.after_last_byte")
        return 499 if departure.gone else 200

    async def _stream(self, asked: ResponsesRequest, call: Call, send: Send, headers: Headers) -> None:
        """The engine's first event decides the status: until then an error is an ordinary error answer."""
        telling = Telling(asked, call.id, call.at_ms // 1000)
        async with aclosing(answer_stream(call)) as groups:
            first = await anext(groups)
            headers = [EVENTS, *_NO_BUFFERING, *headers, *call_headers.of(call)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                await _say(send, [*telling.begun(), *telling.told(first)])
                async for group in groups:
                    await _say(send, telling.told(group))
                await _say(send, telling.ended())
            except TollwayError as error:
                await _say(send, telling.broken(error))
            await send({"type": "http.response.body", "body": b""})


async def _say(send: Send, events: list[dict[str, Any]]) -> None:
    body = b"".join(
        [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event)) for event in events]
    )
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


class Telling:
    """A chat's chunks told as a response's events: items open, grow and close, one after the other; at the end stands the whole."""

    def __init__(self, asked: ResponsesRequest, call_id: str, at_s: int) -> None:
        self._id = call_id
        self._head = words.head(asked, call_id, at_s)
        self._output: list[dict[str, Any]] = []
        self._text: list[str] | None = None  # of the message, while it is the open item
        self._calls: dict[int, dict[str, Any]] = {}  # chat's number of a call -> the call as far as it came
        self._places: dict[int, int] = {}  # chat's number of a call -> its place in the output
        self._calling: int | None = None  # chat's number of the call that is the open item
        self._reason: str | None = None
        self._usage: Any = None
        self._number = -1

    def begun(self) -> list[dict[str, Any]]:
        """The opening."""
        return [
            self._event("response.created", response=self._head),
            self._event("response.in_progress", response=self._head),
        ]

    def told(self, group: list[bytes]) -> list[dict[str, Any]]:
        """The events that some chunks become."""
        events: list[dict[str, Any]] = []
        for piece in group:
            if piece == b"[DONE]":
                continue
            chunk = msgspec.json.decode(piece)
            self._usage = chunk.get("usage") or self._usage
            for choice in chunk.get("choices") or ():
                self._reason = choice.get("finish_reason") or self._reason
                delta = choice.get("delta") or {}
                if delta.get("content"):
                    events += self._said(delta["content"])
                for call in delta.get("tool_calls") or ():
                    events += self._called(call)
        return events

    def ended(self) -> list[dict[str, Any]]:
        """What closes the last item, and the whole. What was cut off is the last item: those before it are whole."""
        events = [] if self._output else self._open_message()
        events += self._close(words.end_status(self._reason))
        whole = words.finished(self._head, self._output, self._reason, self._usage)
        return [*events, self._event(f"response.{whole['status']}", response=whole)]

    def broken(self, error: TollwayError) -> list[dict[str, Any]]:
        """The answer broke off."""
        return [self._event("error", code=error.code, message=str(error), param=error.param)]

    def _said(self, text: str) -> list[dict[str, Any]]:
        events = self._open_message() if self._text is None else []
        assert self._text is not None
        self._text.append(text)
        return [*events, self._event("response.output_text.delta", **self._where(), delta=text, logprobs=[])]

    def _called(self, call: dict[str, Any]) -> list[dict[str, Any]]:
        index, function = int(call.get("index", 0)), call.get("function") or {}
        events: list[dict[str, Any]] = []
        if index not in self._calls:
            events += self._close("completed")
            self._calls[index] = {"id": call.get("id"), "function": {"name": function.get("name", ""), "arguments": ""}}
            self._calling, self._places[index] = index, len(self._output)
            events += self._opened(words.call_item(self._id, index, self._calls[index], "in_progress"))
        piece = function.get("arguments") or ""
        if piece:
            self._calls[index]["function"]["arguments"] += piece
            where = {"item_id": f"fc_{self._id}_{index}", "output_index": self._places[index]}
            events.append(self._event("response.function_call_arguments.delta", **where, delta=piece))
        return events

    def _open_message(self) -> list[dict[str, Any]]:
        events, self._text = self._close("completed"), []
        events += self._opened(words.message_item(self._id, len(self._output), "", "in_progress"))
        return [*events, self._event("response.content_part.added", **self._where(), part=words.text_part(""))]

    def _opened(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        self._output.append(item)
        return [self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)]

    def _where(self) -> dict[str, Any]:
        """The only part of the open message."""
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1, "content_index": 0}

    def _close(self, status: str) -> list[dict[str, Any]]:
        """The end of the open item, if there is one: it is the last of the output."""
        place = len(self._output) - 1
        if self._text is not None:
            text, where, self._text = "".join(self._text), self._where(), None
            item = words.message_item(self._id, place, text, status)
            events = [
                self._event("response.output_text.done", **where, text=text, logprobs=[]),
                self._event("response.content_part.done", **where, part=words.text_part(text)),
            ]
        elif self._calling is not None:
            item = words.call_item(self._id, self._calling, self._calls[self._calling], status)
            where, self._calling = {"item_id": item["id"], "output_index": place}, None
            said = {"name": item["name"], "arguments": item["arguments"]}
            events = [self._event("response.function_call_arguments.done", **where, **said)]
        else:
            return []
        self._output[place] = item
        return [*events, self._event("response.output_item.done", output_index=place, item=item)]

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}
