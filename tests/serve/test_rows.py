"""The rows engine: the contract of all engines, answers that do not depend on their neighbours, clear words for bad input."""

import asyncio
import base64
import json
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.serve import tiny_models
from tests.serve.engine_contract import AnyEngine, OwnProcess, Run, Served, gone
from tollway.kit.clock import SystemClock
from tollway.kit.errors import Unavailable
from tollway.serve.engines import Rows
from tollway.serve.engines.rows import SLOTS
from tollway.serve.replica import Replica


@pytest.fixture(scope="module")
def replicas(run: Run[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Replica]]:
    made = {}
    for name, maker in tiny_models.MAKERS.items():
        folder = tmp_path_factory.mktemp(name)
        about = maker(folder)
        engine = Rows(
            folder, name, kind=about.kind, input=about.input, context_tokens=about.context_tokens,
            embedding_dimensions=about.embedding_dimensions, threads=2,
        )  # fmt: skip
        made[name] = Replica(engine, SystemClock())
        run(made[name].start())
    yield made
    for replica in made.values():
        run(replica.stop())


@pytest.fixture
def served(replicas: dict[str, Replica], run: Run[Any], request: pytest.FixtureRequest) -> Iterator[Served]:
    served = Served(replicas[getattr(request, "param", "mood")], run)
    yield served
    served.pool.close()


