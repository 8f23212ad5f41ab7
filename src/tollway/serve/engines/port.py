"""What every engine has in common: the port that replicas and the fleet are written against."""

from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

COUNTED_AT_ONCE: Final = 64  # prompts that a replica is asked to count at the same time, beside the calls in its slots
_PARAMETERS: Final = {
    "json_schema": "response_format", "tools": "tools", "logprobs": "logprobs", "logit_bias": "logit_bias",
    "reasoning": "reasoning_effort", "seed": "seed",
}  # fmt: skip
"""What a caller writes to use an ability."""


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of a model on this engine. What is False here must be refused by name, never ignored."""

    chat: bool = False
    completions: bool = False
    embeddings: bool = False
    classify: bool = False  # POST /classify: classes, numbers, spans, ratings, pictures
    detect: bool = False  # POST /detect: objects in pictures
    explain: bool = False  # POST /explain
    explain_inside: bool = False  # also by methods that look inside the model
    rerank: bool = False  # POST /rerank: it reads a query and a document together
    moderations: bool = False  # POST /moderations
    recommendations: bool = False  # POST /classify with a user answers items
    images: bool = False  # POST /images/generations
    transcriptions: bool = False  # POST /audio/measure and /audio/transcriptions
    speech: bool = False  # POST /audio/speech
    image_size: int = 0  # of the pictures it makes, in pixels
    prompts: tuple[str, ...] = ()  # the words that choose what it makes
    voices: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()  # that it hears
    passes_through: bool = False  # somebody else's server: what it can do, it says itself
    input: str = "text"  # what one input of classify is: text, an image or a row of a table
    json_schema: bool = False  # response_format json_object and json_schema, enforced by a grammar
    tools: bool = False  # the chat template has a place for tools
    logprobs: bool = False
    logit_bias: bool = False
    reasoning: bool = False  # reasoning_effort, verbosity
    seed: bool = False
    cancel: bool = False  # leaving a stream stops the generation
    tokenize: bool = False  # exact prompt counts: POST /apply-template and /tokenize, without prefix
    token_timings: bool = False  # `timings_per_token` puts the engine's own counts on every chunk
    turns: bool = (
        False  # it reads `turn` in a body (whose call, how urgent), and POST /recall takes back what has not begun
    )
    one_by_one: bool = (
        False  # the inputs of a call are read one after the other: it gets a few at a time, others in between
    )
    slots: int = 1  # calls it works on at the same time; more wait inside, unseen: never send more
    context_tokens: int = 0  # the longest prompt + answer of one call; 0: not known
    vocabulary: int = 0  # tokens that it knows, with ids from 0; 0: not known
    cache_tokens: int = 0  # tokens all running calls together may hold; 0: not known
    embedding_dimensions: int = 0

    def lost_on(self, other: "Caps") -> tuple[str, ...]:
        """The parameters that calls may use here and that `other` refuses."""
        return tuple(
            param for ability, param in _PARAMETERS.items() if getattr(self, ability) and not getattr(other, ability)
        )


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where an engine answers: `unix:/path` or `http(s)://host:port`; `prefix` stands before OpenAI's paths."""

    url: str
    prefix: str = "/v1"
    key: str = ""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How to start an engine's process: the command, and what it reads as the first line of its standard input."""

    argv: tuple[str, ...]
    first_line: bytes


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A real, tiny inference: POST `body` to `path` (no prefix) and get 200. Without a body, where an inference costs money
    at somebody else's: GET `path`. `cost`: what it costs in the line's measure, where all seats together show by it how fast
    they are; 0: it is no measure."""

    path: str
    body: dict[str, Any]
    cost: float = 0.0


class Engine(Protocol):
    """One model on one engine."""

    @property
    def name(self) -> str:
        """Of the engine: `llama_cpp`, `upstream`."""
        ...

    @property
    def model(self) -> str:
        """What this engine calls the model in request bodies."""
        ...

    @property
    def version(self) -> str:
        """Which weights answer: a package version, or "upstream"."""
        ...

    @property
    def caps(self) -> Caps:
        """What it can do."""
        ...

    @property
    def probe(self) -> Probe:
        """The call that proves it works."""
        ...

    @property
    def pulse(self) -> str:
        """A path (no prefix) whose GET answers 200 only while inference itself is alive; cheap enough for every 2 s."""
        ...

    def launch(self, socket: Path) -> Launch | None:
        """How to start a process that will listen on `socket`. None: nothing to start."""
        ...

    def address(self, socket: Path) -> Address:
        """Where it will answer."""
        ...
