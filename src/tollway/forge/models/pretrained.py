"""Pretrained: a Hugging Face model with the head of the task, as a Net. Its folder stays a Hugging Face folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models import folders
from tollway.forge.models.net import ModelSpec, Net
from tollway.forge.models.seq2seq import remembered, written_loss
from tollway.forge.models.text import pair_loss
from tollway.inference import Features, SequenceFeatures
from tollway.kit.errors import BadRequest
from tollway.kit.quiet import no_chatter

_AUTO: Final = {
    "text-classification": "AutoModelForSequenceClassification",
    "text-regression": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "sentence-embedding": "AutoModel",
    "image-classification": "AutoModelForImageClassification",
    "translation": "AutoModelForSeq2SeqLM",
}
_COMPANIONS: Final = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "preprocessor_config.json",
                      "source.spm", "target.spm", "vocab.json", "generation_config.json")  # fmt: skip
ATTENTION: Final = "eager"  # plain products: on CPUs the fused kernel is slower for short texts


class Pretrained(Net):
    """`hf` is the Hugging Face model."""

    def __init__(self, spec: ModelSpec, features: Features, hf: Any, companions: Mapping[str, bytes]) -> None:
        super().__init__(spec, features)
        self.hf = hf
        self.companions = dict(companions)
        if isinstance(features, SequenceFeatures):
            features.options["memory"] = int(hf.config.hidden_size)
        self.pooling = str(spec.options.get("pooling", "mean"))

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        if self.spec.task == "translation":
            return self._translation(**arrays)
        made = self.hf(**arrays)
        task, target = self.spec.task, self.features.target
        if task == "sentence-embedding":
            states, mask = made.last_hidden_state, arrays["attention_mask"].unsqueeze(-1)
            pooled = states[:, 0] if self.pooling == "first" else (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            return {"embedding": F.normalize(pooled.float(), dim=-1)}
        if task == "text-regression":
            return {"value": made.logits.float().squeeze(-1) * target.std + target.mean}
        if task == "question-answering":
            return {"start_logits": made.start_logits, "end_logits": made.end_logits}
        return {"logits": made.logits}

    def _translation(self, **arrays: Tensor) -> dict[str, Tensor]:
        from transformers.modeling_outputs import BaseModelOutput

        mask = arrays["attention_mask"]
        encoded = self.hf.get_encoder()(input_ids=arrays["input_ids"], attention_mask=mask).last_hidden_state
        made = self.hf(
            encoder_outputs=BaseModelOutput(last_hidden_state=arrays.get("memory", encoded)),
            attention_mask=arrays.get("memory_mask", mask), decoder_input_ids=arrays["decoder_input_ids"], use_cache=False,
        )  # fmt: skip
        return {"logits": made.logits, "encoded": encoded}

    def example(self, rows: int = 2) -> dict[str, Tensor]:
        found = super().example(rows)
        return found | remembered(self.features, rows) if isinstance(self.features, SequenceFeatures) else found

    @property
    def reads_first(self) -> bool:
        return self.spec.task != "sentence-embedding" or self.pooling == "first"

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        if self.spec.task == "sentence-embedding":
            return pair_loss(self, batch)
        if isinstance(self.features, SequenceFeatures):
            return written_loss(self, batch, self.features.start_id, self.features.pad_id)
        return super().loss(batch, turn)

    @property
    def body(self) -> nn.Module:
        return self.hf  # type: ignore[no-any-return]

    def embeddings(self) -> nn.Embedding | None:
        found = self.hf.get_input_embeddings()
        return found if isinstance(found, nn.Embedding) else None

    def read_by_rows(self) -> list[nn.Embedding]:
        """The word vectors, where no other layer has the same weights."""
        try:
            found = self.embeddings()
        except AttributeError:  # frozen, and something stands in for them that knows their outputs
            return []
        weights = [one for _, one in self.hf.named_parameters(remove_duplicate=False)]
        return [found] if found is not None and sum(one is found.weight for one in weights) == 1 else []

    def layers(self) -> list[nn.Module]:
        """Embeddings first, then the blocks."""
        stacks: list[Any] = [one for one in self.hf.modules() if isinstance(one, nn.ModuleList) and len(one) > 1]
        if not stacks:
            return []
        blocks = list(sorted(stacks, key=lambda one: len(one))[-1])
        embedding = next((one for name, one in self.hf.named_modules() if name.split(".")[-1] == "embeddings"), None)
        return ([embedding] if embedding is not None else []) + blocks

    def save_weights(self, folder: Path) -> None:
        """config.json and model.safetensors as `save_pretrained` names them, and the tokenizer's companions."""
        self.save_config(folder)
        own = self.hf.state_dict()
        tied = set(_tied(self.hf))
        for name in [name for name in own if name in tied]:
            del own[name]
        folders.write_state(own, folder / folders.WEIGHTS)

    def save_config(self, folder: Path) -> None:
        """config.json and the tokenizer's companions."""
        self.hf.config.save_pretrained(folder)
        for name, content in self.companions.items():
            (folder / name).write_bytes(content)


