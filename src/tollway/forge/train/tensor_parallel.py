"""Tensor parallel: each process keeps a part of every large matrix, cut as the library's plan for the model says.

For the workers of `distributed = "tensor"`. Decoders of Llama's kind have such a plan (`base_model_tp_plan` of transformers);
ours have the same tensor names, so the library's model is trained in parts and the whole weights come back into ours.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tollway.forge.train.batches import IGNORED
from tollway.forge.train.plan import Plan
from tollway.forge.train.together import Together
from tollway.kit.errors import BadRequest

_START = "tensor-start"  # the untrained model as a folder, while the processes read it


class Side(Together):
    """The processes of one model in parts: all see the same rows, so to the loop they are one."""

    def __init__(self) -> None:
        super().__init__("tensor")
        self.number, self.parts = self.rank, self.size
        self.rank, self.size = 0, 1

    def wrap(self, module: Any, *, many_turns: bool = False) -> Any:
        return module

    def total(self, values: list[float]) -> list[float]:
        return values


class Cut(nn.Module):
    """A decoder in parts, with the loss of ours: labels[i] is the token that follows input_ids[i]."""

    turns = ("all",)

    def __init__(self, hf: Any) -> None:
        super().__init__()
        self.hf = hf

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> dict[str, Tensor]:
        mask = None
        if segments is not None:
            length = input_ids.shape[1]
            seen = torch.ones(length, length, dtype=torch.bool).tril() & (segments[:, :, None] == segments[:, None, :])
            mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        return {"logits": self.hf(input_ids=input_ids, attention_mask=mask, use_cache=False).logits}

    def loss(self, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        logits = self.forward(batch["input_ids"], batch.get("segments"))["logits"]
        labels = batch["labels"][:, : logits.shape[1]].long()
        total = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (labels != IGNORED).sum().clamp(min=1), {}

    def parameters_of(self, turn: str) -> Iterator[nn.Parameter]:
        return self.parameters()


def cut(net: Any, plan: Plan, group: Side, work: Path) -> Cut:
    """The library's model with the net's weights, each process with its part. Raises BadRequest where there is no plan."""
    from transformers import AutoModelForCausalLM
    from transformers.distributed.configuration_utils import DistributedConfig

    shape = getattr(net, "shape", None)
    if shape is None or not hasattr(net, "save_config"):
        raise BadRequest(
            f"{net.spec.architecture} has no plan for how its matrices are cut: transformers has one for decoders (Llama's kind).",
            param="train.distributed", hint="Set distributed = 'ddp' or 'fsdp'.",
        )
    if plan.method != "full":
        raise BadRequest(f"A model in parts is trained whole, not by {plan.method}.", param="train.method",
                         hint="Set method = 'full', or distributed = 'ddp'.")  # fmt: skip
    if shape.kv_heads % group.parts or shape.heads % group.parts:
        raise BadRequest(
            f"{shape.heads} heads ({shape.kv_heads} for keys) cannot be shared out among {group.parts} processes.",
            param="train.processes", hint="Choose a number of processes that divides both.",
        )
    start = work / _START
    if group.number == 0:
        shutil.rmtree(start, ignore_errors=True)
        start.mkdir(parents=True)
        net.save_weights(start)
    group.barrier()
    hf = AutoModelForCausalLM.from_pretrained(
        start, distributed_config=DistributedConfig(tp_plan="auto", tp_size=group.parts), dtype=torch.float32, local_files_only=True
    )
    group.barrier()
    if group.number == 0:
        shutil.rmtree(start)
    return Cut(hf)


def join(parts: Cut, net: Any, group: Side) -> Any:
    """The trained weights whole, in the net they came from; in the first process."""
    with torch.no_grad():
        whole = {name: each.full_tensor() if hasattr(each, "full_tensor") else each for name, each in parts.hf.state_dict().items()}
        if group.number:
            return None
        for name, each in net.named_parameters():
            each.copy_(whole[name])
    return net.eval()
