"""The default engine: llama.cpp (inside xllamacpp) on a GGUF package, in a process of its own.

The process (`python -m tollway.serve.engines.llama_cpp`, see `__main__`) is llama.cpp's own HTTP server on a private
unix socket, so that on the way of a token there is no Python. This module knows how to start it and what it can do; it
does not import the engine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tollway.serve.engines import child
from tollway.serve.engines.machine import cpu_threads
from tollway.serve.engines.port import Address, Caps, Launch, Probe

MODULE = "tollway.serve.engines.llama_cpp"


class Spec(child.Spec, frozen=True, kw_only=True):
    """Everything the process needs to know."""

    weights: str
    kind: Literal["chat", "embedding"]
    threads: int
    slots: int
    context_tokens: int
    batch_tokens: int
    cache_ram_mib: int = 256
    adapters: tuple[str, ...] = ()  # LoRA weights; a call names one by its place, else none is applied


class LlamaCpp:
    """A GGUF file on llama.cpp.

    `context_tokens` is what all slots together hold (one unified cache); a single call may use all of it, up to what
    the model was made for. `threads=0`: the CPU quota less one, for two spinning threads on two busy cores collapse.
    `batch_tokens` bounds one step: a long prompt is read in steps of 128 tokens (fewer for large models), between which
    other calls get their tokens and a caller who left is noticed. Measured: same prefill speed as 2048, but 1.1 s
    instead of 16 s of silence.
    """

    name = "llama_cpp"
    pulse = "/lora-adapters"  # /health and /metrics are answered beside the inference loop, this one by it

    def __init__(
        self,
        weights: Path,
        model: str,
        *,
        version: str = "",
        kind: Literal["chat", "embedding"] = "chat",
        model_context_tokens: int = 0,
        vocabulary: int = 0,
        embedding_dimensions: int = 0,
        has_chat_template: bool = True,
        template_has_tools: bool = False,
        slots: int = 8,
        context_tokens: int = 32_768,
        threads: int = 0,
        adapters: Sequence[Path] = (),
    ) -> None:
        self._adapters = tuple(str(path.absolute()) for path in adapters)
        self.model = model
        self.version = version
        self._weights = weights
        self._kind = kind
        self._threads = threads or cpu_threads()
        own = model_context_tokens or context_tokens
        embedding = kind == "embedding"
        # an encoder reads each text whole in one step; it keeps no cache, so all slots may be full at once
        self._context_tokens = own * slots if embedding else max(512, context_tokens)
        self._batch_tokens = own if embedding else _step_tokens(weights)
        self.caps = Caps(
            chat=not embedding and has_chat_template,
            completions=not embedding,
            embeddings=embedding,
            one_by_one=embedding,
            json_schema=not embedding,
            tools=not embedding and template_has_tools,
            logprobs=not embedding,
            logit_bias=not embedding,
            seed=not embedding,
            cancel=not embedding,
            tokenize=True,
            token_timings=not embedding,
            slots=slots,
            context_tokens=min(own, self._context_tokens),
            vocabulary=vocabulary,
            cache_tokens=0 if embedding else self._context_tokens,
            embedding_dimensions=embedding_dimensions,
        )
        self.probe = (
            Probe(path="/embeddings", body={"model": model, "input": ["."]})
            if embedding
            else Probe(
                path="/completions",
                body={"model": model, "prompt": ".", "max_tokens": 1, "cache_prompt": False},
                cost=1,
            )
        )

    def __repr__(self) -> str:
        return f"LlamaCpp({self.model}@{self.version})"

    def launch(self, socket: Path) -> Launch:
        spec = Spec(
            weights=str(self._weights.absolute()),
            socket=str(socket),
            model=self.model,
            kind=self._kind,
            threads=self._threads,
            slots=self.caps.slots,
            context_tokens=self._context_tokens,
            batch_tokens=self._batch_tokens,
            adapters=self._adapters,
            # A prompt kept beside the slots is found by its tokens alone: what one adapter made of it is not another's. Who
            # embeds does not go on where a text ended.
            cache_ram_mib=0 if self._adapters or self._kind == "embedding" else 256,
        )
        return child.launch(MODULE, spec)

    def address(self, socket: Path) -> Address:
        return Address(url=f"unix:{socket}")


def _step_tokens(weights: Path) -> int:
    """Tokens read in one step: a step's time grows with the model, and must stay far below the pulse's patience."""
    try:
        size_bytes = weights.stat().st_size
    except OSError:
        size_bytes = 0  # loading it will say what is wrong
    return 128 if size_bytes < 1 << 30 else 64 if size_bytes < 3 << 30 else 32
