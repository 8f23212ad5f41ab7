"""What a served version says of its inside is what the run's report says of the same net; the process that looks is apart."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.serve import tiny_models
from tests.serve.engine_contract import Run, Served
from tollway.forge import explain, models
from tollway.forge.convert import torch_export
from tollway.forge.convert.flat import source_of
from tollway.forge.recipe import Model
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest, Unavailable
from tollway.serve.engines import Rows
from tollway.serve.engines.rows.beside import Ask, Beside
from tollway.serve.replica import Replica

LONG_S = 300.0  # a limit for a process that imports torch on a busy machine
FILMS = {"text": [*tiny_models.GOOD, *tiny_models.BAD], "label": ["good"] * 10 + ["bad"] * 10}
CAPTURED = {
    "text": (
        "text-classification",
        Model(architecture="transformer", options={"width": 16, "layers": 2, "heads": 2}),
        "good",
    ),
    "image": ("image-classification", Model(architecture="cnn", options={"filters": [4, 8], "hidden": 8}), "3"),
    "row": ("tabular-regression", Model(architecture="tabular"), None),
}


def table_of(kind: str) -> pa.Table:
    if kind == "text":
        return pa.table(FILMS)
    if kind == "image":
        pictures, labels = tiny_models.digits(80)
        return pa.table({"image": pictures, "label": labels})
    random = np.random.default_rng(4)
    size, city = random.uniform(20, 150, 120), random.choice(["Lyon", "Turin"], 120)
    return pa.table({"size": size, "city": city.tolist(), "target": 12.0 * size + 300.0 * (city == "Lyon")})


class Made:
    """A net, the replica that serves it, and an input."""

    def __init__(self, kind: str, folder: Path, run: Run[Any]) -> None:
        task, part, self.target = CAPTURED[kind]
        table = table_of(kind)
        torch.manual_seed(0)
        features = models.fit_features(part, task, table)
        net = models.create(part, task, features, 0)
        learnt(net, features.collate(features.encode(table.to_pylist())) | features.targets(table.to_pylist()))
        self.predictor = models.TorchPredictor(net.eval())
        torch_export.export(source_of(net), folder / "model.pt2", longest=int(getattr(features, "max_length", 0)))
        features.save(folder)
        self.row = {name: one for name, one in table.to_pylist()[3].items() if name not in ("label", "target")}
        self.sent = dict(self.row)
        if kind == "image":
            self.sent["image"] = "data:image/png;base64," + base64.b64encode(self.row["image"]).decode()
        one = (
            "regression"
            if task.endswith("regression")
            else "image-classification"
            if kind == "image"
            else "classification"
        )
        engine = Rows(
            folder, kind, kind=one, input=kind, format="pt2", context_tokens=64, threads=1, explain_inside=True
        )
        self.replica = Replica(engine, SystemClock())
        run(self.replica.start())
        self.served = Served(self.replica, run)

    def told(self, method: str, **more: Any) -> dict[str, Any]:
        """As the API answers."""
        target = {"target": self.target} if self.target else {}
        status, answer = self.served.post("/explain", {"input": self.sent, "method": method, **target, **more})
        assert status == 200, answer
        return dict(answer["data"][0])

    def reported(self, method: str) -> dict[str, Any]:
        """As the run's report has it."""
        return explain.explain(self.predictor, self.row, method, target=self.target).to_json()


def learnt(net: Any, batch: dict[str, np.ndarray]) -> None:
    tensors = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in batch.items()}
    optimiser = torch.optim.Adam(net.parameters(), lr=0.005)
    net.train()
    for _ in range(25):
        optimiser.zero_grad()
        net.loss(tensors)[0].backward()
        optimiser.step()


