"""Encoders that learn from masked words and from which sentence follows: BERT's pre-training, from scratch or going on.

The folder is Hugging Face's `BertForPreTraining`, so it can be the `base` of a classifier afterwards.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models import folders
from tollway.forge.models.net import ModelSpec, Net
from tollway.inference import IGNORE
from tollway.kit.errors import BadRequest
from tollway.kit.quiet import no_chatter

_SHARE = 0.15  # of the words that `score` asks for
_ROWS = 32


class MaskedNet(Net):
    """`bert` and `cls` are those of BertForPreTraining. Arrays: input_ids, attention_mask, [token_type_ids]."""

    def __init__(self, spec: ModelSpec, features: Any, hf: Any) -> None:
        super().__init__(spec, features)
        self.bert, self.cls = hf.bert, hf.cls
        self.config = hf.config

    def states(self, arrays: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of every token, and of the text as a whole."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        made = self.bert(**{name: arrays[name] for name in names if name in arrays})
        return made.last_hidden_state, made.pooler_output

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        hidden, pooled = self.states(arrays)
        words, follows = self.cls(hidden, pooled)
        return {"logits": words, "follows": follows}

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the hidden words, and, where `next` is given, of whether the second text follows the first."""
        hidden, pooled = self.states(batch)
        asked = batch["labels"] != IGNORE
        words = self.cls.predictions(hidden[asked]).float()
        wanted = batch["labels"][asked].long()
        # a batch may by chance hide nothing
        loss = F.cross_entropy(words, wanted) if len(wanted) else hidden.float().sum() * 0.0
        figures = {"masked_accuracy": float((words.argmax(-1) == wanted).float().mean()) if len(wanted) else 0.0}
        if "next" in batch:
            follows = self.cls.seq_relationship(pooled).float()
            loss = loss + F.cross_entropy(follows, batch["next"])
            figures["next_accuracy"] = float((follows.argmax(-1) == batch["next"]).float().mean())
        return loss, figures

    def layers(self) -> list[nn.Module]:
        return [self.bert.embeddings, *self.bert.encoder.layer]

    def save_weights(self, folder: Path) -> None:
        folders.write_weights(self, folder / folders.WEIGHTS)
        self.save_config(folder)

    def save_config(self, folder: Path) -> None:
        """config.json as transformers reads it."""
        self.config.architectures = ["BertForPreTraining"]
        self.config.save_pretrained(folder)

    @torch.no_grad()
    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """For each row: a seventh of its words hidden (the same ones every time), and how likely the net finds them."""
        chance = torch.Generator().manual_seed(0)
        features: Any = self.features
        found: list[dict[str, float]] = []
        for start in range(0, len(rows), _ROWS):
            encoded = [as_text(features, row) for row in rows[start : start + _ROWS]]
            arrays = collate(encoded, features.pad_id)
            batch = {name: torch.from_numpy(one) for name, one in arrays.items()}
            hidden = hide(batch["input_ids"], features, chance, _SHARE, always_mask=True)
            logits = self(**batch | {"input_ids": hidden[0]})["logits"].float()
            nll = F.cross_entropy(logits.flatten(0, 1), hidden[1].flatten(), ignore_index=IGNORE, reduction="none")
            right = (logits.argmax(-1) == hidden[1]).sum(1)
            for losses, hits, labels in zip(nll.view(hidden[1].shape), right, hidden[1], strict=True):
                asked = int((labels != IGNORE).sum())
                words = max(1, len(encoded[len(found) - start]["input_ids"]) - 2)  # without [CLS] and [SEP]
                found.append({"nll": float(losses.sum()), "tokens": asked, "right": int(hits), "share": asked / words})
        return found


def as_text(features: Any, row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """[CLS] text [SEP], cut to the context."""
    ids = features.tokenizer.encode(str(row["text"]), add_special_tokens=False).ids[: features.max_length - 2]
    return {"input_ids": np.asarray([features.bos, *ids, features.document_end], dtype=np.int64)}


def collate(encoded: Sequence[Mapping[str, np.ndarray]], pad_id: int) -> dict[str, np.ndarray]:
    """Padded to the longest, with the mask that says so."""
    from tollway.inference.encoding import pad

    rows = [one["input_ids"] for one in encoded]
    arrays = {"input_ids": pad(rows, pad_id), "attention_mask": pad([np.ones(len(one), dtype=np.int64) for one in rows])}
    if "token_type_ids" in encoded[0]:
        arrays["token_type_ids"] = pad([one["token_type_ids"] for one in encoded])
    return arrays


def hide(
    ids: Tensor, features: Any, chance: torch.Generator | None, share: float, *, always_mask: bool = False
) -> tuple[Tensor, Tensor]:
    """The ids with some words hidden, and labels that ask for them (BERT: 80 % [MASK], 10 % another word, 10 % as it was)."""
    tokenizer = features.tokenizer
    mask_id = tokenizer.token_to_id("[MASK]")
    if mask_id is None:
        raise BadRequest("This tokenizer has no [MASK].", hint='Choose architecture = "bert" or a BERT base.')
    special = [one for name in ("[PAD]", "[CLS]", "[SEP]") if (one := tokenizer.token_to_id(name)) is not None]
    words = ~torch.isin(ids, torch.tensor([*special, features.pad_id]))
    asked = (torch.rand(ids.shape, generator=chance) < share) & words
    labels = torch.where(asked, ids, torch.full_like(ids, IGNORE))
    dice = torch.rand(ids.shape, generator=chance)
    other = torch.randint(features.vocabulary_size, ids.shape, generator=chance)
    hidden = torch.where(asked & (dice < (1.0 if always_mask else 0.8)), torch.full_like(ids, mask_id), ids)
    if not always_mask:
        hidden = torch.where(asked & (dice >= 0.9), other, hidden)
    return hidden, labels


def is_masked(folder: Path) -> bool:
    """Is the base an encoder of BERT's kind?"""
    try:
        return bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "bert")
    except (OSError, ValueError):
        return False


def create(spec: ModelSpec, features: Any) -> MaskedNet:
    """A BERT with fresh weights."""
    no_chatter()
    from transformers import BertConfig, BertForPreTraining

    options = spec.options
    width, heads = int(options["width"]), int(options["heads"])
    if width % heads:
        raise BadRequest(f"[model] options.width: {width} is no multiple of {heads} heads.", param="width")
    config = BertConfig(
        vocab_size=features.vocabulary_size, hidden_size=width, num_hidden_layers=int(options["layers"]),
        num_attention_heads=heads, intermediate_size=int(options["inner"]) or 4 * width,
        max_position_embeddings=int(options["max_length"]), pad_token_id=features.pad_id,
        hidden_dropout_prob=options["dropout"], attention_probs_dropout_prob=options["dropout"],
    )  # fmt: skip
    config._attn_implementation = "eager"
    return MaskedNet(spec, features, BertForPreTraining(config))


def create_from(spec: ModelSpec, features: Any, base: Path) -> MaskedNet:
    """A BERT base, with fresh heads where it has none. Raises BadRequest."""
    no_chatter()
    import transformers

    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with folders.whole_weights(base):
        hf = transformers.BertForPreTraining.from_pretrained(
            base, use_safetensors=True, attn_implementation="eager", dtype=torch.float32, local_files_only=True
        )
    return MaskedNet(spec, features, hf)
