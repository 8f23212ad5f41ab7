"""The engine itself: calls enter a batch, `run` steps it, tokens come out call by call."""

import asyncio
from typing import Any

import msgspec

from tollway.kit.errors import Unavailable
from tollway.serve.engines.openvino_genai import PRECISIONS, Spec

_TURNS = 6  # of the event loop between two steps: enough for a new connection to be heard and its call to enter
_BLOCK_TOKENS = 32  # the engine's unit of cache on a CPU


class Wish(msgspec.Struct, kw_only=True):
    """How to write: an engine's call without its prompt."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    seed: int | None = None
    ignore_eos: bool = False
    ends: tuple[int, ...] = ()  # tokens that end an answer
    schema: str = ""  # JSON schema that the answer is held to


class Piece(msgspec.Struct):
    """What a step brought for one call."""

    tokens: list[int]
    finish: str | None = None


class Call:
    """One call in the batch."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.pieces: asyncio.Queue[Piece] = asyncio.Queue()


class Steps:
    """`enter` a call, read its `pieces`, `leave` it; `run` never ends but by an error of the engine's."""

    def __init__(self, spec: Spec) -> None:
        import openvino_genai as genai

        self._genai = genai
        plan = genai.SchedulerConfig()
        plan.num_kv_blocks = -(-spec.cache_tokens // _BLOCK_TOKENS) + spec.slots
        plan.max_num_batched_tokens = spec.batch_tokens
        plan.max_num_seqs = spec.slots
        plan.dynamic_split_fuse = True
        plan.enable_prefix_caching = True
        self._pipe = genai.ContinuousBatchingPipeline(
            spec.folder,
            plan,
            "CPU",
            {"INFERENCE_NUM_THREADS": spec.threads, **PRECISIONS[spec.precision]},
        )
        self._tokenizer = self._pipe.get_tokenizer()
        self._calls: dict[int, Call] = {}
        self._number = 0
        self._more = asyncio.Event()

    def template(self, messages: list[dict[str, Any]]) -> str:
        """The conversation in the model's own words. Raises RuntimeError for one that the template refuses."""
        text: str = self._tokenizer.apply_chat_template(messages, True)
        return text

    def enter(self, ids: list[int], wish: Wish) -> Call:
        """Put a call into the batch."""
        import numpy
        import openvino

        self._number += 1
        prompt = openvino.Tensor(numpy.array([ids], numpy.int64))
        call = self._calls[self._number] = Call(self._pipe.add_request(self._number, prompt, self._config(wish)))
        self._more.set()
        return call

    def leave(self, call: Call) -> None:
        """Take it out, finished or not."""
        for number, one in list(self._calls.items()):
            if one is call:
                del self._calls[number]
                call.handle.cancel()

    async def run(self) -> None:
        """Step while there is work."""
        while True:
            if not self._pipe.has_non_finished_requests():
                self._more.clear()
                await self._more.wait()
            self._pipe.step()
            for number, call in list(self._calls.items()):
                if self._take(call):
                    del self._calls[number]
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    def _take(self, call: Call) -> bool:
        """Hand on what the step brought; whether the call is over."""
        status = self._genai.GenerationStatus
        finish = None
        while call.handle.can_read():
            for output in call.handle.read().values():
                reason = output.finish_reason.name
                finish = None if reason == "NONE" else reason.lower()
                call.pieces.put_nowait(Piece(output.generated_ids, finish))
        if finish is None and call.handle.get_status() not in (status.RUNNING, status.FINISHED):
            call.pieces.put_nowait(Piece([], "ignored"))  # it did not fit
            return True
        return finish is not None

    def _config(self, wish: Wish) -> Any:
        config = self._genai.GenerationConfig(
            max_new_tokens=wish.max_tokens,
            do_sample=wish.temperature > 0,
            ignore_eos=wish.ignore_eos,
            frequency_penalty=wish.frequency_penalty,
            presence_penalty=wish.presence_penalty,
        )
        if not wish.ignore_eos:
            config.stop_token_ids = set(wish.ends)
        if wish.temperature > 0:
            config.temperature, config.top_p, config.min_p = max(wish.temperature, 1e-3), wish.top_p, wish.min_p
            if wish.top_k:
                config.top_k = wish.top_k
            config.rng_seed = wish.seed if wish.seed is not None else _any_seed()
        if wish.schema:
            form = self._genai.StructuredOutputConfig()
            form.json_schema = wish.schema
            config.structured_output_config = form
        try:
            config.validate()
        except RuntimeError as error:
            raise Unavailable("The engine refused these settings.", code="engine_failed") from error
        return config


def _any_seed() -> int:
    import secrets

    return secrets.randbits(32)
