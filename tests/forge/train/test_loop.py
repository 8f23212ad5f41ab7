"""The loop: it learns with every optimiser and schedule, keeps the best, ends early, and says what to do when it diverges."""

import numpy as np
import pytest
import torch

from tests.forge.train import nets
from tollway.forge.train import attention, loop, precision
from tollway.forge.train.batches import Batches
from tollway.forge.train.learner import Learner, set_dropout
from tollway.forge.train.objectives import get
from tollway.forge.train.plan import OPTIMIZERS, Plan
from tollway.forge.train.quick_dropout import quick, quick_dropout
from tollway.kit.errors import BadRequest, Conflict

RATES = {"sgd": 0.3, "adagrad": 0.1, "rmsprop": 0.01, "adam": 0.01, "adamw": 0.01, "adafactor": 0.05}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimiser_learns(tmp_path, optimizer):
    plan = Plan.of({"epochs": 5, "optimizer": optimizer, "learning_rate": RATES[optimizer]})
    result = loop.run(nets.bag(), nets.batches(), plan, nets.desk(tmp_path), validation=nets.batches(100, seed=5))
    assert result.metric == "accuracy" and result.best > 0.75
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_both_precisions_learn_and_the_weights_stay_whole(tmp_path, chosen):
    net, seen = nets.bag(), []
    net.head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    plan = Plan.of({"epochs": 5, "precision": chosen, "learning_rate": 0.01})
    result = loop.run(net, nets.batches(), plan, nets.desk(tmp_path), validation=nets.batches(100, seed=5))
    assert result.best > 0.75 and set(seen) == {torch.bfloat16 if chosen == "bf16" else torch.float32}
    assert {one.dtype for one in net.parameters()} == {torch.float32}


def test_the_same_plan_gives_the_same_weights_and_another_seed_others(tmp_path):
    made = []
    for number, seed in enumerate((3, 3, 4)):
        net = nets.bag(dropout=0.2)
        loop.run(net, nets.batches(), Plan.of({"epochs": 1}, seed=seed), nets.desk(tmp_path / str(number)))
        made.append(net)
    assert nets.same(made[0], made[1]) and not nets.same(made[0], made[2])


def test_accumulated_small_batches_move_like_one_large_batch(tmp_path):
    encoded, targets = nets.texts(64)
    weights = []
    for rows, accumulate in ((32, 1), (8, 4)):
        net = nets.bag(dropout=0.0)
        plan = Plan.of({"optimizer": "sgd", "learning_rate": 0.1, "clip": 0, "precision": "fp32"})
        learner = Learner(net, get("supervised", ""), plan, 10, 0.1)
        batches = Batches(encoded, targets, rows=rows)
        parts = [list(range(at, at + rows)) for at in range(0, 32, rows)]
        assert len(parts) == accumulate
        learner.step([batches.batch(part) for part in parts], 9, [1 / accumulate] * accumulate)
        weights.append(net.head.weight.detach().clone())
    assert torch.allclose(*weights, atol=1e-6)


def test_early_stopping_ends_with_the_best_weights(tmp_path):
    chance = np.random.default_rng(0)
    encoded, _ = nets.texts(60)
    noise = Batches(encoded, {"label": chance.integers(0, 3, 60)}, budget_tokens=160)  # nothing to learn but by heart
    plan = Plan.of({"epochs": 60, "learning_rate": 0.03, "early_stopping": {"patience": 2, "metric": "loss"}})
    desk = nets.desk(tmp_path)
    net = nets.bag(dropout=0.0)
    held_out = nets.batches(100, seed=5)
    result = loop.run(net, noise, plan, desk, validation=held_out)
    assert result.stopped_early and result.best == min(row["loss"] for row in result.history)
    from tollway.forge.train import judge

    assert judge.measure(net, get("supervised", ""), held_out, result.precision)["loss"] == pytest.approx(result.best, abs=1e-6)
    assert any("Stopped early" in event.get("text", "") for event in desk.seen)


