"""The trainings inside compression: recovery after pruning, learning from a teacher, learning to live with 8 bits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tollway.forge.train import Batches, Plan, loop, objectives
from tollway.kit.errors import Conflict

_RATE = 5e-5
_SCRATCH_RATE = 1e-3


class Ground:
    """Rows of the run, encoded once, and how trainings here go."""

    def __init__(self, net: Any, prepared: Any, options: dict[str, Any], desk: Any) -> None:
        self.desk, self.options = desk, options
        self.objective = objectives.get("", net.spec.task)
        material = self.objective.prepare(prepared, net.features, "train")
        if material is None:
            raise Conflict("There are no rows to learn from.", hint="Look at the dataset and at what [data] leaves of it.")
        self.material = material
        self.held_out = self.objective.prepare(prepared, net.features, "validation")

    def plan(self, epochs: float, *, pretrained: bool = True) -> Plan:
        rate = float(self.options.get("learning_rate", _RATE if pretrained else _SCRATCH_RATE))
        return Plan(epochs=epochs, learning_rate=rate, seed=self.desk.seed, threads=self.desk.threads)

    def train(self, net: Any, epochs: float, name: str, *, objective: Any = None, extra: dict[str, Any] | None = None,
              pretrained: bool = True, keep_best: bool = True) -> Any:  # fmt: skip
        """Train `net` in place. `extra` targets go with the training rows only."""
        plan = self.plan(epochs, pretrained=pretrained)
        work = Path(self.desk.work) / name
        work.mkdir(parents=True, exist_ok=True)
        material = replace(self.material, targets={**self.material.targets, **(extra or {})})
        validation = self.held_out.batches(plan, measuring=True) if keep_best and self.held_out is not None else None
        for parameter in net.parameters():
            parameter.requires_grad_(True)
        result = loop.run(
            net, material.batches(plan), plan, replace(self.desk, work=work), validation=validation,
            objective=objective or self.objective, pretrained=pretrained,
        )  # fmt: skip
        net.eval()
        return result

    def losses(self, net: Any, count: int = 8) -> list[Any]:
        """Losses of some training batches, for importance."""
        batches: Batches = self.material.batches(self.plan(1))
        places = batches.epoch(0)[:count]
        return [lambda indices=indices: self.objective.loss(net, batches.batch(indices))[0] for indices in places]

    def teach(self, teacher: nn.Module) -> np.ndarray | None:
        """The teacher's outputs for every training row; None when they are not one vector for each row."""
        batches: Batches = self.material.batches(self.plan(1), measuring=True)
        found: list[np.ndarray | None] = [None] * len(self.material)
        names = set(self.material.targets)
        with torch.inference_mode():
            order = batches.in_order()
            for number, indices in enumerate(order):
                arrays = {name: one for name, one in batches.batch(indices).items() if name not in names}
                outputs = teacher(**arrays)
                name = next((one for one in ("logits", "value", "score", "embedding") if one in outputs), "")
                if not name or ("labels" in names):
                    return None
                for place, row in zip(indices, outputs[name].float().numpy(), strict=True):
                    found[place] = row
                self.desk.progress(number + 1, len(order), unit="batches")
        return np.stack([one for one in found if one is not None])


class Taught:
    """A student's loss: the right answers, the teacher's softened answers (Hinton et al. 2015), and, where both have
    layers of one width, the teacher's inner states (Jiao et al. 2020)."""

    name = "taught"

    def __init__(
        self, inner: Any, teacher: nn.Module, pairs: list[tuple[nn.Module, nn.Module]], temperature: float, hidden: float
    ) -> None:
        self.inner, self.teacher, self.temperature, self.hidden = inner, teacher, temperature, hidden
        self._seen: dict[str, list[Tensor]] = {"student": [], "teacher": []}
        self._hooks = []
        for student_layer, teacher_layer in pairs:
            self._hooks.append(student_layer.register_forward_hook(self._watch("student")))
            self._hooks.append(teacher_layer.register_forward_hook(self._watch("teacher")))
        self._pairs = bool(pairs) and hidden > 0

    def _watch(self, side: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._seen[side].append(output[0] if isinstance(output, tuple) else output)

        return hook

    def forget(self, student: Any) -> Any:
        """The student, on its own from now on."""
        for hook in self._hooks:
            hook.remove()
        return student

    def prepare(self, prepared: Any, features: Any, split: str) -> Any:
        return self.inner.prepare(prepared, features, split)

    def loss(self, net: Any, batch: dict[str, Tensor], turn: str = "all") -> tuple[Tensor, dict[str, float]]:
        wanted = batch.get("teacher")
        arrays = {name: one for name, one in batch.items() if name != "teacher"}
        if wanted is None:  # held-out rows are measured against the truth alone
            self._clear()
            found = self.inner.loss(net, arrays, turn)
            self._clear()
            return found  # type: ignore[no-any-return]
        from tollway.forge.models.net import TARGETS, loss_of

        self._clear()
        inputs = {name: one for name, one in arrays.items() if name not in TARGETS}
        outputs = net(**inputs)
        own, figures = loss_of(outputs, arrays, net.features.target.std)
        name = next(one for one in ("logits", "value", "score", "embedding") if one in outputs)
        soft = self._soft(outputs[name].float(), wanted.float(), net.features.target.std)
        total = 0.5 * own + 0.5 * soft
        if self._pairs:
            with torch.no_grad():
                self.teacher(**inputs)
            both = zip(self._seen["student"], self._seen["teacher"], strict=True)
            apart = [F.mse_loss(one.float(), other.float()) for one, other in both]
            total = total + self.hidden * torch.stack(apart).mean()
        self._clear()
        return total, {**figures, "teacher": float(soft.detach())}

    def _soft(self, given: Tensor, wanted: Tensor, std: float) -> Tensor:
        if given.dim() < 2 or given.shape[-1] == 1:
            return ((given.reshape(-1) - wanted.reshape(-1)) / std).square().mean()
        heat = self.temperature
        return F.kl_div((given / heat).log_softmax(-1), (wanted / heat).softmax(-1), reduction="batchmean") * heat**2

    def _clear(self) -> None:
        self._seen["student"].clear()
        self._seen["teacher"].clear()
