"""Real nets of every task through the whole examination and, where it applies, the explanations."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from tollway.forge import evaluate, explain, models
from tollway.forge.evaluate import Rows, Wishes, tasks
from tollway.forge.recipe import Model
from tollway.inference.image import png
from tollway.kit.errors import BadRequest

RNG = np.random.default_rng(0)
PICTURES = [png(RNG.random((1, 8, 8))) for _ in range(24)]
WORDS = ["Ada", "lives", "in", "Paris", "很", "好"]
TABLES = {
    "text-classification": ("bilstm", [{"text": f"{word} film", "label": "ab"[at % 2]} for at, word in enumerate(WORDS * 4)]),
    "text-regression": ("transformer", [{"text": f"{word} film", "target": float(at)} for at, word in enumerate(WORDS * 4)]),
    "token-classification": ("bilstm", [{"tokens": ["Ada", "in", "Paris"], "tags": ["B-PER", "O", "B-LOC"]}] * 24),
    "translation": ("seq2seq", [{"source": "hello world", "target": "hola mundo"}] * 24),
    "language-modeling": ("llama", [{"text": "to be or not to be, that is the question 是的"}] * 24),
    "sentence-embedding": ("transformer", [{"text": f"{word} film", "text_b": f"{word} cinema", "label": float(at % 2)} for at, word in enumerate(WORDS * 4)]),
    "image-classification": ("mlp", [{"image": one, "label": "ab"[at % 2]} for at, one in enumerate(PICTURES)]),
    "image-generation": ("vae", [{"image": one} for one in PICTURES]),
    "recommendation": ("matrix-factorisation", [{"user": f"u{at % 4}", "item": f"i{at % 7}", "rating": float(at % 5)} for at in range(24)]),
    "tabular-classification": ("tabular", [{"age": float(at), "job": WORDS[at % 6], "label": "ab"[at % 2]} for at in range(24)]),
    "tabular-regression": ("linear", [{"age": float(at), "job": WORDS[at % 6], "target": at * 2.0} for at in range(24)]),
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(TABLES))
def made(request):
    name, rows = TABLES[request.param]
    part = Model(architecture=name)
    features = models.fit_features(part, request.param, pa.Table.from_pylist(rows))
    torch.manual_seed(0)
    return request.param, models.TorchPredictor(models.create(part, request.param, features, 0).eval(), features), rows


def test_a_net_of_each_task_is_examined(made):
    task, predictor, rows = made
    scores = evaluate.examine(
        task, predictor, Rows(rows, rows, rows), Wishes(bootstrap=30, noise=(0.1,) if task != "translation" else ())
    )
    assert all(one.value is None or math.isfinite(one.value) for one in scores.metrics.values())
    assert scores.comparisons and scores.primary in scores.metrics
    json.dumps(scores.figures, allow_nan=False)
    if task == "image-generation":
        assert {"pixel_frechet", "reconstruction_mse", "elbo_at_mean"} <= set(scores.metrics)
        assert scores.metrics["pixel_frechet"].low is None
    if task == "language-modeling":
        assert scores.metrics["perplexity"].value > 1 and scores.comparisons[0].difference.value is not None


def test_answers_of_each_task_are_explained_or_refused(made):
    task, predictor, rows = made
    inputs = {name: value for name, value in rows[0].items() if name not in tasks.TARGETS and name != "text_b"}
    if task in explain.DEFAULTS:
        found = explain.explain(predictor, inputs, "shap", budget=60)
        assert sum(unit["weight"] for unit in found.units) == pytest.approx(found.value - found.base, abs=1e-4)
        json.dumps(found.to_json(), allow_nan=False)
    else:
        with pytest.raises(BadRequest):
            explain.explain(predictor, inputs, "shap", budget=60)


def test_a_generator_that_is_asked_for_a_class_is_judged_by_a_classifier():
    rows = [{"image": bytes_of(at), "label": "dark" if at % 2 else "light"} for at in range(60)]
    part = Model(architecture="vae", options={"conditional": True, "filters": 8, "noise": 4})
    features = models.fit_features(part, "image-generation", pa.Table.from_pylist(rows))
    net = models.create(part, "image-generation", features, 0)
    learn = torch.optim.Adam(net.parameters(), 3e-3)
    batch = {name: torch.from_numpy(one) for name, one in features.collate(features.encode(rows)).items()}
    torch.manual_seed(0)
    for _ in range(150):
        learn.zero_grad()
        net.loss(batch)[0].backward()
        learn.step()
    predictor = models.TorchPredictor(net.eval())
    shown = predictor.predict([{"seed": 3, "label": "dark"}, {"seed": 3, "label": "light"}, {"seed": 3}])
    brightness = [tasks.pixels(one["image"]).mean() for one in shown]
    assert [one["label"] for one in shown[:2]] == ["dark", "light"] and brightness[0] + 0.3 < brightness[1]
    assert shown[2]["label"] in features.labels
    with pytest.raises(BadRequest, match="is not one of dark, light"):
        predictor.predict([{"seed": 1, "label": "green"}])
    scores = evaluate.examine("image-generation", predictor, Rows(rows, rows), Wishes(bootstrap=30))
    gates = {"class_as_asked": ">=0.7", "low.elbo_at_mean": ">=-999", "coverage": ">=0.3", "vs.baseline.low": ">=2"}
    evaluate.refuse("image-generation", Rows(rows, rows), Wishes(require=gates))
    with pytest.raises(BadRequest, match="class_as_ask"):
        evaluate.refuse("image-generation", Rows(rows, rows), Wishes(require={"class_as_ask": ">=0.7"}))
    assert set(gates) - {"vs.baseline.low"} <= set(scores.named())
    found = {name: one.value for name, one in scores.metrics.items()}
    assert found["class_as_asked"] > 0.9 and 1.5 < found["classifier_score"] <= 2.0
    assert 0 <= found["realism"] <= 1 and 0 <= found["coverage"] <= 1


def bytes_of(number):
    """A small picture, dark or light, a little different each time."""
    from tollway.inference import image

    base = 0.15 if number % 2 else 0.85
    return image.png(np.random.default_rng(number).normal(base, 0.05, (1, 8, 8)))


def test_pictures_of_the_same_kind_are_real_and_cover_noise_does_neither():
    from tollway.forge.evaluate import pictures

    dice = np.random.default_rng(0)
    real, other = (dice.normal(0.5, 0.1, (300, 6, 6, 1)) for _ in range(2))
    noise = dice.normal(0.5, 0.8, (300, 6, 6, 1))
    same = {one.name: one.value(300) for one in pictures.neighbours(real, other)}
    apart = {one.name: one.value(300) for one in pictures.neighbours(real, noise)}
    assert same["realism"] > 0.8 and same["coverage"] > 0.8
    assert apart["realism"] < 0.1 and apart["coverage"] < 0.1
    sure = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}]
    assert pictures.classifier_score(sure).value(2) == pytest.approx(2.0)
    assert pictures.classifier_score([{"a": 0.5, "b": 0.5}] * 2).value(2) == pytest.approx(1.0)
    assert pictures.classifier_score([{"a": 1.0, "b": 0.0}] * 2).value(2) == pytest.approx(1.0)