def test_a_metric_that_is_not_measured_is_named_with_those_that_are(tmp_path):
    plan = Plan.of({"epochs": 1, "early_stopping": {"patience": 1, "metric": "rmse"}})
    with pytest.raises(Conflict, match="there are accuracy, loss"):
        loop.run(nets.bag(), nets.batches(), plan, nets.desk(tmp_path), validation=nets.batches(20))


def test_a_loss_that_is_not_a_number_stops_with_what_to_try(tmp_path):
    net = nets.bag()
    with torch.no_grad():
        net.head.weight[0, 0] = float("nan")
    with pytest.raises(Conflict, match=r"became nan at step 1") as caught:
        loop.run(net, nets.batches(), Plan.of({"learning_rate": 1.0, "clip": 0}), nets.desk(tmp_path))
    assert caught.value.code == "training_diverged"
    assert "learning_rate = 0.1" in caught.value.hint and "clip = 1.0" in caught.value.hint


def test_rows_that_are_not_finite_are_named(tmp_path):
    class Line(torch.nn.Linear):
        def loss(self, batch, turn="all"):
            return (self(batch["values"]).squeeze(-1) - batch["target"]).square().mean(), {}

    rows = [{"values": np.array([1.0, float("inf") if at == 7 else at], dtype=np.float32)} for at in range(16)]
    batches = Batches(rows, {"target": np.zeros(16, dtype=np.float32)}, rows=4)
    with pytest.raises(Conflict) as caught:
        loop.run(Line(2, 1), batches, Plan.of({"epochs": 2}), nets.desk(tmp_path))
    assert "not finite in values" in caught.value.hint


def test_turns_train_their_own_half(tmp_path):
    points = np.random.default_rng(0).normal(3.0, 0.3, (64, 2)).astype(np.float32)
    batches = Batches([{"point": point} for point in points], rows=16)
    torch.manual_seed(0)
    duel = nets.Duel()
    plan = Plan.of({"epochs": 100, "optimizer": "rmsprop", "learning_rate": 0.003, "schedule": "constant", "warmup": 0})
    loop.run(duel, batches, plan, nets.desk(tmp_path))
    made = duel(torch.randn(500, 2))["image"].mean(0)
    assert (made - 3.0).norm().item() < 2.0  # it began 4.2 away


def test_halves_that_work_against_each_other_have_no_best_moment(tmp_path):
    points = np.random.default_rng(0).normal(3.0, 0.3, (32, 2)).astype(np.float32)
    batches = Batches([{"point": point} for point in points], rows=16)
    result = loop.run(nets.Duel(), batches, Plan.of({"epochs": 3}), nets.desk(tmp_path), validation=batches)
    assert result.best is None and len(result.history) == 3


def test_a_turn_leaves_the_other_half_alone():
    duel = nets.Duel()
    learner = Learner(duel, get("supervised", ""), Plan.of({"learning_rate": 0.1}), 10, 0.1)
    generator = learner.optimisers.pop("generator")
    before = [each.detach().clone() for each in duel.generator.parameters()]
    learner.step([{"point": torch.randn(4, 2)}], 5, [1.0])
    assert all(torch.equal(a, b) for a, b in zip(before, duel.generator.parameters(), strict=True))
    assert generator is not None


def test_fgm_adds_the_gradient_of_moved_words_and_puts_them_back():
    plans = [Plan.of({"learning_rate": 1e-9, "optimizer": "sgd", "clip": 0, **more}) for more in ({}, {"adversarial": {"epsilon": 1.0}})]
    gradients, tables = [], []
    for plan in plans:
        net = nets.bag(dropout=0.0)
        before = net.table.weight.detach().clone()
        Learner(net, get("supervised", ""), plan, 10, 1e-9).step([nets.batches().batch([0, 1, 2])], 0, [1.0])
        gradients.append(net.head.weight.grad.norm())
        tables.append(torch.allclose(before, net.table.weight, atol=1e-6))
    assert gradients[1] > 1.5 * gradients[0] and all(tables)


