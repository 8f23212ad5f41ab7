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
