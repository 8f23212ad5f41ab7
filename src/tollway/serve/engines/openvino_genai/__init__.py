"""The throughput engine for language models: OpenVINO GenAI's continuous batching, in a process of its own.

It answers several callers at once two to four times as fast as llama.cpp on a CPU, from weights in OpenVINO's format made
of the same model. The process (`python -m tollway.serve.engines.openvino_genai`, see `__main__`) speaks the same HTTP as
the other engines on a private unix socket. This module knows how to start it and what it can do; it does not import it.
"""

from pathlib import Path
from typing import Final

from tollway.serve.engines import child
from tollway.serve.engines.machine import cpu_threads
from tollway.serve.engines.port import Address, Caps, Launch, Probe

MODULE: Final = "tollway.serve.engines.openvino_genai"
BATCH_TOKENS: Final = 256  # of one step: a long prompt is read in pieces, between which the others get their tokens

PRECISIONS: Final = {
    "f32": {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "bf16"},
    "int8": {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32, "KV_CACHE_PRECISION": "f32"},
}
"""What is computed in, and what the cache holds: in full, in bf16, or with what flows through the net rounded to 8 bits too.
Never left to the engine: of its own accord it rounds activations and cache, and a small model then writes something else
(agreement 0.33 instead of 0.60), and with "f16" nonsense (0.00)."""


class Spec(child.Spec, frozen=True, kw_only=True):
    """Everything the process needs to know."""

    folder: str
    threads: int
    slots: int
    context_tokens: int  # of one call
    cache_tokens: int  # of all calls together
    batch_tokens: int
    precision: str  # one of PRECISIONS


class OpenVinoGenai:
    """A folder with a language model in OpenVINO's format (`forge.convert.openvino_lm` writes it).

    No adapters: the engine ignores the one a call names and answers with whichever was used last, another buyer's too.
    No alternatives' likelihoods, no biases: the engine does not give them. `precision` is tried by `tollway model tune`.
    """

    name = "openvino_genai"
    pulse = "/health"  # answered between two steps, so only while inference itself is alive

    def __init__(
        self,
        folder: Path,
        model: str,
        *,
        version: str = "",
        model_context_tokens: int = 0,
        has_chat_template: bool = True,
        slots: int = 8,
        context_tokens: int = 32_768,
        threads: int = 0,
        precision: str = "f32",
    ) -> None:
        self.model = model
        self.version = version
        self._folder = folder
        self._threads = threads or cpu_threads()
        self._precision = precision
        self._cache_tokens = max(512, context_tokens)
        self.caps = Caps(
            chat=has_chat_template,
            completions=True,
            json_schema=True,
            seed=True,
            cancel=True,
            tokenize=True,
            token_timings=True,
            slots=slots,
            context_tokens=min(model_context_tokens or context_tokens, self._cache_tokens),
            cache_tokens=self._cache_tokens,
        )
        self.probe = Probe(path="/completions", body={"model": model, "prompt": ".", "max_tokens": 1}, cost=1)

    def __repr__(self) -> str:
        return f"OpenVinoGenai({self.model}@{self.version})"

    def launch(self, socket: Path) -> Launch:
        spec = Spec(
            folder=str(self._folder.absolute()),
            socket=str(socket),
            model=self.model,
            threads=self._threads,
            slots=self.caps.slots,
            context_tokens=self.caps.context_tokens,
            cache_tokens=self._cache_tokens,
            batch_tokens=BATCH_TOKENS,
            precision=self._precision,
        )
        return child.launch(MODULE, spec)

    def address(self, socket: Path) -> Address:
        return Address(url=f"unix:{socket}")
