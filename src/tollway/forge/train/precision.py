"""Which precision and which attention are faster for this net on this machine: asked once, by trying both.

For the loop. `precision = "auto"` takes bf16 only where it is clearly faster (1.15 times); the answer is written to the
run's work folder, so that a resumed run computes exactly as before, and in `runs/choices/` of the home by what was measured
(the net's shapes, the machine, the libraries), so that the same recipe in a fresh run makes the same model.
"""

import hashlib
import json
import platform
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tollway.forge.train import attention, device
from tollway.forge.train.batches import Batches
from tollway.forge.train.group import Alone, Group
from tollway.forge.train.learner import autocast, turns_of
from tollway.forge.train.material import write_json
from tollway.forge.train.objectives import Objective
from tollway.forge.train.plan import Plan
from tollway.kit.said import Said, say

_GAIN = 1.15  # how much faster the second choice must be: figures near 1 would make it a matter of luck
_ROUNDS = 2
_ROWS = 4
_WAYS = 2  # rises when what is compared becomes faster or slower: older choices are made afresh
_SMALL = 200_000  # parameters below which nothing is worth measuring


@dataclass(frozen=True)
class Choice:
    """How forward passes are computed."""

    precision: str
    attention: str = ""
    why: str = ""


def choose(
    net: nn.Module, objective: Objective, batches: Batches, plan: Plan, work: Path, group: Group | None = None,
    home: Path | None = None,
) -> Choice:  # fmt: skip
    """The choice of this run: the one it made before, else the one of this machine for such a net, else measured now (by
    the first process)."""
    file, group = work / "choice.json", group or Alone()
    if not file.is_file() and group.number == 0:
        work.mkdir(parents=True, exist_ok=True)
        alone = getattr(group, "parts", 1) == 1  # a model in parts cannot be tried by one process
        known = home / "runs" / "choices" / f"{_key(net, plan)}.json" if home is not None else None
        if not alone:
            choice = Choice(plan.precision.replace("auto", "fp32"), why="a model in parts is not measured")
        elif known is not None and known.is_file():
            choice = Choice(**json.loads(known.read_text(encoding="utf-8")))
        else:
            choice = _measured(net, objective, batches, plan)
            if known is not None and not is_small(net):
                known.parent.mkdir(parents=True, exist_ok=True)
                write_json(known, asdict(choice))
        write_json(file, asdict(choice))
    group.barrier()
    choice = Choice(**json.loads(file.read_text(encoding="utf-8")))
    attention.use(net, choice.attention)
    return choice


def in_words(choice: Choice) -> Said:
    """The choice as a note of the run."""
    measured = re.fullmatch(r"bf16 was measured at ([0-9.]+)x fp32's speed", choice.why)
    why: str = choice.why
    if measured:
        why = say("train.measured", "bf16 was measured at {times}x fp32's speed", times=measured.group(1))
    if not choice.attention:
        return say("train.computes", "Computes in {precision}: {why}.", precision=choice.precision, why=why)
    return say(
        "train.computes_attention", "Computes in {precision}, attention {attention}: {why}.",
        precision=choice.precision, attention=choice.attention, why=why,
    )  # fmt: skip


def _key(net: nn.Module, plan: Plan) -> str:
    """What a measurement depends on: the shapes, what learns, the device, the processor, the library."""
    shapes = [(name, tuple(one.shape), one.requires_grad) for name, one in net.named_parameters()]
    place = next(net.parameters()).device.type
    said = [_WAYS, shapes, plan.precision, plan.threads, place, platform.processor(), has_bf16(), torch.__version__]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def has_bf16() -> bool:
    """Does the processor multiply bf16 itself (AMX, AVX512-BF16, or an accelerator)?"""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    if torch.backends.mps.is_available():
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()


def is_small(net: nn.Module) -> bool:
    """Too small for a choice of precision, or of threads, to matter."""
    return sum(each.numel() for each in net.parameters()) < _SMALL


def _measured(net: nn.Module, objective: Objective, batches: Batches, plan: Plan) -> Choice:
    kinds = attention.kinds(net) or [""]
    precisions = [plan.precision] if plan.precision != "auto" else ["bf16", "fp32"] if has_bf16() else ["fp32"]
    if is_small(net) or (len(kinds) < 2 and len(precisions) < 2):
        return Choice(precisions[-1], kinds[0], "nothing to choose from")
    batch = device.move(batches.first(_ROWS), next(net.parameters()).device)
    kind, best = kinds[0], _seconds(net, objective, batch, precisions[0], kinds[0])
    for each in kinds[1:]:
        seconds = _seconds(net, objective, batch, precisions[0], each, best)
        if seconds * _GAIN < best:
            kind, best = each, seconds
    if len(precisions) < 2:
        return Choice(precisions[0], kind, "the only precision here")
    plain = _seconds(net, objective, batch, "fp32", kind, best * _GAIN)
    return Choice(
        "bf16" if best * _GAIN < plain else "fp32", kind, f"bf16 was measured at {plain / best:.2f}x fp32's speed"
    )


def _seconds(
    net: nn.Module, objective: Objective, batch: dict[str, Any], precision: str, kind: str, beat: float = float("inf")
) -> float:
    """The fastest of a few forward and backward passes, fewer when `beat` is out of reach; leaves no trace in the net or
    the random numbers."""
    attention.use(net, kind)
    random_state = torch.get_rng_state()
    buffers = {name: each.clone() for name, each in net.named_buffers()}
    best, place = float("inf"), next(net.parameters()).device
    # on a CPU its own seconds: what others do meanwhile must not choose for us
    clock = time.process_time if place.type == "cpu" else time.perf_counter
    try:
        for _ in range(_ROUNDS + 1):  # the first one warms up
            began = clock()
            for turn in turns_of(net):
                with autocast(precision, place.type):
                    loss, _figures = objective.loss(net, batch, turn)
                torch.autograd.backward(loss)
            device.wait(place)
            seconds = clock() - began
            if not bool(torch.isfinite(loss)):
                return float("inf")
            best = min(best, seconds)
            if best > 1.5 * beat:
                break
    finally:
        net.zero_grad(set_to_none=True)
        torch.set_rng_state(random_state)
        with torch.no_grad():
            for name, each in net.named_buffers():
                each.copy_(buffers[name])
    return best
