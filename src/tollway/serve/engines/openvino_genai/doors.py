"""What the replica answers: chats and completions in OpenAI's words, whole or streamed, and how many tokens a text has."""

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import msgspec

from tollway.kit.errors import BadRequest, NotFound, Unavailable
from tollway.serve.engines.openvino_genai import Spec
from tollway.serve.engines.openvino_genai.forms import schema_of
from tollway.serve.engines.openvino_genai.steps import Call, Steps, Wish
from tollway.serve.engines.openvino_genai.words import Text, Words

_DONE: Final = b"data: [DONE]\n\n"


class Ask(msgspec.Struct, kw_only=True):
    """A body; the gateway has checked it. What is left out is what llama.cpp would take: a model may move between engines."""

    model: str = ""
    messages: list[Any] | None = None
    prompt: str | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    timings_per_token: bool = False
    max_tokens: int | None = None
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    response_format: dict[str, Any] | None = None
    content: str = ""  # of /tokenize
    add_special: bool = False


_decode = msgspec.json.Decoder(Ask).decode


class Doors:
    """Answers by path."""

    def __init__(self, spec: Spec, words: Words, steps: Steps) -> None:
        self._spec, self._words, self._steps = spec, words, steps

    async def __call__(self, method: str, path: str, body: bytes) -> bytes | AsyncIterator[bytes]:
        if method == "GET" and path == "/health":
            return b'{"status":"ok"}'  # between two steps: the engine came back from the last
        if method != "POST" or path not in ("/apply-template", "/tokenize", "/v1/chat/completions", "/v1/completions"):
            raise NotFound(f"There is no {method} {path[:80]!r} here.", code="unknown_url")
        try:
            ask = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"The body is not valid: {str(error)[:200]}.", code="invalid_json") from None
        if path == "/tokenize":
            return msgspec.json.encode({"tokens": self._words.ids(ask.content, special=ask.add_special)})
        if path == "/v1/completions":
            if ask.prompt is None:
                raise BadRequest("There is no prompt.", code="invalid_value", param="prompt")
            text = ask.prompt
        else:
            if not ask.messages:
                raise BadRequest("There are no messages.", code="invalid_value", param="messages")
            text = self._words.prompt(ask.messages)
            if path == "/apply-template":
                return msgspec.json.encode({"prompt": text})
        answer = _Answer(self._spec, self._words, self._steps, ask, text, chat=path == "/v1/chat/completions")
        return answer.stream() if ask.stream else await answer.whole()


class _Answer:
    """One answer being written."""

    def __init__(self, spec: Spec, words: Words, steps: Steps, ask: Ask, text: str, *, chat: bool) -> None:
        self._words, self._steps, self._ask, self._chat = words, steps, ask, chat
        self._ids = words.ids(text)
        if len(self._ids) >= spec.context_tokens or not self._ids:
            raise BadRequest(
                f"The prompt has {len(self._ids)} tokens; the context has {spec.context_tokens}.",
                code="context_length_exceeded" if self._ids else "invalid_value",
                param="messages" if chat else "prompt",
            )
        room = spec.context_tokens - len(self._ids)
        self._wish = _wish(ask, words, max(1, min(ask.max_tokens or room, room)))
        self._written = 0
        self._finish = "length"
        name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._head: dict[str, Any] = {
            "id": name,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": spec.model,
        }

    async def whole(self) -> bytes:
        """The answer in one piece."""
        async with aclosing(self._pieces()) as pieces:
            text = "".join([piece async for piece in pieces])
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self._finish}
        if self._chat:
            self._head["object"] = "chat.completion"
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return msgspec.json.encode(self._head | {"choices": [choice], "usage": self._usage()})

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The answer as events. Leaving stops it."""
        opening, ending = msgspec.json.encode(self._head)[:-1] + b',"choices":[{"index":0,', b',"finish_reason":null}]'
        before, after = (b'"delta":{"content":', b"}") if self._chat else (b'"text":', b"")
        first = b'"delta":{"role":"assistant","content":null}' if self._chat else b""
        async with aclosing(self._pieces()) as pieces:
            async for text in pieces:
                event = b"data: " + opening + before + msgspec.json.encode(text) + after + ending + self._timings()
                if first:
                    event = b"data: " + opening + first + ending + b"}\n\n" + event
                    first = b""
                yield event
        last: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        choice = {"index": 0, **last, "finish_reason": self._finish}
        end = b"data: " + msgspec.json.encode(self._head | {"choices": [choice]})[:-1] + self._timings()
        if (self._ask.stream_options or {}).get("include_usage"):
            end += b"data: " + msgspec.json.encode(self._head | {"choices": [], "usage": self._usage()}) + b"\n\n"
        yield end + _DONE

    async def _pieces(self) -> AsyncGenerator[str, None]:
        """What each step adds to the text: often a piece, sometimes nothing (half a character) that must still be counted."""
        stops = self._ask.stop or []
        text = Text(self._words, [stops] if isinstance(stops, str) else stops)
        call = self._steps.enter(self._ids, self._wish)
        try:
            while True:
                came = await call.pieces.get()
                if came.finish == "ignored":
                    raise Unavailable("The engine has no room for this call.", code="engine_busy", retry_after_s=2)
                shown = self._shown(came.tokens, text, over=came.finish is not None)
                yield shown
                if text.stopped or came.finish is not None:
                    self._finish = "stop" if text.stopped or came.finish == "stop" else "length"
                    return
        finally:
            self._leave(call)

    def _shown(self, tokens: list[int], text: Text, *, over: bool) -> str:
        shown = ""
        for token in tokens:
            self._written += 1
            if token not in self._wish.ends:
                shown += text.add(token)
            if text.stopped:
                return shown
        return shown + text.rest() if over else shown

    def _leave(self, call: Call) -> None:
        self._steps.leave(call)

    def _timings(self) -> bytes:
        """The count so far, where it is asked for, and the end of the event."""
        if not self._ask.timings_per_token:
            return b"}\n\n"
        return b',"timings":{"cache_n":0,"prompt_n":%d,"predicted_n":%d}}\n\n' % (len(self._ids), self._written)

    def _usage(self) -> dict[str, Any]:
        """What was used. The engine does not say how much of a prompt it still knew: all of it counts as read."""
        return {
            "prompt_tokens": len(self._ids),
            "completion_tokens": self._written,
            "total_tokens": len(self._ids) + self._written,
            "prompt_tokens_details": {"cached_tokens": 0},
        }


def _wish(ask: Ask, words: Words, most: int) -> Wish:
    return Wish(
        max_tokens=most,
        temperature=ask.temperature,
        top_p=ask.top_p if 0 < ask.top_p <= 1 else 1.0,
        top_k=ask.top_k,
        min_p=ask.min_p,
        frequency_penalty=ask.frequency_penalty,
        presence_penalty=ask.presence_penalty,
        seed=None if ask.seed is None else ask.seed % 2**32,
        ignore_eos=ask.ignore_eos,
        ends=words.ends,
        schema=schema_of(ask.response_format),
    )
