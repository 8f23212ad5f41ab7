"""Language models as Nets: a decoder from scratch (`architecture = "llama"`), or a Llama-style base (`base = "smollm2"`).

The folder that is saved is a Hugging Face folder: config.json, model.safetensors, tokenizer.json, tokenizer_config.json.

    net.score(rows)                        # how likely rows are: [{"nll", "tokens", "right"}]; preferences: [{"margin"}]
    write(net, "Once upon a time", 40)     # what it would write
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from tollway.forge.models import folders, lm_decoder, lm_masked
from tollway.forge.models.lm_decoder import Decoding, Shape, Trunk
from tollway.forge.models.net import ModelSpec, Net
from tollway.inference import IGNORE
from tollway.inference.encoding import pad
from tollway.inference.language import LanguageFeatures
from tollway.kit.errors import BadRequest

TASKS: Final = ("language-modeling", "chat", "preference")
_BATCH_TOKENS: Final = 4096


class LanguageNet(Net, Decoding):
    """A decoder with its features. Arrays: input_ids, attention_mask (padding is at the end, so it is not needed)."""

    features: LanguageFeatures

    def __init__(self, spec: ModelSpec, features: LanguageFeatures, shape: Shape) -> None:
        super().__init__(spec, features)
        self.shape = shape
        self.model = Trunk(shape)
        self.lm_head = None if shape.tied else nn.Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        return {"logits": self.logits(arrays["input_ids"], arrays.get("segments"))}

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        """The mean over the tokens that are asked for."""
        total, count = self.nll(batch["input_ids"], batch["labels"], batch.get("segments"))
        return total / max(1, count), {}

    def layers(self) -> list[nn.Module]:
        return [self.model.embed_tokens, *self.model.layers]

    def save_weights(self, folder: Path) -> None:
        """What Hugging Face's tools expect beside the tokenizer, which the features write."""
        folders.write_weights(self, folder / folders.WEIGHTS)
        self.save_config(folder)

    def save_config(self, folder: Path) -> None:
        """config.json alone: an adapter's folder has no weights of its own."""
        features = self.features
        lm_decoder.write_config(self.shape, folder, bos=features.bos, eos=features.eos, pad=features.pad_id)

    @torch.no_grad()
    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """How likely rows are: the summed nll of their labels, how many, how many were the first guess.

        A preference has `margin`: how much likelier (in nats) the chosen answer is than the rejected one.
        """
        encoded = self.features.encode(rows)
        if encoded and "input_ids_b" in encoded[0]:
            sides = [self._scores([(one[f"input_ids{b}"], one[f"_labels{b}"]) for one in encoded]) for b in ("", "_b")]
            return [{"margin": two["nll"] - one["nll"]} for one, two in zip(*sides, strict=True)]
        return self._scores([(one["input_ids"], one["_labels"]) for one in encoded])

    def _scores(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, float]]:
        found = [{"nll": 0.0, "tokens": 0, "right": 0} for _ in rows]
        # a text longer than the context is read in windows, each on its own
        windows = [
            (number, ids[start : start + self.shape.context], labels[start : start + self.shape.context])
            for number, (ids, labels) in enumerate(rows)
            for start in range(0, max(1, len(ids)), self.shape.context)
        ]
        windows.sort(key=lambda one: len(one[1]))
        while windows:
            count = max(1, _BATCH_TOKENS // max(1, len(windows[-1][1])))
            part, windows = windows[-count:], windows[:-count]
            ids, labels = pad([one[1] for one in part], self.features.pad_id), pad([one[2] for one in part], IGNORE)
            nll, right = self.token_nll(torch.from_numpy(ids), torch.from_numpy(labels))
            for (number, *_), losses, hits, asked in zip(part, nll, right, labels != IGNORE, strict=True):
                found[number]["nll"] += float(losses.double().sum())
                found[number]["right"] += int(hits.sum())
                found[number]["tokens"] += int(asked.sum())
        return found


def create(spec: ModelSpec, features: Any) -> LanguageNet:
    """A decoder with fresh weights, drawn from torch's current seed."""
    options = spec.options
    shape = Shape(
        vocabulary=features.vocabulary_size, width=int(options["width"]), layers=int(options["layers"]),
        heads=int(options["heads"]), kv_heads=int(options["kv_heads"]), inner=int(options["inner"]),
        context=int(options["max_length"]), tied=bool(options["tied"]),
    )  # fmt: skip
    net = LanguageNet(spec, features, shape)
    net.initialise(int(torch.randint(2**31, ()).item()))
    return net


def create_from(spec: ModelSpec, features: Any, base: Path) -> Net:
    """A base as it is: Llama-style, or a BERT that goes on with masked words."""
    if lm_masked.is_masked(base):
        return lm_masked.create_from(spec, features, base)
    shape = lm_decoder.read_shape(base)
    # a tokenizer may know fewer tokens than the embedding has rows, never more
    if features.vocabulary_size > shape.vocabulary:
        raise BadRequest(f"The tokenizer of {base.name} has {features.vocabulary_size} tokens, its weights {shape.vocabulary}.")
    with torch.device("meta"):
        net = LanguageNet(spec, features, shape)
    net.to_empty(device="cpu")
    net.model.set_frequencies()
    lm_decoder.fill(net, lm_decoder.read_tensors(base), base.name)
    return net


def load(spec: ModelSpec, features: Any, folder: Path) -> Net:
    """What `save_weights` wrote."""
    return create_from(spec, features, folder)


@torch.no_grad()
def write(
    net: Any, prompt: str | Sequence[int], tokens: int = 48, *, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
) -> str:
    """What a language model goes on to write, up to `tokens` tokens or the end of the text. Temperature 0: the likeliest."""
    features, was = net.features, net.training
    ids = features.ids(prompt) if isinstance(prompt, str) else list(prompt)
    chance = torch.Generator().manual_seed(seed)
    past: list[list[Tensor]] = [[] for _ in range(net.shape.layers)]
    written: list[int] = []
    net.eval()
    try:
        step = torch.tensor([ids[-net.shape.context + 1 :]])
        room = net.shape.context - step.shape[1]
        while len(written) < min(tokens, room):
            chosen = pick(net.logits(step, past=past)[0, -1].float(), temperature, top_p, chance)
            if chosen in (features.eos, features.document_end):
                break
            written.append(chosen)
            step = torch.tensor([[chosen]])
    finally:
        net.train(was)
    return str(features.tokenizer.decode(written, skip_special_tokens=True))


def pick(logits: Tensor, temperature: float, top_p: float, chance: torch.Generator) -> int:
    """One token of a distribution: the likeliest, or drawn from the likeliest that together have `top_p`."""
    if temperature <= 0:
        return int(logits.argmax())
    shares, order = (logits / temperature).softmax(-1).sort(descending=True)
    shares = shares * (shares.cumsum(-1) - shares < top_p)
    return int(order[torch.multinomial(shares, 1, generator=chance)])
