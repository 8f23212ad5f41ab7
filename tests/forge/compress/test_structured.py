"""What is removed is really gone, and what was worth nothing is not missed."""

import pytest
import torch

from tests.forge.models import worlds
from tollway.forge import models
from tollway.forge.compress import prune, structured


def answers(net):
    task = net.spec.task
    rows = worlds.TABLES[task].to_pylist()
    arrays = net.features.collate(net.features.encode(rows))
    with torch.no_grad():
        return net.eval()(**{name: torch.from_numpy(one) for name, one in arrays.items()})["logits"]


def losses(net):
    return [lambda: net.loss(worlds.batch_of(net))[0]]


def silence(net, group, unit):
    """Make a unit give nothing: its columns in what takes it are zero."""
    for name, _ in group.takers:
        weight = net.get_submodule(name).weight
        weight.data.reshape(weight.shape[0], group.units, -1)[:, unit] = 0.0


CASES = [
    ("text-classification", "transformer", {"heads", "neurons"}),
    ("image-classification", "cnn", {"channels", "neurons"}),
    ("image-classification", "mlp", {"neurons"}),
]


@pytest.mark.parametrize(("task", "architecture", "kinds"), CASES)
def test_the_units_of_a_model_are_found(task, architecture, kinds):
    found = structured.groups(worlds.make(task, architecture=architecture))
    assert {one.kind for one in found} == kinds


@pytest.mark.parametrize(("task", "architecture", "kinds"), CASES)
def test_a_silent_unit_goes_first_and_changes_nothing(task, architecture, kinds, tmp_path):
    net = worlds.make(task, architecture=architecture)
    worlds.learn(net, 3)
    found = structured.groups(net)
    for one in found:
        silence(net, one, 1)
    before, count = answers(net), net.count()
    scores = {f"{one.kind} {one.name}": value for one, value in zip(found, structured.importance(net, found, losses(net)), strict=True)}
    for one in found:  # a unit that gives nothing has no importance in what takes it
        structured.remove(net, 1.01 / one.units, [one.kind], scores, [one])
    assert net.count() < count
    torch.testing.assert_close(answers(net), before, atol=2e-5, rtol=1e-4)
    models.save(net, tmp_path)
    torch.testing.assert_close(answers(models.load(tmp_path)), before, atol=2e-5, rtol=1e-4)


def test_one_unit_always_stays():
    net = worlds.make("image-classification", architecture="mlp", options={"hidden": [4]})
    structured.prune(net, 0.99, ("neurons",), losses(net))
    assert net.trunk[1].out_features == 1
    assert answers(net).shape == (16, 2)


def test_the_smallest_weights_become_zero_and_stay_zero():
    net = worlds.make("text-classification", architecture="transformer")
    kept = prune.masks(net, 0.5)
    prune.apply(net, kept)
    assert prune.zeros(net) == pytest.approx(0.5, abs=0.01)
    with prune.held(net, kept):
        worlds.learn(net, 3)
    assert prune.zeros(net) == pytest.approx(0.5, abs=0.01)
    weights = dict(net.named_parameters())
    assert all((weights[name][~mask] == 0).all() for name, mask in kept.items())
    assert "head.out.weight" not in kept  # the answer's layer is small and worth all of it


def test_of_each_layer_or_of_all_together():
    net = worlds.make("text-classification", architecture="transformer")
    each = prune.masks(net, 0.3, each_layer=True)
    shares = [1 - float(mask.float().mean()) for mask in each.values()]
    assert max(shares) - min(shares) < 0.01
    together = prune.masks(net, 0.3)
    other = [1 - float(mask.float().mean()) for mask in together.values()]
    assert max(other) - min(other) > 0.02
