"""AdamW by rows is AdamW: the same weights as the library's, row by row, whenever they are read and when all is settled."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.forge.train import nets
from tollway.forge.steps import Stopped
from tollway.forge.train import loop
from tollway.forge.train import row_adamw as module
from tollway.forge.train.learner import Learner
from tollway.forge.train.objectives import get
from tollway.forge.train.plan import Plan
from tollway.forge.train.row_adamw import RowAdamW

WORDS, WIDTH, RATE, STEPS = 400, 8, 0.02, 200


class Read(nets.Bag):
    """The small net, which says that its table is read by rows alone."""

    def read_by_rows(self):
        return [self.table]


def read(seed: int = 1, **options: float) -> Read:
    torch.manual_seed(seed)
    return Read(**options)


def pair() -> list[nn.ModuleList]:
    made = []
    for _ in range(2):
        torch.manual_seed(1)
        made.append(nn.ModuleList([nn.Embedding(WORDS, WIDTH, padding_idx=0), nn.Linear(WIDTH, 3)]))
    return made


def groups(parts: nn.ModuleList) -> list[dict]:
    table, line = parts
    return [{"params": [table.weight, line.weight], "weight_decay": 0.1}, {"params": [line.bias], "weight_decay": 0.0}]


def test_rows_end_where_adamw_takes_them():
    ours, theirs = pair()
    optimisers = [RowAdamW(groups(ours), RATE, [ours[0]]), torch.optim.AdamW(groups(theirs), lr=RATE)]
    began = theirs[0].weight.detach().clone()
    chance = torch.Generator().manual_seed(2)
    for step in range(STEPS):
        ids = (torch.rand(6, 9, generator=chance) ** 4 * WORDS).long()  # few words often, many seldom, some never
        wanted = torch.randint(0, 3, (6,), generator=chance)
        for parts, optimiser in zip((ours, theirs), optimisers, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = RATE * (1 - step / STEPS)
            optimiser.zero_grad()
            functional.cross_entropy(parts[1](parts[0](ids).mean(1)), wanted).backward()
            optimiser.step()
        if step % 50 == 0:
            assert torch.allclose(ours[0](ids), theirs[0](ids), atol=2e-5)
    assert not torch.allclose(ours[0].weight, theirs[0].weight, atol=1e-4)  # some still wait
    optimisers[0].settle()
    apart, went = (ours[0].weight - theirs[0].weight).abs(), (theirs[0].weight - began).abs()
    assert apart.max() < 1e-3 * went.max() and apart.mean() < 1e-5 * went.mean()
    assert torch.allclose(ours[1].weight, theirs[1].weight, atol=2e-5)
    optimisers[0].close()
    ours[0](ids).sum().backward()
    assert not ours[0].weight.grad.is_sparse


def test_a_table_that_is_read_whole_is_moved_whole():
    ours, theirs = pair()
    optimisers = [RowAdamW(groups(ours), RATE, [ours[0]]), torch.optim.AdamW(groups(theirs), lr=RATE)]
    ids = torch.tensor([[1, 2, 3]])
    for _ in range(20):
        for parts, optimiser in zip((ours, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            (parts[0](ids).mean(1) @ parts[0].weight.T).square().mean().backward()
            optimiser.step()
    assert torch.allclose(ours[0].weight, theirs[0].weight, atol=1e-5)


@pytest.fixture
def every_table(monkeypatch):
    """Also tables as small as the tests' are moved by rows."""
    monkeypatch.setattr(module, "LEAST", 1)


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_the_loop_trains_the_same_net_either_way(tmp_path, every_table, clip):
    plan = Plan.of({"epochs": 4, "learning_rate": 0.02, "precision": "fp32", "weight_decay": 0.1, "clip": clip})
    results = []
    for net in (read(dropout=0.0), nets.bag(dropout=0.0)):
        desk = nets.desk(tmp_path / type(net).__name__)
        results.append((net, loop.run(net, nets.batches(), plan, desk, validation=nets.batches(100, seed=5))))
    (ours, ours_result), (theirs, theirs_result) = results
    assert all(
        torch.allclose(a, b, atol=1e-4)
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    assert ours_result.best == theirs_result.best and not ours.table.sparse


def test_stopped_and_started_again_it_goes_on_bit_for_bit(tmp_path, every_table):
    options = {"epochs": 3, "learning_rate": 0.02, "precision": "fp32", "weight_decay": 0.1}
    whole, held_out = read(dropout=0.3, words=300), nets.batches(60, seed=9)
    loop.run(whole, nets.batches(), Plan.of(options), nets.desk(tmp_path / "whole"), validation=held_out)
    asked: list[int] = []
    desk = nets.desk(tmp_path / "parts", stop=lambda: len(asked.append(1) or asked) in (5, 9, 20))
    for seed in (1, 97, 98):  # later ones begin with other weights: they come from the checkpoint
        with pytest.raises(Stopped):
            loop.run(
                read(seed=seed, words=300, dropout=0.3), nets.batches(), Plan.of(options), desk, validation=held_out
            )
    parts = read(seed=99, words=300, dropout=0.3)
    loop.run(parts, nets.batches(), Plan.of(options), desk, validation=held_out)
    assert nets.same(whole, parts)


def test_what_looks_at_whole_tables_gets_ordinary_ones(every_table):
    for more in ({"l1": 0.1}, {"adversarial": {"epsilon": 0.1}}, {"optimizer": "sgd"}):
        learner = Learner(read(), get("supervised", ""), Plan.of(more), 10, 0.1)
        assert not any(isinstance(each, RowAdamW) for each in learner.optimisers.values())


def test_small_batches_added_up_move_like_one_large_batch(every_table):
    encoded, targets = nets.texts(64)
    weights = []
    for rows, count in ((32, 1), (8, 4)):
        net = read(dropout=0.0)
        learner = Learner(net, get("supervised", ""), Plan.of({"precision": "fp32", "clip": 0.01}), 10, 0.01)
        batches = nets.Batches(encoded, targets, rows=rows)
        parts = [batches.batch(list(range(at, at + rows))) for at in range(0, 32, rows)]
        learner.step(parts, 9, [1 / count] * count)
        learner.settle()
        weights.append(net.table.weight.detach().clone())
    assert torch.allclose(*weights, atol=1e-5)
