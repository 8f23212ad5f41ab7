"""Adapters: train a few weights beside a frozen model. LoRA, bottleneck adapters, prefix and prompt tuning.

    net = adapters.adapt(net, "lora", {"rank": 8})      # only the adapter and the head of the task learn
    adapters.merge(net)                                 # LoRA: added into the weights; the net is plain again

LoRA, prefixes and prompts are PEFT's; what is saved is what PEFT reads (adapter_model.safetensors, adapter_config.json).
Bottleneck adapters (Houlsby et al. 2019) are a few lines of ours: PEFT has none.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from tollway.forge.models import folders
from tollway.forge.models.net import Net
from tollway.forge.models.options import AdapterOptions, parse
from tollway.kit.errors import BadRequest, Conflict
from tollway.kit.quiet import no_chatter

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
METHODS: Final = ("lora", "adapter", "prefix", "prompt")
_HEADS: Final = ("classifier", "score", "qa_outputs", "head", "pre_classifier")
_ATTENTION: Final = frozenset(
    {"query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v", "query_key_value", "c_attn", "qkv", "Wqkv"}
)
_KINDS: Final = {"lora": "LORA", "adapter": "BOTTLENECK", "prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING"}
_PREFIX: Final = "base_model.model."
_TASKS: Final = {
    "text-classification": "SEQ_CLS", "text-regression": "SEQ_CLS", "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS", "translation": "SEQ_2_SEQ_LM", "language-modeling": "CAUSAL_LM",
    "chat": "CAUSAL_LM", "preference": "CAUSAL_LM", "sentence-embedding": "FEATURE_EXTRACTION",
}  # fmt: skip


def adapt(net: Net, method: str, options: Mapping[str, Any] | None = None) -> Net:
    """The same net with an adapter; only the adapter's parameters and the task's head are trainable."""
    if method not in METHODS:
        raise BadRequest(f"{method!r} is no adapter.", hint=f"Choose one of {', '.join(METHODS)}.")
    if net.adapter is not None:
        raise Conflict("The net has an adapter already.", hint="Merge it first.")
    known = {name: one for name, one in (options or {}).items() if name in AdapterOptions.model_fields}
    chosen = parse(AdapterOptions, known, "[train]").model_dump()
    net.requires_grad_(False)
    if method == "lora":
        _lora(net, chosen)
    elif method == "adapter":
        _bottlenecks(net, chosen["size"])
    else:
        _tokens(net, method, chosen["tokens"])
    for one in _heads(net.body):
        one.requires_grad_(True)
    net.adapter = {"method": method, **chosen}
    return net


def merge(net: Net) -> Net:
    """Add a LoRA into the weights it sits beside. Other adapters cannot be merged: they stay as they are."""
    if net.adapter is None or net.adapter["method"] != "lora":
        return net
    layer = _peft().tuners.tuners_utils.BaseTunerLayer
    for name, module in list(net.named_modules()):
        if isinstance(module, layer):
            module.merge()
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, module.get_base_layer())
    net.adapter = None
    net.requires_grad_(True)
    return net


def _peft() -> Any:
    """The library of adapters."""
    no_chatter()
    import peft

    return peft


def _lora(net: Net, chosen: dict[str, Any]) -> None:
    peft = _peft()
    targets = list(chosen["targets"])
    linear = [name for name, one in net.body.named_modules() if isinstance(one, nn.Linear) and not _is_head(name)]
    if targets == ["all"]:
        names = linear
    else:
        wanted = set(targets) or _ATTENTION
        names = [name for name in linear if name.split(".")[-1] in wanted]
        if targets and not names:
            last = sorted({name.split(".")[-1] for name in linear})
            raise BadRequest(
                f"The model has no linear layer named {', '.join(targets)}.", hint=f"It has {', '.join(last)}."
            )
    names = names or linear
    if not names:
        raise BadRequest(f"{net.spec.architecture} has no linear layer below its head: LoRA has nothing to sit beside.")
    config = peft.LoraConfig(
        r=chosen["rank"], lora_alpha=chosen["alpha"], lora_dropout=chosen["dropout"], target_modules=names
    )
    peft.inject_adapter_in_model(config, net.body)


class Bottleneck(nn.Module):
    """A linear layer followed by a small detour: down, bend, up; added to its output. The detour begins at nothing."""

    def __init__(self, base: nn.Linear, size: int) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.out_features, size), nn.Linear(size, base.out_features)
        nn.init.normal_(self.down.weight, std=0.02)
        for one in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(one)

    def forward(self, states: Tensor) -> Tensor:
        out = self.base(states)
        return out + self.up(nn.functional.gelu(self.down(out)))  # type: ignore[no-any-return]


def _bottlenecks(net: Net, size: int) -> None:
    """One behind the last linear layer of every block."""
    names = {id(one): name for name, one in net.named_modules()}
    placed = 0
    for block in net.layers():
        linear = [one for one in block.modules() if isinstance(one, nn.Linear)]
        if not linear:
            continue
        name = names[id(linear[-1])]
        parent, _, last = name.rpartition(".")
        setattr(net.get_submodule(parent), last, Bottleneck(linear[-1], size))
        placed += 1
    if not placed:
        raise BadRequest(f"{net.spec.architecture} has no blocks with linear layers to put adapters behind.")


def _tokens(net: Net, method: str, tokens: int) -> None:
    peft = _peft()
    if not hasattr(net, "hf"):
        raise BadRequest(
            f"{method} tuning needs a base (a pre-trained transformer).", hint='Or train with method = "full".'
        )
    kind = peft.PrefixTuningConfig if method == "prefix" else peft.PromptTuningConfig
    config = kind(task_type=_TASKS.get(net.spec.task, "FEATURE_EXTRACTION"), num_virtual_tokens=tokens)
    try:
        body: Any = net.hf
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # how the two libraries speak with each other
            net.hf = peft.get_peft_model(body, config)
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise BadRequest(f"{method} tuning does not fit this base: {error}", hint="Use lora or adapter.") from error


def _heads(body: nn.Module) -> Iterator[nn.Module]:
    """The task's own layers (PEFT keeps an unused copy of them beside some adapters: not that)."""
    for name, module in body.named_modules():
        if _is_head(name) and "original_module" not in name and not list(module.children()):
            yield module


