"""The formats that a row-by-row replica loads besides ONNX: the same contract, the same answers, put on sale likewise."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import msgspec
import pytest

from tests.serve import tiny_models
from tests.serve.engine_contract import AnyEngine, OwnProcess, Run, Served, connections
from tollway import inference
from tollway.artifacts.store import About
from tollway.flows import release
from tollway.forge.convert import openvino
from tollway.kit.clock import SystemClock
from tollway.kit.errors import Conflict
from tollway.kit.formats import FORMATS, of_file
from tollway.kit.settings import Settings
from tollway.serve.engines import Rows
from tollway.serve.engines.rows import SLOTS
from tollway.serve.replica import Replica
from tollway.shop import Shop

TEXTS = [*tiny_models.GOOD, *tiny_models.BAD, "a film"]
WORDS = " ".join(tiny_models.GOOD + tiny_models.BAD).split()


def to_openvino(folder: Path) -> None:
    """As its own tools write it, without our word on what to compute in."""
    import openvino

    openvino.save_model(openvino.convert_model(folder / "model.onnx"), folder / "model.xml", compress_to_fp16=False)


def to_litert(folder: Path) -> inference.Predictor:
    """A small net of a table, untrained: what it answers in torch is what it must answer here."""
    import pyarrow as pa
    import torch

    from tollway.forge import models, recipe
    from tollway.forge.convert import flat, litert

    torch.manual_seed(1)
    chance = random.Random(1)
    table = pa.table({"x": [chance.random() for _ in range(50)], "y": [chance.random() for _ in range(50)],
                      "label": ["good", "bad"] * 25})  # fmt: skip
    part = recipe.Model(architecture="tabular")
    features = models.fit_features(part, "tabular-classification", table)
    net = models.create(part, "tabular-classification", features, 1)
    litert.export(flat.source_of(net), folder / "model.tflite")
    features.save(folder)
    return models.TorchPredictor(net)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mood")
    tiny_models.text_classifier(made)
    openvino.export(made / "model.onnx", made / "model.xml")
    openvino.export(made / "model.onnx", made / "model.bf16.xml", precision="bf16")
    tiny_models.in_torch(made)
    return made


@pytest.fixture(scope="module")
def replicas(run: Run[Any], folder: Path) -> Iterator[dict[str, Replica]]:
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


def test_openvino_answers_as_onnx_does_from_a_file_that_says_no_precision(run: Run[Any], tmp_path: Path) -> None:
    tiny_models.text_classifier(tmp_path)
    to_openvino(tmp_path)
    chance = random.Random(3)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 60))) for _ in range(60)]
    replica = Replica(Rows(tmp_path, "mood", format="openvino", context_tokens=64, threads=2), SystemClock())
    run(replica.start())
    served = Served(replica, run)
    status, answer = served.post("/classify", {"input": texts})
    served.pool.close()
    run(replica.stop())
    wanted = inference.load(tmp_path).predict([{"text": text} for text in texts])
    assert status == 200
    assert [one["label"] for one in answer["data"]] == [one["label"] for one in wanted]
    assert [one["score"] for one in answer["data"]] == pytest.approx([one["score"] for one in wanted], abs=1e-4)


@pytest.fixture(scope="module")
def table(run: Run[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[inference.Predictor, Replica]]:
    """The net as torch has it, and a replica of what LiteRT made of it."""
    folder = tmp_path_factory.mktemp("table")
    source = to_litert(folder)
    replica = Replica(Rows(folder, "table", input="row", format="litert", threads=2), SystemClock())
    run(replica.start())
    yield source, replica
    run(replica.stop())


class TestLitert(AnyEngine, OwnProcess):
    path = "/classify"
    ask: ClassVar[dict[str, Any]] = {"input": [{"x": 0.2, "y": 0.7}]}
    calls = SLOTS * 2

    @pytest.fixture
    def served(self, table: tuple[inference.Predictor, Replica], run: Run[Any]) -> Iterator[Served]:
        served = Served(table[1], run)
        yield served
        served.pool.close()

    def test_it_answers_as_its_source_does(
        self, served: Served, table: tuple[inference.Predictor, Replica]
    ) -> None:
        rows = [{"x": n / 20, "y": 1 - n / 20} for n in range(20)]
        status, answer = served.post("/classify", {"input": rows})
        assert status == 200
        wanted = table[0].predict(rows)
        assert [one["score"] for one in answer["data"]] == pytest.approx([one["score"] for one in wanted], abs=1e-4)

    @pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
    def test_it_calls_nobody(self, served: Served, tmp_path: Path) -> None:
        calls = connections(served.replica.engine, tmp_path)
        assert not [line for line in calls if "AF_INET" in line], "\n".join(calls)


def test_a_package_is_put_on_sale_by_what_its_weights_need(folder: Path, tmp_path: Path) -> None:
    shop = Shop.open(Settings(tmp_path / "home", environment={}))
    try:
        told = About(kind="classification", task="text-classification", input="text", serves="openvino")
        package = shop.store.add_package("mood", folder, told)
        offered = release.deploy(shop, "mood")
        assert (package.manifest.engine, offered.engine) == ("openvino", "openvino")
        only_torch = tmp_path / "torch"
        only_torch.mkdir()
        (only_torch / "model.safetensors").write_bytes(b"\0" * 16)
        (only_torch / "features.json").write_bytes((folder / "features.json").read_bytes())
        shop.store.add_package("float", only_torch, msgspec.structs.replace(told, serves=""))
        with pytest.raises(Conflict, match="cannot be served by itself"):
            release.deploy(shop, "float")
    finally:
        shop.close()


def test_every_format_is_known_by_its_file() -> None:
    for name, form in FORMATS.items():
        assert of_file(PurePosixPath(f"some/where/{form.file}")) == name
    assert of_file(PurePosixPath("card.md")) is None
