"""A Llama-style decoder in one small file: what we pre-train from scratch, and what Llama-like folders are loaded into.

Tensors have the names of Hugging Face's `LlamaForCausalLM`, so a folder written by either is read by the other, and
adapters (PEFT) and the GGUF writer find the layers they expect. It exists because it is faster on a CPU than the
general implementation: attention as plain batched products (the fused kernel is the slow path there), the document
mask built once for all layers, the loss in slices so that the logits of a whole batch never exist at once.

    net = Decoder(Shape(vocabulary=8192, width=384, layers=6, heads=6));  net.initialise(seed);  logits = net(ids)
    total, count = net.nll(ids, labels)      # labels[i] is the token that follows ids[i]; IGNORE where nothing is asked
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.models import lm_kernels
from tollway.kit.errors import BadRequest

IGNORE: Final = -100


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a decoder. `inner` and `kv_heads` follow from the rest when they are 0."""

    vocabulary: int
    width: int = 384
    layers: int = 6
    heads: int = 6
    kv_heads: int = 0
    inner: int = 0
    context: int = 512
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied: bool = True

    def __post_init__(self) -> None:
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        if not self.inner:
            object.__setattr__(self, "inner", -(-self.width * 8 // 3 // 64) * 64)  # two thirds of 4x, in whole vectors
        problems = self._problems()
        if problems:
            raise BadRequest(
                "No decoder has this shape: " + "; ".join(problems) + ".",
                code="invalid_recipe",
                param="model.options",
                hint="Say for example options = { width = 384, layers = 6, heads = 6, context = 512 }.",
            )

    def _problems(self) -> list[str]:
        numbers = ("vocabulary", "width", "layers", "heads", "kv_heads", "inner", "context")
        problems = [f"{name} is {getattr(self, name)}" for name in numbers if not 0 < getattr(self, name) < 1 << 24]
        if problems:
            return problems
        if self.width % (2 * self.heads):
            problems.append(f"the width {self.width} is no even multiple of its {self.heads} heads")
        if self.heads % self.kv_heads:
            problems.append(f"{self.heads} heads do not share {self.kv_heads} key heads evenly")
        return problems

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def hf_config(self, *, bos: int | None = None, eos: int | None = None, pad: int | None = None) -> dict[str, Any]:
        """The config.json of the same model for Hugging Face's tools."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "dtype": "float32",
        }

    @classmethod
    def of_hf(cls, config: Mapping[str, Any]) -> "Shape":
        """The shape a config.json describes. Raises BadRequest when it is a model this file does not compute exactly."""
        wanted = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
        missing = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
        problems = [
            f"its {key} is {config.get(key, missing.get(key))!r}, not {value!r}"
            for key, value in wanted.items()
            if config.get(key, missing.get(key)) != value
        ]
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if rope and rope.get("rope_type", rope.get("type", "default")) != "default":
            problems.append(f"its positions are scaled ({rope.get('rope_type', rope.get('type'))})")
        needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        problems += [f"its config has no {key}" for key in needed if not isinstance(config.get(key), int)]
        if not problems and config.get("head_dim") not in (None, config["hidden_size"] // config["num_attention_heads"]):
            problems.append("its heads are not as wide as its width divided by their number")
        if problems:
            raise BadRequest(
                "This is no decoder that is trained here: " + "; ".join(problems) + ".",
                code="unsupported_model",
                hint="Give a Llama-style folder (Llama, SmolLM2, TinyLlama, Mistral without a window saved as llama).",
            )
        return cls(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            inner=config["intermediate_size"],
            context=config.get("max_position_embeddings", 2048),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            tied=bool(config.get("tie_word_embeddings", False)),
        )


class Attention(nn.Module):
    """Causal self-attention with rotary positions and shared key heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = shape.heads, shape.kv_heads, shape.head_width
        kv_width = shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.width, kv_width, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, past: "list[Tensor] | None") -> Tensor:
        qkv = _side_by_side(x, self.q_proj, self.k_proj, self.v_proj)
        if past is None:
            return cast(Tensor, self.o_proj(lm_kernels.attention(qkv, self.heads, self.kv_heads, *rope, mask)))
        q, k, v = lm_kernels.heads_of(qkv, self.heads, self.kv_heads)
        q, k, v = lm_kernels.plain_turn(q, *rope), lm_kernels.plain_turn(k, *rope), v.transpose(1, 2)
        if past:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        past[:] = (k, v)
        return cast(Tensor, self.o_proj(lm_kernels.plain_attend(q, k, v, mask)))


def _side_by_side(x: Tensor, *layers: nn.Module) -> Tensor:
    """What several linear layers make of the same x: one product when they are plain, else (adapters) one each."""
    plain = [layer for layer in layers if type(layer) is nn.Linear]
    if len(plain) == len(layers):
        return F.linear(x, torch.cat([layer.weight for layer in plain]))
    return torch.cat([layer(x) for layer in layers], -1)


class Mlp(nn.Module):
    """The gated feed-forward part."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(lm_kernels.gated(_side_by_side(x, self.gate_proj, self.up_proj))))


class Norm(nn.Module):
    """Division by the root mean square."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return lm_kernels.norm(x, self.weight, self.eps)


class Block(nn.Module):
    """One layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.width, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.width, shape.norm_eps)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, past: "list[Tensor] | None") -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, mask, past)
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x)))


class Trunk(nn.Module):
    """Everything but the head: ids to the last hidden states."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape.norm_eps)
        self.frequencies: Tensor
        self.set_frequencies()

    def set_frequencies(self) -> None:
        """How fast each pair of numbers turns from one position to the next."""
        steps = torch.arange(0, self.shape.head_width, 2, dtype=torch.float32) / self.shape.head_width
        self.register_buffer("frequencies", self.shape.rope_theta**-steps, persistent=False)

    def forward(
        self,
        ids: Tensor,
        segments: Tensor | None = None,
        past: "list[list[Tensor]] | None" = None,
    ) -> Tensor:
        """`segments` number the documents of a packed row: none sees another. (Their positions need not begin anew:
        rotary positions only count differences.) `past` is grown in place, for writing."""
        x = self.embed_tokens(ids)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        before = past[0][0].shape[2] if past and past[0] else 0
        rope = self._rope(torch.arange(before, before + ids.shape[1], device=ids.device)[None], x.dtype)
        mask = _mask(ids.shape[1], before, segments, x)
        for index, layer in enumerate(self.layers):
            x = layer(x, rope, mask, past[index] if past is not None else None)
        return cast(Tensor, self.norm(x))

    def _rope(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angles = positions[:, None, :, None].float() * self.frequencies
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _mask(length: int, before: int, segments: Tensor | None, like: Tensor) -> Tensor:
    """0 where a token may look, the least number elsewhere; [batch or 1, 1, length, before + length]."""
    least = torch.finfo(like.dtype).min
    hidden = torch.ones(length, before + length, dtype=torch.bool, device=like.device).triu(before + 1)[None]
    if segments is not None:
        hidden = hidden | (segments[:, :, None] != segments[:, None, :])
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, least)[:, None]


class Decoding:
    """What a trunk and a head can do together. A mixin: `model` and `lm_head` (None when tied) are the module's."""

    shape: Shape
    model: Trunk
    lm_head: nn.Linear | None

    def head(self) -> Tensor:
        """The matrix that turns hidden states into logits."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def initialise(self, seed: int) -> None:
        """Weights as GPT-2 draws them: normal with 0.02, smaller where many layers add up. The same on every machine."""
        chance = torch.Generator().manual_seed(seed)
        module: nn.Module = self  # type: ignore[assignment]
        with torch.no_grad():
            for name, weight in sorted(module.named_parameters()):
                if weight.ndim == 2:
                    late = name.endswith(("o_proj.weight", "down_proj.weight"))
                    weight.normal_(0, 0.02 / (2 * self.shape.layers) ** 0.5 if late else 0.02, generator=chance)

    def logits(self, ids: Tensor, segments: Tensor | None = None, past: "list[list[Tensor]] | None" = None) -> Tensor:
        """Of every place."""
        return F.linear(self.model(ids, segments, past), self.head())

    def nll(self, ids: Tensor, labels: Tensor, segments: Tensor | None = None) -> tuple[Tensor, int]:
        """The summed negative log-likelihood of the labels that are asked for, and how many there are."""
        hidden = self.model(ids, segments)
        asked = labels != IGNORE
        return lm_kernels.head_loss(hidden[asked], self.head(), labels[asked].long()), int(asked.sum())

    @torch.no_grad()
    def token_nll(self, ids: Tensor, labels: Tensor, segments: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """For every place: the negative log-likelihood of its label, and whether it would have been the guess."""
        hidden = self.model(ids, segments).flatten(0, 1)
        flat = labels.flatten().long()
        nll, right = torch.zeros(len(flat)), torch.zeros(len(flat), dtype=torch.bool)
        places = (flat != IGNORE).nonzero().squeeze(1)
        for part in torch.split(places, 512):
            logits = F.linear(hidden[part], self.head()).float()
            nll[part] = F.cross_entropy(logits, flat[part], reduction="none")
            right[part] = logits.argmax(-1) == flat[part]
        return nll.view(labels.shape), right.view(labels.shape)


class Decoder(nn.Module, Decoding):
    """The bare language model."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        self.lm_head = None if shape.tied else nn.Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Tensor:
        return self.logits(input_ids, segments)


def save(net: Any, folder: Path, **special: int | None) -> None:
    """Write config.json and model.safetensors (float32), as Hugging Face's tools read them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_config(net.shape, folder, **special)


def write_config(shape: Shape, folder: Path, **special: int | None) -> None:
    """config.json; `special` are the numbers bos, eos and pad."""
    text = json.dumps(shape.hf_config(**special), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def read_shape(folder: Path) -> Shape:
    """The shape in a folder's config.json. Raises BadRequest when it is no decoder of this kind."""
    try:
        return Shape.of_hf(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BadRequest(
            f"{folder.name} cannot be read as a language model ({error}).",
            code="invalid_model_file",
            hint="Give a folder with config.json and model.safetensors.",
        ) from None


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a Llama-style folder (one file or several), in float32, without copies of tied ones."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            if not file.name.startswith("adapter"):
                tensors |= load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise BadRequest(f"{file.name} is damaged: {error}.", code="invalid_model_file", hint="Fetch it again.") from None
    if read_shape(folder).tied:
        tensors.pop("lm_head.weight", None)
    return {name: one.float() for name, one in tensors.items() if not name.endswith("rotary_emb.inv_freq")}


def load(folder: Path) -> Decoder:
    """The decoder in a Llama-style folder. Raises BadRequest when it is something else."""
    net = Decoder(read_shape(folder))
    fill(net, read_tensors(folder), folder.name)
    return net


def fill(net: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Put weights into a net. Raises BadRequest naming what does not fit."""
    own = net.state_dict()
    problems = [f"{key} is missing" for key in own if key not in tensors]
    problems += [f"{key} has no place" for key in tensors if key not in own]
    problems += [
        f"{key} is {tuple(tensors[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise BadRequest(
            f"The weights of {name} do not fit its config: " + "; ".join(problems[:5]) + more + ".",
            code="invalid_model_file",
            hint="Fetch or export the folder again.",
        )
    net.load_state_dict(dict(tensors))
