"""Is it still the same model? A GGUF file run by the engine is held against the net it was made from.

Tokens of sixteen texts must be identical. Then the engine writes greedily after some prompts; the net reads the same tokens
and says at every step what it would have chosen (agreement) and how likely it finds the engine's likelier alternatives
(difference of log-probabilities, where either gives at least one per cent).
"""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tollway.forge.convert.gguf_tokenizer import refusal
from tollway.forge.convert.sentence_encoder import PARITY_TEXTS

# precision -> (least agreement, largest mean difference of log-probabilities). A wrong conversion agrees in a tenth of the
# steps. SmolLM2 gives 0.99/0.002 at f32, 0.95/0.1 at q8_0 (the engine also rounds activations), 0.64/1.1 at q4_0.
BARS: Final = {
    "f32": (0.97, 0.02), "f16": (0.97, 0.03), "bf16": (0.90, 0.10), "q8_0": (0.85, 0.30), "q5_1": (0.70, 1.0),
    "q4_1": (0.50, 1.5), "q4_0": (0.40, 2.0), "q4_k_m": (0.60, 1.0),
}  # fmt: skip
_SEEN: Final = math.log(0.01)
_NEAR: Final = 0.05  # nats: the engine's choice counts as the net's own when the net finds it as good as its first
_CHILD_WALL_S: Final = 600


@dataclass(frozen=True)
class Parity:
    """How near the engine is to the net."""

    steps: int
    agreement: float
    mean_difference: float
    max_difference: float
    texts: int

    def figures(self) -> dict[str, float | int]:
        return {
            "agreement": round(self.agreement, 4), "mean_difference": round(self.mean_difference, 6),
            "max_difference": round(self.max_difference, 6), "steps": self.steps, "token_texts": self.texts,
        }  # fmt: skip

    def require(self, precision: str, tolerance: float | None = None) -> None:
        """Raises BadRequest when it is another model."""
        least, most = BARS[precision]
        most = tolerance or most
        if self.agreement < least or not self.mean_difference <= most:
            raise refusal(
                f"as {precision} it differs from its source: the next token agrees in {self.agreement:.1%} of {self.steps} "
                f"steps (at least {least:.0%} is wanted), log-probabilities by {self.mean_difference:.3f} (at most {most})"
            )


def compare(
    net: Any, path: Path, prompts: Sequence[Sequence[int]], *, tokens: int = 16, adapter: Path | None = None
) -> Parity:
    """Run the file (with its adapter switched on, where one is given) and the net on the same prompts."""
    features = net.features
    orders: dict[str, Any] = {
        "path": str(path.absolute()),
        "texts": list(PARITY_TEXTS),
        "tokens": tokens,
        "prompts": [{"ids": list(ids), "scales": [1.0]} for ids in prompts],
        "adapters": [str(adapter.absolute())] if adapter is not None else [],
    }
    answer = run(orders)
    for text, engine in zip(PARITY_TEXTS, answer["texts"], strict=True):
        ours = features.ids(text)
        if engine != ours:
            raise refusal(f"the engine cuts {text[:30]!r} into {len(engine)} other tokens than the tokenizer ({len(ours)})")
    return _differences(net, prompts, answer["prompts"])


def run(orders: Mapping[str, Any]) -> dict[str, Any]:
    """The engine, in a process of its own."""
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "tollway.forge.convert.gguf_engine"],
            input=json.dumps(orders).encode(), capture_output=True, timeout=_CHILD_WALL_S, check=False,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(child.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        raise refusal(f"the engine cannot run {Path(str(orders['path'])).name}") from None
    return found


def _differences(net: Any, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[Mapping[str, Any]]]) -> Parity:
    import torch

    ends = _ends(net.features)  # the engine was told to go on
    steps = agreed = 0
    gaps: list[float] = []
    for prompt, made in zip(prompts, written, strict=True):
        ids = [*prompt, *(int(one["id"]) for one in made)]
        with torch.no_grad():
            likely = net.logits(torch.tensor([ids[:-1]]))[0, len(prompt) - 1 :].float().log_softmax(-1)
        for ours, theirs in zip(likely, made, strict=True):
            chosen = int(theirs["id"])
            open_ = ours.clone()
            open_[ends] = -math.inf
            steps += 1
            agreed += bool(open_.max() - ours[chosen] <= _NEAR)
            gaps += [
                abs(float(ours[number]) - value)
                for number, value in theirs["top"]
                if max(float(ours[number]), value) >= _SEEN and math.isfinite(value)
            ]
    if not steps:
        raise refusal("there is no prompt to hold it against")
    return Parity(steps, agreed / steps, math.fsum(gaps) / max(1, len(gaps)), max(gaps, default=0.0), len(PARITY_TEXTS))


def _ends(features: Any) -> list[int]:
    """The tokens at which the engine would have stopped."""
    names = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<end_of_turn>")
    found = {features.eos, features.document_end, *(features.tokenizer.token_to_id(name) for name in names)}
    return sorted(one for one in found if one is not None)
