"""Students: the model with fewer layers, or another architecture on the same arrays."""

import copy
from typing import Any

from torch import nn

from tollway.forge import models
from tollway.forge.recipe import Model
from tollway.kit.errors import BadRequest


def fewer_layers(net: Any, count: int) -> Any:
    """A copy that keeps `count` layers: it starts from what they know. Evenly spaced ones, the last among them; where the first
    layer alone fits the vectors of words (recurrent ones), the lowest."""
    student = copy.deepcopy(net)
    stack = stack_of(student)
    if stack is None or len(stack) <= count:
        have = len(stack) if stack is not None else 0
        raise BadRequest(
            f"distil:{count}: the model has {have} layers, a student needs fewer of them.",
            hint="Name an architecture instead, such as distil:bilstm.",
        )
    kept = spaced(len(stack), count) if _alike(stack) else list(range(count))
    for one in [one for one in _stacks(student) if len(one) == len(stack)]:
        layers = list(one)
        del one[:]
        one.extend(layers[place] for place in kept)
    if "layers" in student.spec.options:
        student.spec.options = {**student.spec.options, "layers": count}
    config = getattr(getattr(student, "hf", None), "config", None)
    if config is not None:
        config.num_hidden_layers = count
    return student


def other_architecture(net: Any, name: str, options: dict[str, Any], seed: int) -> Any:
    """A fresh net of another architecture that reads the same features."""
    return models.create(Model(architecture=name, base="", options=options), net.spec.task, net.features, seed)


def pairs(student: Any, teacher: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Which layer of the student should think what which layer of the teacher thinks; none when widths differ."""
    mine, others = stack_of(student), stack_of(teacher)
    if mine is None or others is None or type(mine[0]) is not type(others[0]) or _width(mine) != _width(others):
        return []
    return [(mine[number], others[place]) for number, place in enumerate(spaced(len(others), len(mine)))]


def stack_of(net: nn.Module) -> nn.ModuleList | None:
    """The longest list of layers."""
    stacks = _stacks(net)
    return max(stacks, key=len) if stacks else None


def _stacks(net: nn.Module) -> list[nn.ModuleList]:
    """Layers one above the other: not the tables of a row's columns, which stand side by side."""
    found = [one for one in net.modules() if isinstance(one, nn.ModuleList) and len(one)]
    return [one for one in found if not isinstance(one[0], nn.Embedding)]


def _alike(stack: nn.ModuleList) -> bool:
    """Whether each layer could stand in any place."""
    shapes = [[one.shape for one in layer.parameters()] for layer in stack]
    return all(one == shapes[0] for one in shapes)


def spaced(have: int, wanted: int) -> list[int]:
    """`wanted` places of 0..have-1, evenly spaced, the last included."""
    return [round((number + 1) * have / wanted) - 1 for number in range(wanted)]


def _width(stack: nn.ModuleList) -> int:
    norms = [one for one in stack.modules() if isinstance(one, nn.LayerNorm)]
    return int(norms[0].normalized_shape[0]) if norms else 0