@pytest.fixture(scope="module", params=list(CAPTURED))
def made(request: pytest.FixtureRequest, run: Run[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    one = Made(request.param, tmp_path_factory.mktemp(request.param), run)
    yield one
    one.served.pool.close()
    run(one.replica.stop())


def weights(found: dict[str, Any]) -> list[float]:
    return [unit["weight"] for unit in found["units"]]


def test_gradients_of_a_served_version_are_the_reports(made: Made) -> None:
    ours, theirs = made.told("integrated-gradients"), made.reported("integrated-gradients")
    scale = max(abs(one) for one in weights(theirs))
    assert scale > 0
    assert weights(ours) == pytest.approx(weights(theirs), abs=1e-4 * scale)
    assert (ours["value"], ours["base"]) == pytest.approx((theirs["value"], theirs["base"]), rel=1e-5)
    moved = abs(ours["value"] - ours["base"])
    assert ours["checks"]["completeness_gap"] <= max(0.02 * moved, 1e-3)
    assert sum(weights(ours)) == pytest.approx(ours["value"] - ours["base"], abs=max(0.02 * moved, 1e-3))
    assert ours["checks"]["served_difference"] <= 1e-4 * max(1.0, abs(ours["value"]))
    for name in ("gain", "deletion", "insertion"):
        assert ours["faithfulness"][name] == pytest.approx(theirs["faithfulness"][name], rel=1e-3, abs=1e-4)


def test_attention_of_a_served_version_is_the_reports(made: Made) -> None:
    if made.replica.caps.input != "text":
        status, answer = made.served.post("/explain", {"input": made.sent, "method": "attention"})
        assert (status, answer["error"]["param"]) == (400, "method"), answer
        assert "texts only" in answer["error"]["message"]
        return
    ours, theirs = made.told("attention"), made.reported("attention")
    assert weights(ours) == pytest.approx(weights(theirs), abs=1e-5)
    assert sum(weights(ours)) == pytest.approx(1.0, abs=0.01)
    assert ours["extra"]["tokens"] == theirs["extra"]["tokens"] and ours["extra"]["layers"] == 2
    assert np.asarray(ours["extra"]["rollout"]) == pytest.approx(np.asarray(theirs["extra"]["rollout"]), abs=2e-4)
    assert ours["faithfulness"]["gain"] == pytest.approx(theirs["faithfulness"]["gain"], abs=1e-4)


def test_fewer_samples_take_fewer_points(made: Made) -> None:
    assert made.told("integrated-gradients", samples=16)["checks"]["points"] <= 64


def mapped(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.fixture(scope="module")
def mood(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mood")
    tiny_models.text_classifier(folder)
    tiny_models.in_torch(folder)
    return folder


def test_a_replica_stays_without_torch_when_its_model_is_looked_into(mood: Path, run: Run[Any]) -> None:
    replica = Replica(Rows(mood, "mood", context_tokens=64, threads=1, explain_inside=True), SystemClock())
    run(replica.start())
    served = Served(replica, run)
    ask = {"input": "a lovely boring film", "target": "good"}
    status, answer = served.post("/explain", ask | {"method": "integrated-gradients"})
    assert status == 200, answer
    found = {unit["text"].strip(): unit["weight"] for unit in answer["data"][0]["units"]}
    assert found["lovely"] > 0 > found["boring"]
    assert (answer["usage"]["explanations"], answer["data"][0]["evaluations"] > 0) == (1, True)
    assert replica.pid is not None
    assert "libtorch" not in mapped(replica.pid)
    status, answer = served.post("/explain", ask | {"method": "attention"})
    assert (status, answer["error"]["param"]) == (400, "method")
    assert "no attention" in answer["error"]["message"] and "shap" in answer["error"]["message"]
    served.pool.close()
    run(replica.stop())


@pytest.fixture
def beside(mood: Path) -> Iterator[Beside]:
    one = Beside(mood, 1)
    yield one
    one.close()


ASK = Ask({"text": "a lovely film"}, "integrated-gradients", "good", 64)


def soon() -> float:
    return time.monotonic() + LONG_S


def test_a_process_that_was_ended_is_started_again_and_one_that_takes_too_long_is_ended(beside: Beside) -> None:
    first = beside.ask(ASK, soon())
    assert beside.process is not None
    beside.process.kill()
    beside.process.wait()
    assert beside.ask(ASK, soon()).weights == pytest.approx(first.weights)
    slow = beside.process
    with pytest.raises(Unavailable) as refused:
        beside.ask(ASK, time.monotonic() - 1)
    assert refused.value.code == "late"
    assert slow.returncode is not None and beside.process is None


def test_it_leaves_when_nothing_is_asked(mood: Path) -> None:
    beside = Beside(mood, 1, idle_s=0.05)
    assert beside.ask(ASK, soon()).weights
    assert beside.process is not None
    assert beside.process.wait(LONG_S) == 0
    beside.close()


def test_without_a_file_to_look_into_other_methods_are_named(tmp_path: Path) -> None:
    tiny_models.text_classifier(tmp_path)
    with pytest.raises(BadRequest, match="nothing to look into") as refused:
        Beside(tmp_path, 1).ask(ASK, soon())
    assert refused.value.param == "method" and "pt2" in refused.value.hint and "occlusion" in refused.value.hint


def test_a_file_that_asks_for_more_is_refused_by_name(tmp_path: Path) -> None:
    tiny_models.text_classifier(tmp_path)
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    beside = Beside(tmp_path, 1)
    with pytest.raises(BadRequest, match="no torch program"):
        beside.ask(ASK, soon())
    beside.close()
