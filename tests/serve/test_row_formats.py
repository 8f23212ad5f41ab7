"""The formats that a row-by-row replica loads besides ONNX: the same contract, the same answers."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.serve import tiny_models
from tests.serve.engine_contract import AnyEngine, OwnProcess, Run, Served, connections, running
from tollway.forge.convert import openvino
from tollway.kit.clock import SystemClock
from tollway.serve.engines import Rows
from tollway.serve.engines.rows import SLOTS
from tollway.serve.replica import Replica

TEXTS = [*tiny_models.GOOD, *tiny_models.BAD, "a film"]


@pytest.fixture(scope="module")
def run() -> Iterator[Run[Any]]:
    yield from running()


@pytest.fixture(scope="module")
def replicas(run: Run[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Replica]]:
    folder = tmp_path_factory.mktemp("mood")
    tiny_models.text_classifier(folder)
    openvino.export(folder / "model.onnx", folder / "model.xml")
    openvino.export(folder / "model.onnx", folder / "model.bf16.xml", precision="bf16")
    tiny_models.in_torch(folder)
    made = {}
    for form in ("onnx", "openvino", "openvino-bf16", "pt2"):
        made[form] = Replica(Rows(folder, form, format=form, context_tokens=64, threads=2), SystemClock())
        run(made[form].start())
    yield made
    for replica in made.values():
        run(replica.stop())


class OtherFormat(AnyEngine, OwnProcess):
    """What a replica owes in any format. Subclasses give `served`, and how near to ONNX it answers."""

    path = "/classify"
    ask: ClassVar[dict[str, Any]] = {"input": ["a lovely film"]}
    calls = SLOTS * 2
    engine: ClassVar[str]
    apart: ClassVar[float]

    @pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
    def test_it_calls_nobody(self, served: Served, tmp_path: Path) -> None:
        """OpenVINO would report its import to an analytics service, from a child process."""
        calls = connections(served.replica.engine, tmp_path)
        assert not [line for line in calls if "AF_INET" in line], "\n".join(calls)

    def test_it_answers_as_onnx_does(self, served: Served, replicas: dict[str, Replica]) -> None:
        other = Served(replicas["onnx"], served.run)
        ours, theirs = (one.post("/classify", {"input": TEXTS})[1]["data"] for one in (served, other))
        assert [one["label"] for one in ours] == [one["label"] for one in theirs]
        assert all(a["score"] == pytest.approx(b["score"], abs=self.apart) for a, b in zip(ours, theirs, strict=True))
        assert served.replica.engine.name == self.engine
        other.pool.close()


class TestOpenVino(OtherFormat):
    engine, apart = "openvino", 0.02

    @pytest.fixture(params=["openvino", "openvino-bf16"])
    def served(self, request: pytest.FixtureRequest, replicas: dict[str, Replica], run: Run[Any]) -> Iterator[Served]:
        served = Served(replicas[request.param], run)
        yield served
        served.pool.close()


class TestTorch(OtherFormat):
    """The reference: the same arithmetic in full, so the same answers up to the last digits of a float."""

    engine, apart = "torch", 1e-6

    @pytest.fixture
    def served(self, replicas: dict[str, Replica], run: Run[Any]) -> Iterator[Served]:
        served = Served(replicas["pt2"], run)
        yield served
        served.pool.close()