def model(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("served", [name], indirect=True)


class TestRows(AnyEngine, OwnProcess):
    path = "/classify"
    ask: ClassVar[dict[str, Any]] = {"input": ["a lovely film"]}
    calls = SLOTS * 2


def data_url(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def test_a_text_is_classified_and_its_tokens_are_counted(served: Served) -> None:
    status, answer = served.post("/classify", {"input": ["a lovely film", "terrible and boring"]})
    assert (status, answer["object"], answer["model"]) == (200, "list", "mood")
    assert [(one["index"], one["label"]) for one in answer["data"]] == [(0, "good"), (1, "bad")]
    for one in answer["data"]:
        assert one["score"] == max(one["scores"].values())
        assert sum(one["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    _, cut = served.post("/classify", {"input": "a lovely film", "top_k": 1})
    assert cut["data"][0]["scores"] == {"good": answer["data"][0]["score"]}
    assert served.post("/classify", {"input": {"text": "好看 的 电影"}})[1]["data"][0]["label"] == "good"


def test_it_says_how_many_calls_it_wants_and_gets_no_more(replicas: dict[str, Replica], served: Served) -> None:
    told = served.run(served.pool.get("/health"))
    plan = json.loads(told.body)
    replica = replicas["mood"]
    assert (replica.slots, replica.slots_sorted) == (plan["slots"], plan["slots_sorted"])
    assert 0 < replica.slots_sorted <= replica.slots <= SLOTS == replica.caps.slots


@model("digits")
def test_pictures_are_classified_and_counted(served: Served) -> None:
    pictures, labels = tiny_models.digits(40)
    given = [{"image": data_url(one)} if n % 2 else data_url(one) for n, one in enumerate(pictures)]
    status, answer = served.post("/classify", {"input": given, "top_k": 3})
    assert status == 200
    right = sum(one["label"] == label for one, label in zip(answer["data"], labels, strict=True))
    assert right >= 36
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0, "images": 40}


@model("rent")
def test_rows_of_a_table_get_a_value(served: Served) -> None:
    status, answer = served.post("/classify", {"input": [{"size": 50, "rooms": 2}, {"size": 100, "rooms": 4}]})
    assert status == 200
    assert [one["value"] for one in answer["data"]] == pytest.approx([780, 1560], rel=1e-3)
    assert answer["usage"]["rows"] == 2


@model("words")
def test_an_encoder_gives_openais_embeddings(served: Served) -> None:
    status, answer = served.post(
        "/embeddings", {"input": ["a lovely film", "a lovely film"], "encoding_format": "float"}
    )
    assert (status, answer["usage"]["prompt_tokens"]) == (200, 6)
    assert answer["data"][0]["embedding"] == pytest.approx(answer["data"][1]["embedding"])
    assert sum(x * x for x in answer["data"][0]["embedding"]) == pytest.approx(1, abs=1e-5)
    _, packed = served.post("/embeddings", {"input": "a lovely film", "encoding_format": "base64"})
    assert len(base64.b64decode(packed["data"][0]["embedding"])) == 4 * 16


def test_an_answer_does_not_depend_on_its_neighbours(served: Served) -> None:
    """Random lengths, all at once and one by one: the same answers in the same order."""
    chance = random.Random(5)
    words = " ".join(tiny_models.GOOD + tiny_models.BAD).split()
    texts = [" ".join(chance.choices(words, k=chance.randint(1, 90))) for _ in range(120)]

    async def ask(input: Any) -> Any:
        reply = await served.pool.post("/v1/classify", json.dumps({"input": input}).encode())
        return json.loads(reply.body)["data"]

    async def all_ways() -> tuple[Any, Any, Any]:
        alone = [(await ask(text))[0]["score"] for text in texts]
        together = [one["score"] for one in await ask(texts)]
        beside = [(one[0])["score"] for one in await asyncio.gather(*map(ask, texts))]
        return alone, together, beside

    alone, together, beside = served.run(all_ways())
    assert together == pytest.approx(alone, abs=2e-6)
    assert beside == pytest.approx(alone, abs=2e-6)


@pytest.mark.parametrize(
    ("input", "says"),
    [
        ([], "1 to 256"),
        (["x"] * 257, "1 to 256"),
        (None, "must be an object"),
        (5, "must be an object"),
        ({"txet": "a"}, "no such field"),
        ({"text": None}, "nothing"),
        ([{"text": "a"}, {"text": ["b"]}], "Row 1"),
    ],
)
def test_what_is_wrong_with_an_input_is_said(input: Any, says: str, served: Served) -> None:
    status, answer = served.post("/classify", {"input": input})
    assert status == 400
    assert says in answer["error"]["message"]
    assert answer["error"]["param"]


@model("digits")
@pytest.mark.parametrize(
    "picture",
    [
        "data:image/png;base64,!!!",
        "data:image/png;base64," + base64.b64encode(b"GIF89a").decode(),
        "http://x/y.png",
        "",
    ],
)
def test_what_is_no_picture_is_refused(picture: str, served: Served) -> None:
    status, answer = served.post("/classify", {"input": {"image": picture}})
    assert (status, answer["error"]["param"]) == (400, "image")


@model("rent")
def test_numbers_that_are_none_are_refused_or_taken_as_missing(served: Served) -> None:
    assert served.post("/classify", {"input": {"size": "wide", "rooms": 2}})[0] == 400
    assert served.post("/classify", {"input": {"size": None, "rooms": 2}})[0] == 200


def test_a_text_of_a_megabyte_costs_no_more_than_a_page(served: Served) -> None:
    status, answer = served.post("/classify", {"input": "lovely film " * 100_000})
    assert (status, answer["usage"]["prompt_tokens"]) == (200, 64)


def test_what_it_cannot_do_is_refused(served: Served) -> None:
    assert served.post("/embeddings", {"input": "a"})[0] == 400
    assert served.post("/chat/completions", {"messages": []})[0] == 404


def test_a_package_that_cannot_be_loaded_says_why(tmp_path: Path, run: Run[Any]) -> None:
    tiny_models.text_classifier(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    replica = Replica(Rows(tmp_path, "broken"), SystemClock())
    with pytest.raises(Unavailable, match=r"model\.onnx"):
        run(replica.start())
    run(replica.stop())


def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    tiny_models.text_classifier(tmp_path)
    code = f"""
        import asyncio
        from pathlib import Path
        from tollway.kit.clock import SystemClock
        from tollway.serve.engines import Rows
        from tollway.serve.replica import Replica
        async def main():
            replica = Replica(Rows(Path({str(tmp_path)!r}), "m"), SystemClock())
            await replica.start()
            print(replica.pid, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid, 0.1)
        parent.send_signal(signal.SIGKILL)
        assert gone(pid)