def create(spec: ModelSpec, features: Features, base: Path) -> Pretrained:
    """The base with a fresh head for the task. Raises BadRequest."""
    with folders.whole_weights(base):
        hf = _auto(spec.task).from_pretrained(
            base, config=_config(base, spec, features), use_safetensors=True, attn_implementation=_attention(spec),
            ignore_mismatched_sizes=True, dtype=torch.float32, local_files_only=True,
        )  # fmt: skip
    companions = {name: (base / name).read_bytes() for name in _COMPANIONS if (base / name).is_file()}
    return Pretrained(spec, features, hf, companions)


def load(spec: ModelSpec, features: Features, folder: Path) -> Pretrained:
    """What `save_weights` wrote."""
    config = _config(folder, spec, features)
    hf = _auto(spec.task).from_config(config, attn_implementation=_attention(spec), dtype=torch.float32)
    state = folders.read_weights(folder / folders.WEIGHTS)
    folders.fit_shapes(hf, state)
    try:
        missing, strange = hf.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise BadRequest(f"The weights of {folder.name} do not fit its config.json: {str(error)[:300]}") from error
    missing = sorted(set(missing) - set(_tied(hf)))
    if missing or strange:
        raise BadRequest(f"The weights of {folder.name} lack {missing[:3]} and have besides {list(strange)[:3]}.")
    hf.tie_weights()
    companions = {name: (folder / name).read_bytes() for name in _COMPANIONS if (folder / name).is_file()}
    return Pretrained(spec, features, hf, companions)


def _tied(hf: Any) -> list[str]:
    keys = getattr(hf, "all_tied_weights_keys", None) or getattr(hf, "_tied_weights_keys", None) or {}
    return list(keys)


def _auto(task: str) -> Any:
    no_chatter()
    import transformers

    talk: Any = transformers.utils.logging
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    if task not in _AUTO:
        raise BadRequest(f"A base cannot be trained for {task} here.", hint=f"It can for {', '.join(_AUTO)}.")
    return getattr(transformers, _AUTO[task])


def _attention(spec: ModelSpec) -> str:
    wanted = str(spec.options.get("attention", "auto"))
    return ATTENTION if wanted == "auto" else wanted


def _config(folder: Path, spec: ModelSpec, features: Features) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise BadRequest(f"{folder.name} has no config.json that transformers knows: {str(error)[:300]}") from error
    if spec.task.endswith("classification"):
        labels = list(features.labels)
        config.num_labels = len(labels)
        config.id2label, config.label2id = dict(enumerate(labels)), {one: number for number, one in enumerate(labels)}
    elif spec.task == "text-regression":
        config.num_labels = 1
    dropout = spec.options.get("dropout")
    if dropout is not None:
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
            if isinstance(getattr(config, name, None), float):
                setattr(config, name, dropout)
    return config