def _is_head(name: str) -> bool:
    return any(part in _HEADS for part in name.split("."))


def save(net: Net, folder: Path) -> None:
    """adapter_model.safetensors and adapter_config.json, as PEFT writes them."""
    assert net.adapter is not None
    state = state_of(net)
    folders.write_state({_PREFIX + name: one for name, one in state.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(_config(net), indent=1, sort_keys=True), encoding="utf-8")


def state_of(net: Net) -> dict[str, Tensor]:
    """What the adapter and the head learnt: their tensors, named as seen from the body."""
    keep = {name for name, one in net.body.named_parameters() if one.requires_grad}
    state = net.body.state_dict()
    return {_plain(name): one for name, one in state.items() if name in keep}


def base_state(net: Net) -> dict[str, Tensor]:
    """The weights below the adapter, under the names they had before."""
    body: Any = net.body
    if (net.adapter or {}).get("method") in ("prefix", "prompt"):
        whole = body.get_base_model().state_dict()  # PEFT has wrapped the head: the one that learns is the adapter's
        plain = {name: one for name, one in whole.items() if ".modules_to_save." not in name}
        return {name.replace(".original_module.", "."): one for name, one in plain.items()}
    learnt = (".lora_", ".down.", ".up.") if (net.adapter or {}).get("method") == "adapter" else (".lora_",)
    found = {}
    for name, one in body.state_dict().items():
        if any(word in name for word in learnt):
            continue
        found[name.replace(".base_layer.", ".").replace(".base.", ".")] = one
    return found


def _plain(name: str) -> str:
    for word in (".default.", ".modules_to_save."):
        name = name.replace(word, ".")
    return name


def _config(net: Net) -> dict[str, Any]:
    chosen = dict(net.adapter or {})
    method = chosen["method"]
    made: dict[str, Any] = {"base_model_name_or_path": net.spec.parent, "inference_mode": True}
    if method == "lora":
        targets = sorted({name.rsplit(".lora_A", 1)[0] for name in state_of(net) if ".lora_A" in name})
        heads = sorted({name.split(".")[0] for name in state_of(net) if _is_head(name)})
        made |= {
            "peft_type": "LORA", "task_type": _TASKS.get(net.spec.task), "r": chosen["rank"],
            "lora_alpha": chosen["alpha"], "lora_dropout": chosen["dropout"], "target_modules": targets,
            "modules_to_save": heads or None, "bias": "none", "fan_in_fan_out": False, "use_rslora": False,
        }  # fmt: skip
    elif method == "adapter":
        made |= {"peft_type": "BOTTLENECK", "size": chosen["size"]}
    else:
        made |= {
            "peft_type": _KINDS[method],
            "num_virtual_tokens": chosen["tokens"],
            "task_type": _TASKS.get(net.spec.task),
        }
    return made


def _chosen(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Method and options from what `_config` (or PEFT) wrote."""
    method = {kind: name for name, kind in _KINDS.items()}[config["peft_type"]]
    if method == "lora":
        targets = sorted({str(one).split(".")[-1] for one in config["target_modules"]})
        return method, {
            "rank": config["r"],
            "alpha": config["lora_alpha"],
            "dropout": config["lora_dropout"],
            "targets": targets,
        }
    return method, {"size": config["size"]} if method == "adapter" else {"tokens": config["num_virtual_tokens"]}


def attach(net: Net, folder: Path) -> Net:
    """Put the adapter that `save` wrote onto a fresh net of its base."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        method, chosen = _chosen(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{CONFIG} of {folder.name} cannot be read: {error}") from error
    adapt(net, method, chosen)
    saved = {name.removeprefix(_PREFIX): one for name, one in folders.read_weights(folder / WEIGHTS).items()}
    own = {_plain(name): one for name, one in net.body.named_parameters()}
    strange = sorted(name for name in saved if name not in own or own[name].shape != saved[name].shape)
    missing = sorted(name for name in state_of(net) if name not in saved)
    if strange or missing:
        raise BadRequest(f"The adapter of {folder.name} does not fit its base: {(strange + missing)[:3]}.")
    with torch.no_grad():
        for name, one in saved.items():
            own[name].copy_(one)
    return net
