"""Explanations from inside real nets: completeness, the laws of rollout, and what a planted signal must show."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import processors

from tollway import inference
from tollway.forge import explain, models
from tollway.forge.explain.inside import LiveNet
from tollway.forge.recipe import Model
from tollway.inference import inside
from tollway.inference.masking import cut
from tollway.kit.errors import BadRequest

TEXTS = [
    "a lovely film",
    "a dreadful film",
    "lovely and funny",
    "dreadful and long",
    "很好看的电影",
    "很难看的电影",
] * 4
LABELS = ["good", "bad", "good", "bad", "good", "bad"] * 4


def trained(part, task, table, steps=60, rate=0.02):
    """A small net fitted to a table in a second."""
    torch.manual_seed(0)
    features = models.fit_features(part, task, table)
    net = models.create(part, task, features, 0)
    rows = table.to_pylist()
    batch = features.collate(features.encode(rows)) | features.targets(rows)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in batch.items()}
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    net.train()
    for _ in range(steps):
        optimiser.zero_grad()
        loss, _ = net.loss(tensors)
        loss.backward()
        optimiser.step()
    return models.TorchPredictor(net.eval())


@pytest.fixture(scope="module", params=["bilstm", "transformer"])
def reader(request):
    rate = {"bilstm": 0.02, "transformer": 0.001}[request.param]
    table = pa.table({"text": TEXTS, "label": LABELS})
    return trained(Model(architecture=request.param), "text-classification", table, 40, rate)


@pytest.fixture(scope="module")
def counter():
    rng = np.random.default_rng(0)
    size = 300
    income, age, job = rng.normal(50, 10, size), rng.normal(40, 9, size), rng.choice(["cook", "clerk"], size)
    target = 0.8 * income + 6.0 * (job == "cook")
    table = pa.table({"income": income, "age": age, "job": job.tolist(), "target": target})
    return trained(Model(architecture="tabular"), "tabular-regression", table, 120, 0.01)


@pytest.mark.parametrize("text", ["a lovely but long film", "dreadful", "很好看 but dreadful and long, dreadful"])
def test_integrated_gradients_are_complete(reader, text):
    found = explain.explain(reader, {"text": text}, "integrated-gradients", target="good")
    total = sum(unit["weight"] for unit in found.units)
    assert total == pytest.approx(found.value - found.base, abs=0.02)
    assert found.value == pytest.approx(reader.predict([{"text": text}])[0]["scores"]["good"], abs=1e-5)
    assert found.checks["completeness_gap"] <= 0.02


def test_gradients_point_at_the_words_that_were_learnt(reader):
    found = explain.explain(reader, {"text": "a lovely film"}, "integrated-gradients", target="good")
    words = {unit["text"].strip(): unit["weight"] for unit in found.units}
    assert max(words, key=words.get) == "lovely"
    assert found.faithfulness["gain"] > 0


def test_a_table_is_explained_by_column(counter):
    row = {"income": 70.0, "age": 40.0, "job": "cook"}
    found = explain.explain(counter, row, "integrated-gradients")
    weights = {unit["field"]: unit["weight"] for unit in found.units}
    assert sum(weights.values()) == pytest.approx(found.value - found.base, rel=0.03)
    assert weights["income"] > 8 and abs(weights["age"]) < 3


def test_a_picture_is_explained_where_the_ink_is():
    rng = np.random.default_rng(1)
    images, labels = [], []
    for at in range(60):
        picture = rng.integers(0, 30, (14, 14), dtype=np.uint8)
        left = at % 2 == 0
        picture[2:6, slice(1, 5) if left else slice(9, 13)] = 250
        images.append(picture)
        labels.append("left" if left else "right")
    from tollway.inference.image import png

    blobs = [png(one[None] / 255.0) for one in images]
    reader = trained(
        Model(architecture="mlp"), "image-classification", pa.table({"image": blobs, "label": labels}), 60, 0.003
    )
    found = explain.explain(reader, {"image": blobs[0]}, "integrated-gradients", target="left")
    best = max(found.units, key=lambda unit: unit["weight"])
    assert best["box"][0] < 7 and best["box"][1] < 8
    assert sum(unit["weight"] for unit in found.units) == pytest.approx(found.value - found.base, abs=0.05)


def test_rollout_rows_are_shares():
    rng = np.random.default_rng(2)
    maps = [rng.dirichlet(np.ones(5), size=5) for _ in range(4)]
    rolled = inside.rollout(maps)
    assert rolled.sum(axis=1) == pytest.approx(np.ones(5)) and (rolled >= 0).all()
    assert inside.rollout([np.eye(5)] * 3) == pytest.approx(np.eye(5))


def test_attention_of_our_encoder():
    table = pa.table({"text": TEXTS, "label": LABELS})
    reader = trained(Model(architecture="transformer"), "text-classification", table, 5)
    found = explain.explain(reader, {"text": "a lovely film"}, "attention")
    assert sum(unit["weight"] for unit in found.units) == pytest.approx(1, abs=0.01)
    assert found.extra["layers"] >= 1 and "gain" in found.faithfulness


@pytest.mark.parametrize("marked", [False, True], ids=["joined by us", "joined by the tokenizer"])
def test_each_word_of_two_texts_has_its_own_weight(marked):
    """The same words in both texts: a token belongs to a word of its own text. The report draws as many places as there are."""
    table = pa.table({"text": TEXTS, "text_b": TEXTS[::-1], "label": LABELS})
    reader = trained(Model(architecture="transformer"), "text-classification", table, 2)
    if marked:
        tokenizer, unknown = reader.features.tokenizer, reader.features.unknown_id
        mark = tokenizer.id_to_token(unknown)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A", pair=f"{mark} $A {mark} $B:1", special_tokens=[(mark, unknown)]
        )
    found = explain.explain(reader, {"text": "a lovely film", "text_b": "funny a lovely film"}, "attention")
    assert len(found.extra["tokens"]) == len(found.extra["rollout"]) == 8 + marked
    assert [unit["field"] for unit in found.units] == ["text"] * 3 + ["text_b"] * 4
    weights = [unit["weight"] for unit in found.units]
    assert min(weights) > 0 and 0.5 < sum(weights) < 1  # the marks between them have the rest


def test_a_net_without_attention_says_so():
    table = pa.table({"text": TEXTS, "label": LABELS})
    reader = trained(Model(architecture="bilstm"), "text-classification", table, 1)
    with pytest.raises(BadRequest, match="no attention"):
        explain.explain(reader, {"text": "a lovely film"}, "attention")


def test_long_inputs_are_walked_in_parts_and_it_makes_no_difference(counter, monkeypatch):
    row = {"income": 70.0, "age": 40.0, "job": "cook"}
    whole = explain.explain(counter, row, "integrated-gradients")
    monkeypatch.setattr(inside, "_FLOATS_AT_ONCE", 1)
    parts = explain.explain(counter, row, "integrated-gradients")
    ours, theirs = ([unit["weight"] for unit in one.units] for one in (parts, whole))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_words_of_both_texts_of_a_pair_get_their_own_weights():
    table = pa.table({"text": ["a film"] * 24, "text_b": TEXTS, "label": LABELS})
    reader = trained(Model(architecture="linear"), "text-classification", table, 60)
    row = {"text": "a film", "text_b": "a lovely film"}
    found = explain.explain(reader, row, "integrated-gradients", target="good")
    best = max(found.units, key=lambda unit: unit["weight"])
    assert (best["field"], best["text"].strip()) == ("text_b", "lovely")
    assert sum(unit["weight"] for unit in found.units) == pytest.approx(found.value - found.base, abs=0.02)


@pytest.mark.parametrize("frame", [False, True])
def test_each_token_of_a_pair_is_known_by_its_place(frame):
    table = pa.table({"text": TEXTS, "text_b": TEXTS[::-1], "label": LABELS})
    features = inference.fit("text-classification", table, {"frame": frame, "min_count": 1})
    row = {"text": "a lovely film", "text_b": "dreadful film"}
    places = inside._places(features, row)
    assert len(places) == len(features.encode([row])[0]["input_ids"])
    assert [row[name][low:high] for name, low, high in places if high > low] == ["a", "lovely", "film", "dreadful", "film"]


def test_inside_methods_need_a_net():
    class Closed:
        def predict(self, rows):
            return [{"value": 1.0} for _ in rows]

    with pytest.raises(BadRequest, match="looks inside"):
        explain.explain(Closed(), {"a": 1.0}, "integrated-gradients")
    assert explain.explain(Closed(), {"a": 1.0}, "shap").units[0]["weight"] == 0


def test_our_gradients_are_captums():
    """The same path and points as captum's, on the numbers of a table."""
    from captum.attr import IntegratedGradients

    table = pa.table({"a": np.linspace(-1, 1, 40), "b": np.linspace(2, -2, 40) ** 2, "target": np.linspace(0, 3, 40)})
    reader = trained(Model(architecture="tabular"), "tabular-regression", table, 40, 0.01)
    pieces = cut(reader, {"a": 0.7, "b": 1.1})
    arrays = reader.features.collate(reader.features.encode([pieces.row]))
    nothing = reader.features.collate(reader.features.encode(pieces.rows(np.zeros(2, bool))))
    theirs = IntegratedGradients(lambda numbers: reader.net(numbers=numbers)["value"]).attribute(
        torch.from_numpy(arrays["numbers"]), torch.from_numpy(nothing["numbers"]), n_steps=64, method="gausslegendre"
    )
    ours, _ = inside.integrated_gradients(
        inside.Path(LiveNet(reader.net), arrays, nothing), inside.picking(reader.features, "value")
    )
    assert ours["floats"][0] == pytest.approx(theirs.detach().numpy(), abs=0.02)
