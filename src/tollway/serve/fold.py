"""Pieces into whole answers. Replicas are always asked to stream, so that a caller who leaves stops the generation at
once; a caller who asked for one JSON gets the stream folded here. Several choices are several engine calls, woven into
one answer: folded side by side, or streamed with their own index.
"""

from typing import Any

import msgspec

from tollway.serve.engine_call import invalid_answer
from tollway.serve.requests import ChatRequest, CompletionRequest


def _read(event: bytes) -> dict[str, Any]:
    """An event as an object. Raises Unavailable: an upstream may send anything."""
    try:
        found = msgspec.json.decode(event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    choices = found.get("choices") or [] if isinstance(found, dict) else None
    if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
        raise invalid_answer()
    return dict(found)


class Folded(msgspec.Struct):
    """One choice, assembled from its events."""

    text: list[str] = msgspec.field(default_factory=list)
    tool_calls: dict[int, dict[str, Any]] = msgspec.field(default_factory=dict)
    reasoning: list[str] = msgspec.field(default_factory=list)
    logprobs: list[Any] = msgspec.field(default_factory=list)
    finish_reason: str | None = None

    def add(self, event: bytes) -> None:
        """Take in one event of a chat or completion stream."""
        for choice in _read(event).get("choices") or ():
            delta = choice.get("delta") or {}
            self.text.append(delta.get("content") or choice.get("text") or "")
            self.reasoning.append(delta.get("reasoning_content") or "")
            for call in delta.get("tool_calls") or ():
                self._add_tool_call(call)
            self.logprobs += (choice.get("logprobs") or {}).get("content") or ()
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _add_tool_call(self, call: dict[str, Any]) -> None:
        held = self.tool_calls.setdefault(
            call.get("index", 0), {"type": "function", "function": {"name": "", "arguments": ""}}
        )
        if call.get("id"):
            held["id"] = call["id"]
        for name in ("name", "arguments"):
            held["function"][name] += (call.get("function") or {}).get(name) or ""

    def chat_choice(self, index: int, request: ChatRequest) -> dict[str, Any]:
        """This choice as chat/completions shows it."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.text), "refusal": None}
        if any(self.reasoning):
            message["reasoning_content"] = "".join(self.reasoning)
        if self.tool_calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = [self.tool_calls[number] for number in sorted(self.tool_calls)]
        shown = (
            {"content": [_without_id(entry) for entry in self.logprobs], "refusal": None} if request.logprobs else None
        )
        return {"index": index, "message": message, "logprobs": shown, "finish_reason": self.finish_reason or "stop"}

    def completion_choice(self, index: int, request: CompletionRequest) -> dict[str, Any]:
        """This choice as completions shows it."""
        shown = legacy_logprobs(self.logprobs, request.logprobs) if request.logprobs is not None else None
        return {
            "index": index,
            "text": "".join(self.text),
            "logprobs": shown,
            "finish_reason": self.finish_reason or "stop",
        }


def whole(
    request: ChatRequest | CompletionRequest, choices: list[Folded], call_id: str, created_s: int, usage: dict[str, Any]
) -> bytes:
    """The JSON of a whole answer."""
    if isinstance(request, ChatRequest):
        kind, prefix = "chat.completion", "chatcmpl"
        shown = [choice.chat_choice(index, request) for index, choice in enumerate(choices)]
    else:
        kind, prefix = "text_completion", "cmpl"
        shown = [choice.completion_choice(index, request) for index, choice in enumerate(choices)]
    return msgspec.json.encode(
        {
            "id": f"{prefix}-{call_id}",
            "object": kind,
            "created": created_s,
            "model": request.model,
            "choices": shown,
            "usage": usage,
        }
    )


class Weave:
    """Makes the events of several engine calls one stream: one id, one time, each choice with its index."""

    def __init__(self, call_id: str, created_s: int, request: ChatRequest | CompletionRequest) -> None:
        self._request = request
        self._chat = isinstance(request, ChatRequest)
        self._head = {"id": f"{'chatcmpl' if self._chat else 'cmpl'}-{call_id}", "created": created_s}
        self._written: dict[int, int] = {}  # characters of each choice so far

    def event(self, event: bytes, index: int) -> bytes:
        """One event of the engine call number `index`."""
        shown = _read(event) | self._head
        for choice in shown.get("choices") or ():
            choice["index"] = index
            if not self._chat and choice.get("logprobs"):
                entries, at = choice["logprobs"].get("content") or [], self._written.get(index, 0)
                choice["logprobs"] = legacy_logprobs(entries, self._request.logprobs, at)
                self._written[index] = at + sum(len(entry["token"]) for entry in entries)
        return msgspec.json.encode(shown)


def head_of(event: bytes) -> dict[str, Any]:
    """The id and time that an engine gave its stream; empty where it gave none."""
    shown = _read(event)
    return {name: shown[name] for name in ("id", "created") if name in shown}


def legacy_logprobs(entries: list[Any], top: int | bool | None, position: int = 0) -> dict[str, Any]:
    """Chat-style logprobs in the older shape of /v1/completions; `position`: characters written before them."""
    offsets = []
    for entry in entries:
        offsets.append(position)
        position += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [{alt["token"]: alt["logprob"] for alt in entry.get("top_logprobs", ())} for entry in entries]
        if top
        else None,
        "text_offset": offsets,
    }


def _without_id(entry: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's shape has no token ids."""
    shown = {name: value for name, value in entry.items() if name != "id"}
    if "top_logprobs" in shown:
        shown["top_logprobs"] = [_without_id(alternative) for alternative in shown["top_logprobs"]]
    return shown


class _Embeddings(msgspec.Struct):
    data: list[dict[str, msgspec.Raw]]
    model: str = ""


_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


def joined(parts: list[bytes], usage: dict[str, Any]) -> bytes:
    """Embeddings that were made in several calls, one after the other, as one answer; the vectors are not read. Raises
    Unavailable when a part is none."""
    data: list[dict[str, Any]] = []
    model = ""
    try:
        for part in parts:
            read = _decode_embeddings(part)
            model = read.model or model
            for one in read.data:
                data.append(one | {"index": len(data)})
    except msgspec.DecodeError as error:
        raise invalid_answer() from error
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})
