"""How large a call may become, before it is begun: what is held for it, and how long it would take.

    sizing.at_once(request) or await sizing.exact(request)          what is held        sizing.rough(request)    about as much

Only an engine knows how many tokens a prompt has, or how long a recording plays: where it must be asked, a call waits for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from tollway.kit.errors import BadRequest, Unavailable
from tollway.kit.formats import ROWS
from tollway.kit.settings import Settings
from tollway.serve.engine_call import refusal_of
from tollway.serve.engines import COUNTED_AT_ONCE, Caps
from tollway.serve.engines.speech import decoding
from tollway.serve.line import Seat
from tollway.serve.models import Model
from tollway.serve.requests import (
    ChatRequest,
    CompletionRequest,
    Message,
    OnePiece,
    Request,
    TranscriptionRequest,
)
from tollway.serve.wire import Pool, WireError

_BYTES_PER_TOKEN_MOST = 64  # more never is a prompt that fits: not worth counting
_SILENT_S = 5.0  # a replica that has not counted by then may be on a node that went without closing its connections
_Told = TypeVar("_Told")


class Size(msgspec.Struct):
    """How large a call may become: what is held for it. `tokens_each`: of one of its `parts` engine calls; `units` of
    `meter` is what it uses besides tokens."""

    input_tokens: int
    output_tokens: int
    parts: int
    tokens_each: int
    meter: str = ""
    units: int = 0

    def counted(self) -> dict[str, int] | None:
        """What it uses of a meter that is not tokens, if any."""
        return {self.meter: self.units} if self.meter else None


def least(request: Request) -> Size:
    """What the smallest call of its kind takes, where `at_once` cannot tell more."""
    return Size(0, 0, 1, 1, "audio_seconds", 1) if isinstance(request, TranscriptionRequest) else Size(1, 1, 1, 2)


class Sizing:
    """For one version of a model. `seats`: of the replicas that can be asked now, the best first."""

    def __init__(self, model: Model, caps: Caps, settings: Settings, seats: Callable[[], list[Seat]]) -> None:
        self._model = model
        self._name = model.name
        self._caps = caps
        self._output_default: int = settings.output_tokens_default
        self._seconds_max: int = settings.audio_seconds_max
        self._seats = seats
        self._counting = asyncio.Semaphore(COUNTED_AT_ONCE)

    async def exact(self, request: Request) -> Size:
        """The most a call can take: input counted by the engine where it can, else bounded by its bytes. Raises BadRequest for
        a prompt longer than the model's context."""
        if isinstance(request, TranscriptionRequest):
            request.seconds = await self._measure(request)
        if not isinstance(request, ChatRequest | CompletionRequest):
            return self._size_of_inputs(request)
        if self._caps.context_tokens and request.input_bytes() > self._caps.context_tokens * _BYTES_PER_TOKEN_MOST:
            raise BadRequest(
                f"The prompt is longer than this model's context of {self._caps.context_tokens:,} tokens.",
                code="context_length_exceeded",
                param="messages" if isinstance(request, ChatRequest) else "prompt",
                hint="Shorten the prompt.",
            )
        return self._sized(request, await self._count(request))

    def rough(self, request: Request) -> int:
        """About as many tokens as `exact` will find, without asking the engine: enough to see that there is no time for it."""
        if isinstance(request, TranscriptionRequest):
            return 1  # its length is not known before it was decoded
        output = request.output_max if isinstance(request, ChatRequest | CompletionRequest) else None
        context = self._caps.context_tokens
        longest = context or self._output_default
        found = request.input_bytes() // 4 + min(output or self._output_default, longest)
        # What is longer than the context is refused as that, not for want of time. An encoder cuts each text.
        return min(found, context) if context and request.generates else found

    def at_once(self, request: Request) -> Size | None:
        """What `exact` would find, where the engine need not be asked; None where it must."""
        if not isinstance(request, ChatRequest | CompletionRequest):
            return None if isinstance(request, TranscriptionRequest) else self._size_of_inputs(request)
        return None if self._caps.tokenize or self._caps.context_tokens else self._sized(request, None)

    def _sized(self, request: ChatRequest | CompletionRequest, counts: list[int] | None) -> Size:
        exact = counts is not None
        prompts = counts if counts is not None else [request.input_bytes()]
        answers = request.answers if isinstance(request, CompletionRequest) else request.choices
        longest, context = max(prompts), self._caps.context_tokens
        each = request.output_max or self._output_default
        if context and exact:
            if longest >= context:
                raise BadRequest(
                    f"The prompt has {longest:,} tokens; this model's context is {context:,}, prompt and answer together.",
                    code="context_length_exceeded",
                    param="messages" if isinstance(request, ChatRequest) else "prompt",
                    hint="Shorten the prompt.",
                )
            each = min(each, context - longest)
        elif context:
            each = min(each, context)
        return Size(sum(prompts), each * answers, answers, longest + each)

    def _size_of_inputs(self, request: OnePiece) -> Size:
        """Tokens of texts are bounded by their bytes and by what the model reads of each; the rest is counted."""
        meter, units = request.counted(self._caps)
        if meter:
            return Size(0, 0, 1, max(1, units), meter, units)
        bound = request.input_bytes()
        if self._model.engine in ROWS and self._caps.context_tokens:
            bound = min(bound, request.count * self._caps.context_tokens)  # it cuts what is longer
        if self._model.kind == "translation":  # it writes at most twice what it read, and a few tokens more
            written = min(2 * bound + 16 * request.count, request.count * self._caps.context_tokens or bound)
            return Size(bound, written, 1, bound + written)
        return Size(bound, 0, 1, bound)

    async def _count(self, request: ChatRequest | CompletionRequest) -> list[int] | None:
        """Exact tokens of each prompt, in the engine's own words; None when it cannot say."""
        if not self._caps.tokenize:
            return None
        async with self._counting:
            return await self._asked(lambda seat: self._count_there(seat.pool, request))

    async def _asked(self, ask: Callable[[Seat], Awaitable[_Told]]) -> _Told | None:
        """What a replica says; where one is lost, or says nothing while another one could, that one is asked. None: nobody
        was there to answer."""
        seats = self._seats()
        for seat in seats:
            try:
                async with asyncio.timeout(None if seat is seats[-1] else _SILENT_S):
                    return await ask(seat)
            except (WireError, TimeoutError):
                continue
        return None

    async def _count_there(self, pool: Pool, request: ChatRequest | CompletionRequest) -> list[int] | None:
        if isinstance(request, CompletionRequest):
            texts = request.prompts
        else:
            body = {"messages": request.plain_messages()} | ({"tools": request.tools} if request.tools else {})
            reply = await pool.post("/apply-template", msgspec.json.encode(body))
            if reply.status != 200:
                # a template is a pure function of the messages: whatever it says is about them
                raise refusal_of(400 if reply.status == 500 else reply.status, reply.body)
            texts = [msgspec.json.decode(reply.body)["prompt"]]
        found = []
        for text in texts:
            asked = msgspec.json.encode({"content": text, "add_special": True, "parse_special": True})
            reply = await pool.post("/tokenize", asked)
            if reply.status != 200:
                return None
            found.append(len(_tokens(reply.body).tokens))
        return found

    async def _measure(self, request: TranscriptionRequest) -> int:
        """How many seconds a recording has, begun ones whole. Raises BadRequest for what is none. What an upstream will be
        asked to hear is measured here: it says how long it was afterwards, if at all."""
        if self._model.engine == "upstream":
            return await decoding.length_s(request.recording, self._seconds_max)
        if not self._seats():
            raise Unavailable(f"The model {self._name!r} is not ready.", code="model_unavailable")
        call = request.measuring()
        reply = await self._asked(lambda seat: seat.pool.post(seat.prefix + call.path, call.body))
        if reply is None:
            raise Unavailable("The engine could not read the recording.", code="engine_failed")
        if reply.status != 200:
            raise refusal_of(reply.status, reply.body)
        return max(1, int(msgspec.json.decode(reply.body)["seconds"]))

    async def tokens_of(self, messages: list[dict[str, str]]) -> int:
        """Tokens of a whole conversation in the model's own template. Raises Unavailable while it cannot be counted."""
        plain = [Message(role=one["role"], content=one["content"]) for one in messages]  # type: ignore[arg-type]
        found = await self._count(ChatRequest(model=self._name, messages=plain))
        if found is None:
            raise Unavailable(f"The model {self._name!r} cannot count tokens now.", code="model_unavailable")
        return found[0]


class _Tokenized(msgspec.Struct):
    tokens: list[int]


_tokens = msgspec.json.Decoder(_Tokenized).decode