def test_fgm_without_words_is_refused():
    plan = Plan.of({"adversarial": {"epsilon": 1.0}, "learning_rate": 0.1})
    with pytest.raises(Conflict, match="moves word vectors"):
        learner = Learner(nets.Duel(), get("supervised", ""), plan, 10, 0.1)
        learner.optimisers.pop("discriminator")
        learner.step([{"point": torch.randn(4, 2)}], 0, [1.0])


@pytest.mark.parametrize(("name", "value"), [("l1", 0.05), ("weight_decay", 0.5)])
def test_regularisers_make_weights_smaller(tmp_path, name, value):
    sizes = []
    for number, options in enumerate(({name: 0.0}, {name: value})):
        net = nets.bag()
        plan = Plan.of({"epochs": 3, "learning_rate": 0.01, "optimizer": "adamw", **options})
        loop.run(net, nets.batches(), plan, nets.desk(tmp_path / str(number)))
        sizes.append(float(net.hidden.weight.detach().abs().sum()))
    assert sizes[1] < 0.95 * sizes[0]


def test_dropout_is_overridden_everywhere():
    net = torch.nn.Sequential(torch.nn.LSTM(2, 2, 2, dropout=0.4), torch.nn.Dropout(0.1))
    assert set_dropout(net, 0.25) == 2
    assert net[0].dropout == net[1].p == 0.25


def test_quick_dropout_drops_the_share_and_keeps_the_mean():
    torch.manual_seed(0)
    values = torch.ones(200_003, requires_grad=True)
    made = quick_dropout(values, 0.3)
    assert float((made == 0).float().mean()) == pytest.approx(0.3, abs=0.005)
    assert made.mean().item() == pytest.approx(1.0, abs=0.01)
    made.sum().backward()
    assert torch.equal(values.grad, made.detach())
    net = torch.nn.Dropout(0.5)
    with quick(net):
        assert torch.equal(net.eval()(torch.ones(4)), torch.ones(4))
    assert type(net) is torch.nn.Dropout


def test_own_attention_is_the_libraries_attention():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)).eval()
    ids, mask = torch.randint(1, 40, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    outputs = {}
    for kind in ("eager", attention.OWN):
        attention.use(model, kind)
        outputs[kind] = model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    assert torch.allclose(outputs["eager"], outputs[attention.OWN], atol=1e-5)


def test_the_choice_of_precision_is_made_once_and_kept(tmp_path):
    plan = Plan.of({"precision": "bf16"})
    choice = precision.choose(nets.bag(), get("supervised", ""), nets.batches(), plan, tmp_path)
    assert choice.precision == "bf16"
    again = precision.choose(nets.bag(), get("supervised", ""), nets.batches(), Plan.of({"precision": "fp32"}), tmp_path)
    assert again == choice


def test_measuring_leaves_no_trace():
    net = nets.bag(words=20_000)
    before, state = {name: each.clone() for name, each in net.state_dict().items()}, torch.get_rng_state()
    precision._measured(net, get("supervised", ""), nets.batches(), Plan.of({}))
    assert all(torch.equal(before[name], each) for name, each in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and all(each.grad is None for each in net.parameters())


def test_an_unknown_objective_is_named_with_the_nearest():
    with pytest.raises(BadRequest, match="did you mean 'causal'"):
        get("casual", "language-modeling")


def test_a_fresh_run_on_this_machine_chooses_the_same_without_measuring(tmp_path, monkeypatch):
    first = precision.choose(nets.bag(words=20_000), get("supervised", ""), nets.batches(), Plan.of({}), tmp_path / "a", home=tmp_path)
    assert first.why
    monkeypatch.setattr(precision, "_measured", None)  # it would not be callable
    again = precision.choose(nets.bag(words=20_000), get("supervised", ""), nets.batches(), Plan.of({}), tmp_path / "b", home=tmp_path)
    assert again == first
    with pytest.raises(TypeError):
        precision.choose(nets.bag(words=30_000), get("supervised", ""), nets.batches(), Plan.of({}), tmp_path / "c", home=tmp_path)
