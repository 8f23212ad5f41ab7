"""Chat and plain completions: what can be asked, and what the engine is sent for it."""

import re
from operator import attrgetter
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from tollway.kit.errors import BadRequest
from tollway.serve import schema_limits
from tollway.serve.engines import Caps
from tollway.serve.requests.parts import EngineCall, Name
from tollway.serve.requests.parts import unsupported as _unsupported

CHOICES_MAX = 8
PROMPTS_MAX = 64
SEEDS = 2**32 - 1  # engines take 32 bits, and the last number means "any": a caller's seed is folded into the others
_TOKEN_ID: Final = re.compile(r"[0-9]{1,9}")  # engines read 32 bits: a longer number would be another token's to them

Unit = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Tokens = Annotated[int, Meta(ge=1, le=10_000_000)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Choices = Annotated[int, Meta(ge=1, le=CHOICES_MAX)]
StopText = Annotated[str, Meta(min_length=1)]  # every text has an empty one at its beginning
Stop = StopText | Annotated[list[StopText], Meta(max_length=16)] | None


class Part(msgspec.Struct, omit_defaults=True):
    """One part of a message's content; only text parts can be answered here."""

    type: str
    text: str = ""


class CalledFunction(msgspec.Struct):
    """The function a model asked for."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct, tag_field="type", tag="function", kw_only=True):
    """One call of a tool, as an earlier answer of the model made it."""

    id: str = ""
    function: CalledFunction


class Message(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: dict[str, Any] | None = None
    reasoning_content: str | None = None


# What is passed on to the engine as it was said; read in one step for each call.
_SETTINGS = (
    "seed",
    "stop",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
)
_CHAT_SETTINGS = ("logprobs", "top_logprobs", "response_format", "tools", "tool_choice", "parallel_tool_calls",
                  "reasoning_effort", "verbosity")  # fmt: skip
_settings_of = attrgetter(*_SETTINGS)
_chat_settings_of = attrgetter(*_CHAT_SETTINGS)


class StreamOptions(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """How to stream."""

    include_usage: bool = False
    include_obfuscation: bool = False
    continuous_usage_stats: bool = False  # vLLM's word, which load clients use: the usage so far on every chunk


class Generation(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters that chat and plain completions share."""

    model: Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Choices | None = None
    stop: Stop = None
    seed: Seed | None = None
    max_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Unit | None = None
    top_k: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    min_p: Unit | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    # Accepted, and without effect on the answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None

    @property
    def choices(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    def settings(self, model: str, defaults: dict[str, Any], output_max: int) -> dict[str, Any]:
        """The part of the engine's body that says how to generate: the caller's word, else the model's own defaults."""
        said = {name: value for name, value in zip(_SETTINGS, _settings_of(self), strict=True) if value is not None}
        return defaults | said | {"model": model, "max_tokens": output_max}

    def refuse_unsupported(self, caps: Caps) -> None:
        """Raise BadRequest for the first parameter that this engine cannot honour."""
        if self.stream_options is not None and not self.stream:
            raise _unsupported("stream_options", "it only makes sense together with stream=true")
        if self.logit_bias:
            if not caps.logit_bias:
                raise _unsupported("logit_bias", "this engine does not offer it")
            _check_logit_bias(self.logit_bias, caps.vocabulary)


class ChatRequest(Generation, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=2048)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    operation = "chat"
    generates = True

    @property
    def output_max(self) -> int | None:
        """The caller's own bound on the answer."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def constrained(self) -> bool:
        """Whether a grammar in the engine holds the answer to a form."""
        return bool(self.tools) or (self.response_format or {}).get("type", "text") != "text"

    def input_bytes(self) -> int:
        """An upper bound on prompt tokens where the engine cannot count: no tokenizer makes more tokens than bytes."""
        total = 16 * len(self.messages) + (len(msgspec.json.encode(self.tools)) if self.tools else 0)
        for message in self.messages:
            total += _bytes_of(message)
        return total

    def refuse_unsupported(self, caps: Caps) -> None:
        super().refuse_unsupported(caps)
        if not caps.chat:
            raise _unsupported("model", "this model does not chat; GET /v1/models says what kind each is")
        for index, message in enumerate(self.messages):
            if message.audio is not None:
                raise _unsupported(f"messages[{index}].audio", "this model reads text only")
            if message.role == "function":
                raise _unsupported(f"messages[{index}].role", 'use role "tool"')
            if message.content is None and not message.tool_calls:
                raise _unsupported(f"messages[{index}].content", "it is empty")
            if isinstance(message.content, list) and any(part.type != "text" for part in message.content):
                raise _unsupported(f"messages[{index}].content", "this model reads text parts only")
        if (self.tools or self.tool_choice not in (None, "none", "auto")) and not caps.tools:
            raise _unsupported("tools", "the chat template of this model has no place for tools")
        if (self.logprobs or self.top_logprobs) and not caps.logprobs:
            raise _unsupported("logprobs", "this engine does not report them")
        if self.top_logprobs and not self.logprobs:
            raise _unsupported("top_logprobs", "it needs logprobs=true")
        if self.modalities not in (None, ["text"]):
            raise _unsupported("modalities", "this model answers in text only")
        for name in ("reasoning_effort", "verbosity"):
            if getattr(self, name) is not None and not caps.reasoning:
                raise _unsupported(name, "this model does not have it")
        _check_response_format(self.response_format, caps)
        for tool in self.tools or ():
            schema_limits.check(tool, "tools")

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        """One engine call for each choice."""
        body = self.settings(model, defaults, output_max)
        body["messages"] = self.plain_messages()
        for name, value in zip(_CHAT_SETTINGS, _chat_settings_of(self), strict=True):
            if value is not None:
                body[name] = value
        return _per_choice("/chat/completions", body, self.choices, caps, stream=stream)

    def plain_messages(self) -> list[Any]:
        """The messages as engines know them: `developer` is `system`, text parts are one text."""
        return [_plain(message) for message in self.messages]


class CompletionRequest(Generation, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    operation = "completion"
    generates = True
    constrained = False

    @property
    def output_max(self) -> int | None:
        """The caller's own bound on each answer."""
        return self.max_tokens

    @property
    def prompts(self) -> list[str]:
        """The prompts, one or many."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def answers(self) -> int:
        """Choices in the reply."""
        return self.choices * len(self.prompts)

    def input_bytes(self) -> int:
        """An upper bound on prompt tokens (see ChatRequest.input_bytes)."""
        return sum(len(prompt.encode()) + 2 for prompt in self.prompts)

    def refuse_unsupported(self, caps: Caps) -> None:
        super().refuse_unsupported(caps)
        if not caps.completions:
            raise _unsupported("model", "this model offers no plain completions")
        if not 1 <= len(self.prompts) <= PROMPTS_MAX or not all(isinstance(prompt, str) for prompt in self.prompts):
            raise _unsupported(
                "prompt", f"give a text or a list of 1 to {PROMPTS_MAX} texts; token ids are not accepted"
            )
        if self.answers > PROMPTS_MAX:
            raise _unsupported("n", f"prompts x n may be at most {PROMPTS_MAX}")
        for name in ("echo", "suffix"):
            if getattr(self, name):
                raise _unsupported(name, "this engine does not offer it")
        if self.best_of is not None and self.best_of != self.choices:
            raise _unsupported("best_of", "this engine does not offer it")
        if self.logprobs is not None and not caps.logprobs:
            raise _unsupported("logprobs", "this engine does not report them")

    def engine_calls(
        self, model: str, caps: Caps, output_max: int, *, stream: bool, defaults: dict[str, Any]
    ) -> list[EngineCall]:
        """One engine call for each prompt and choice."""
        body = self.settings(model, defaults, output_max)
        if self.logprobs is not None:
            body["logprobs"] = self.logprobs
        calls = []
        for prompt in self.prompts:
            calls += _per_choice("/completions", body | {"prompt": prompt}, self.choices, caps, stream=stream)
        return calls


def _per_choice(path: str, body: dict[str, Any], choices: int, caps: Caps, *, stream: bool) -> list[EngineCall]:
    """Engines count usage for one choice only, so each choice is a call of its own, with a seed of its own."""
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
        if caps.token_timings:
            body["timings_per_token"] = True
    seed = body.get("seed")
    if seed is None:
        return [EngineCall(path, msgspec.json.encode(body))] * choices
    seeds = [(seed + index) % SEEDS for index in range(choices)]
    return [EngineCall(path, msgspec.json.encode(body | {"seed": one})) for one in seeds]


def _plain(message: Message) -> Any:
    role = "system" if message.role == "developer" else message.role
    if role == message.role and not isinstance(message.content, list):
        return message
    content = "".join(part.text for part in message.content) if isinstance(message.content, list) else message.content
    return msgspec.structs.replace(message, role=role, content=content)


def _bytes_of(message: Message) -> int:
    content = message.content
    if isinstance(content, str):
        size = len(content.encode())
    else:
        size = sum(len(part.text.encode()) for part in content or ())
    return size + (len(msgspec.json.encode(message.tool_calls)) if message.tool_calls else 0)


def _check_logit_bias(biases: dict[str, float], vocabulary: int) -> None:
    """Each name must be a token's id: an engine passes over what is none of its own without a word."""
    for token in biases:
        if not _TOKEN_ID.fullmatch(token) or (vocabulary and int(token) >= vocabulary):
            known = f"the model has {vocabulary} tokens, with ids from 0 to {vocabulary - 1}"
            ids = known if vocabulary else "ids are whole numbers from 0"
            raise BadRequest(
                f"Invalid value for logit_bias: {token[:40]!r} is no token id of this model; {ids}.",
                param="logit_bias",
                code="invalid_value",
            )


def _check_response_format(response_format: dict[str, Any] | None, caps: Caps) -> None:
    if response_format is None:
        return
    kind = response_format.get("type")
    if kind == "text":
        return
    if kind not in ("json_object", "json_schema"):
        raise _unsupported("response_format.type", 'it must be "text", "json_object" or "json_schema"')
    if not caps.json_schema:
        raise _unsupported("response_format", "this engine has no grammar to enforce it")
    if kind == "json_schema":
        named = response_format.get("json_schema")
        if not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
            raise _unsupported("response_format.json_schema", 'it must be an object with a "schema" object')
        schema_limits.check(named["schema"], "response_format.json_schema")
