"""Every architecture and task: it learns its small world by heart, is the same after saving, and does not mind neighbours."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.forge.models import worlds
from tollway.forge import models
from tollway.forge.models import options
from tollway.kit.errors import BadRequest

SMALL = {
    "rnn": {"width": 16, "min_count": 1}, "gru": {"width": 16, "min_count": 1}, "lstm": {"width": 16, "layers": 2, "min_count": 1},
    "bilstm": {"width": 16, "layers": 2, "min_count": 1}, "transformer": {"width": 32, "layers": 1, "min_count": 1},
    "seq2seq": {"width": 32, "layers": 1, "vocabulary": 300, "dropout": 0.0}, "cnn": {"filters": [8, 16]}, "mlp": {"hidden": [32]},
    "vae": {"filters": 8, "noise": 8}, "gan": {"filters": 8, "noise": 8}, "linear": {}, "tabular": {"width": 16},
    "centernet": {"filters": 8}, "two-tower": {"hidden": [8], "unknown": 0.0}, "matrix-factorisation": {"unknown": 0.0},
}  # fmt: skip
CASES = [
    (name, task)
    for name, one in options.ARCHITECTURES.items()
    for task in one.tasks
    if name in SMALL and task in worlds.TABLES
]


def apart(one, other):
    """The largest difference between two lists of raw outputs."""
    return max(
        float(np.abs(left[name].astype(float) - right[name]).max())
        for left, right in zip(one, other, strict=True)
        for name in left
    )


@pytest.mark.parametrize(("name", "task"), CASES, ids=lambda one: str(one))
def test_learns_by_heart_and_is_the_same_after_saving(name, task, tmp_path):
    small = {key: one for key, one in SMALL[name].items() if key in options.of(name).options.model_fields}
    net = worlds.make(task, architecture=name, options={"dropout": 0.0, **small})
    if name == "gan":  # two that play against each other: neither wins, but the painter changes
        before = net.painter.enter.weight.detach().clone()
        worlds.learn(net, 10)
        assert not torch.equal(before, net.painter.enter.weight)
    else:
        history = worlds.learn(net, 60, 0.03 if name == "linear" else 0.01)
        assert history[-1] < history[0] * (0.95 if name == "vae" else 0.6)
    predictor, rows = models.TorchPredictor(net), worlds.ask(task)
    answers = predictor.predict(rows)
    models.save(net, tmp_path)
    again = models.TorchPredictor(models.load(tmp_path))
    assert again.predict(rows) == answers
    if task != "translation":
        assert apart(predictor.outputs(rows), [predictor.outputs([row])[0] for row in rows]) < 1e-4


@pytest.mark.parametrize("name", ["bilstm", "transformer", "tabular", "cnn", "matrix-factorisation", "vae"])
def test_the_same_seed_makes_the_same_weights(name):
    task = next(task for one, task in CASES if one == name)
    one, same, other = (worlds.make(task, seed, architecture=name, options=SMALL[name]) for seed in (1, 1, 2))
    from tollway.forge.models.folders import same_weights

    assert same_weights(one, same)
    assert not same_weights(one, other)


def test_making_a_net_leaves_the_callers_randomness_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    worlds.make("text-classification", architecture="gru", options={"min_count": 1})
    assert torch.rand(1) == expected


def test_a_plain_recurrent_layer_asked_is_the_one_that_learnt():
    """Asked, it runs as a gated layer whose gates stand still; that must be the same function."""
    from tollway.forge.models.recurrent import Plain

    layer, rows = Plain(5, 7, batch_first=True), torch.randn(3, 11, 5)
    learnt = layer.train()(rows)[0]
    assert torch.allclose(learnt, layer.eval()(rows)[0], atol=1e-6)


def test_reading_backwards_begins_at_each_rows_own_end():
    from tollway.forge.models.recurrent import flip, reversal

    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    states = torch.arange(12.0).reshape(3, 4, 1)
    turned = flip(states, reversal(mask)).squeeze(-1)
    assert turned.tolist() == [[2, 1, 0, 3], [4, 5, 6, 7], [11, 10, 9, 8]]
    assert torch.equal(flip(turned.unsqueeze(-1), reversal(mask)), states)


def test_own_layers_agree_with_torchs_bidirectional_lstm():
    """Ours reverses rows to be exportable; torch packs them. Same weights, same states."""
    net = worlds.make("text-classification", architecture="bilstm", options={"width": 8, "min_count": 1}).eval()
    reference = torch.nn.LSTM(128, 8, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for name, one in net.forwards[0].named_parameters():
            getattr(reference, name).copy_(one)
        for name, one in net.backwards[0].named_parameters():
            getattr(reference, f"{name}_reverse").copy_(one)
        arrays = {
            name: torch.from_numpy(one)
            for name, one in net.features.collate(net.features.encode(worlds.ASK["text"])).items()
        }
        lengths = arrays["attention_mask"].sum(1)
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            net.embedding(arrays["input_ids"]), lengths, batch_first=True, enforce_sorted=False
        )
        expected, _ = torch.nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
        found = net.states(arrays["input_ids"], arrays["attention_mask"]) * arrays["attention_mask"].unsqueeze(-1)
    assert torch.allclose(found, expected, atol=1e-6)


def test_own_attention_agrees_with_torchs():
    from tollway.forge.models.encoder import Attention

    own, reference = Attention(16, 4, 0.0), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
        reference.in_proj_bias.copy_(torch.cat([own.query.bias, own.key.bias, own.value.bias]))
        reference.out_proj.load_state_dict(own.out.state_dict())
    states, hidden = torch.randn(2, 5, 16), torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
    expected = reference(states, states, states, key_padding_mask=hidden)[0]
    bias = hidden[:, None, None, :].float() * -1e4
    assert torch.allclose(own(states, states, bias), expected, atol=1e-5)


def test_linear_regression_finds_the_least_squares():
    """Against the closed form, on real columns."""
    import pyarrow as pa
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    table = pa.table({**{f"c{place}": data.data[:, place] for place in range(10)}, "target": data.target})
    part = worlds.Part(architecture="linear")
    features = models.fit_features(part, "tabular-regression", table)
    net = models.create(part, "tabular-regression", features, 7)
    rows = table.to_pylist()
    batch = {
        name: torch.from_numpy(one)
        for name, one in (features.collate(features.encode(rows)) | features.targets(rows)).items()
    }
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3000):
        loss, figures = net.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    left = np.c_[data.data, np.ones(len(data.data))]
    best = np.linalg.lstsq(left, data.target, rcond=None)[0]
    assert figures["rmse"] == pytest.approx(np.sqrt(np.mean((left @ best - data.target) ** 2)), rel=1e-3)


@pytest.mark.parametrize("goal", ["rotation", "masked_image"])
def test_goals_without_labels_teach_the_trunk(goal):
    net = worlds.make("image-classification", architecture="cnn", options={"filters": [8, 16]})
    before = [one.detach().clone() for one in net.trunk.parameters()]
    wrapper = getattr(models, goal)(net)
    history = []
    optimiser = torch.optim.AdamW(wrapper.parameters_of("all"), lr=1e-2)
    pixels = {"pixel_values": worlds.batch_of(net)["pixel_values"]}
    torch.manual_seed(0)
    for _ in range(30):
        loss, _ = wrapper.loss(pixels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(float(loss.detach()))
    assert np.mean(history[-5:]) < 0.9 * np.mean(history[:5])
    assert all(not torch.equal(one, other) for one, other in zip(before, net.trunk.parameters(), strict=True))


def test_goals_for_pictures_refuse_other_nets():
    with pytest.raises(BadRequest, match="no image network"):
        models.rotation(worlds.make("tabular-regression", architecture="linear"))


def test_only_each_turns_own_parameters_are_offered():
    net = worlds.make("image-generation", architecture="gan", options=SMALL["gan"])
    critic, painter = (set(map(id, net.parameters_of(turn))) for turn in net.turns)
    assert critic and painter and not critic & painter
    assert len(critic | painter) == sum(one.requires_grad for one in net.parameters())


def test_what_a_gan_shows_is_the_running_mean_of_its_painter():
    """It follows while it trains and at no other time; the weights that are counted are those that draw."""
    net = worlds.make("image-generation", architecture="gan", options=SMALL["gan"])
    batch = worlds.batch_of(net)
    arrays = net.example(3)
    net.train()
    net.loss(batch, "discriminator")
    with torch.no_grad():
        net.painter.enter.weight.add_(1.0)
    shown = net.eval()(**arrays)["image"]
    assert torch.equal(shown, net(**arrays)["image"]), "looking changes nothing"
    net.loss(batch, "discriminator")
    assert torch.equal(shown, net(**arrays)["image"]), "nor does a look at held-out rows"
    before = net.slow.enter.weight.clone()
    for _ in range(200):
        net.train().loss(batch, "discriminator")
    assert not torch.equal(shown, net.eval()(**arrays)["image"])
    apart = [(one - net.painter.enter.weight).abs().mean() for one in (before, net.slow.enter.weight)]
    assert apart[1] < 0.05 * apart[0]
    assert net.count() == sum(one.numel() for one in (*net.painter.parameters(), *net.critic.parameters()))


def test_smaller_layers_are_loaded_as_they_are(tmp_path):
    """Structured pruning leaves fewer neurons than the options say."""
    net = worlds.make("text-classification", architecture="transformer", options=SMALL["transformer"])
    block = net.stack.blocks[0]
    with torch.no_grad():
        grow, shrink = torch.nn.Linear(32, 10), torch.nn.Linear(10, 32)
        grow.weight.copy_(block.grow.weight[:10])
        shrink.weight.copy_(block.shrink.weight[:, :10])
        for name in ("query", "key", "value"):  # one of four heads is left
            small = torch.nn.Linear(32, 8)
            small.weight.copy_(getattr(block.attention, name).weight[:8])
            setattr(block.attention, name, small)
        out = torch.nn.Linear(8, 32)
        out.weight.copy_(block.attention.out.weight[:, :8])
    block.grow, block.shrink, block.attention.out = grow, shrink, out
    answers = models.TorchPredictor(net.eval()).predict(worlds.ASK["text"])
    models.save(net, tmp_path)
    assert models.TorchPredictor(models.load(tmp_path)).predict(worlds.ASK["text"]) == answers


def test_weights_of_another_model_are_refused(tmp_path):
    models.save(worlds.make("text-classification", architecture="gru", options={"min_count": 1}), tmp_path)
    other = worlds.make("image-classification", architecture="mlp")
    from tollway.forge.models.folders import write_weights

    write_weights(other, tmp_path / "model.safetensors")
    with pytest.raises(BadRequest, match="do not fit"):
        models.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BadRequest, match="damaged"):
        models.load(tmp_path)


GRAPHS = [
    "linear/tabular-classification", "linear/text-regression", "linear/image-classification", "tabular/tabular-regression",
    "mlp/image-classification", "cnn/image-classification", "two-tower/recommendation", "vae/image-generation",
    "gan/image-generation", "transformer/sentence-embedding", "transformer/token-classification",
    "bilstm/text-classification", "lstm/token-classification", "gru/text-classification", "rnn/text-classification",
    "seq2seq/translation",
]  # fmt: skip
EXPORT = """
import sys, pathlib, tempfile
from tests.forge.models import worlds
from tests.forge.models.test_architectures import SMALL, apart
from tollway import inference
from tollway.forge import models
from tollway.forge.convert import flat, onnx
from tollway.forge.models import options
for case in sys.argv[1:]:
    name, task = case.split("/")
    known = options.of(name).options.model_fields
    net = worlds.make(task, architecture=name, options={key: one for key, one in SMALL[name].items() if key in known})
    folder = pathlib.Path(tempfile.mkdtemp())
    models.save(net, folder)
    onnx.export(flat.source_of(net), folder / "model.onnx")
    rows = worlds.ask(task) * 2
    if task == "translation":
        one, other = (each.predict(rows) for each in (models.TorchPredictor(net), inference.load(folder)))
        assert [answer["text"] for answer in one] == [answer["text"] for answer in other]
    else:
        assert apart(models.TorchPredictor(net).outputs(rows), inference.load(folder).outputs(rows)) < 1e-4, case
"""


@pytest.mark.slow
def test_every_graph_runs_in_onnx_runtime_with_any_rows_and_length():
    """In a process of its own: the exporter leaves torch changed."""
    run = subprocess.run([sys.executable, "-c", EXPORT, *GRAPHS], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
