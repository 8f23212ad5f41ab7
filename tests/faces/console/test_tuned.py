"""What tuning measured stands on the model's page, in both languages, and is not there where nothing was measured."""

from pathlib import Path

import msgspec
import pytest

from tests.faces.console import seed
from tests.faces.console.test_browser import faults, opened
from tests.serve import tiny_models
from tollway.artifacts import tuning
from tollway.flows import release
from tollway.kit.said import say

DIED = say("replica.killed", "its process was ended by {signal} while it loaded the model", signal="SIGFPE")
ROWS = [
    {"engine": "openvino_genai", "format": "openvino-int8", "options": "precision=int8", "threads": 2, "agreement": 0.46,
     "per_second_1": 80.0, "per_second": 393.1, "first_ms": 234.0, "memory_bytes": 604_000_000, "cost_micros": 44_050,
     "verdict": "chosen", "own": False},
    {"engine": "llama_cpp", "format": "gguf-q4_0", "options": "", "threads": 1, "agreement": 0.11, "per_second_1": 0.0,
     "per_second": 0.0, "first_ms": 0.0, "memory_bytes": 0, "cost_micros": 0, "verdict": "answers too differently",
     "own": False},
    {"engine": "openvino_genai", "format": "openvino-f16", "options": "precision=bf16", "threads": 1, "agreement": 0.0,
     "per_second_1": 0.0, "per_second": 0.0, "first_ms": 0.0, "memory_bytes": 0, "cost_micros": 0, "verdict": "failed",
     "own": False, "why": DIED, "said": msgspec.json.encode(DIED.coded()).decode()},
]  # fmt: skip
TUNED = {"at_ms": 1_767_225_600_000, "unit": "tokens", "currency": "USD", "agreement": 0.4, "first_token_ms": 0.0,
         "gain": 2.85, "callers": 8}  # fmt: skip


@pytest.fixture
def mood(shop, tmp_path: Path):
    tiny_models.shelve(shop.store, "mood", tmp_path / "mood")
    release.deploy(shop, "mood")
    return shop


def test_the_table_is_on_the_page_once_there_is_one(operator, mood):
    assert "Measured on this machine" not in operator.get("/console/models/mood").text
    tuning.write(mood.store.get("mood"), {"tuned": TUNED, "tried": ROWS})
    page = operator.get("/console/models/mood").text
    for shown in ("Measured on this machine", "openvino_genai openvino-int8 precision=int8", "393.1", "46%", "Chosen",
                  "234 ms", "Answers too differently", "8 callers", DIED):  # fmt: skip
        assert shown in page, shown
    assert "加载模型时进程被 SIGFPE 终止" in operator.get("/console/models/mood?lang=zh").text
    tuning.forget(mood.store.get("mood"))
    assert "Measured on this machine" not in operator.get("/console/models/mood").text


def test_the_page_names_the_engine_that_serves_it_here(operator, mood):
    package = mood.store.get("mood")
    own = operator.get("/console/models").text
    assert package.manifest.engine in own and "openvino_genai" not in own
    tuning.keep(mood.store, package, tuning.Choice(engine="openvino_genai", format="openvino-int8", threads=1))
    for page in ("/console/models", "/console/models/mood"):
        assert "openvino_genai" in operator.get(page).text, page


def test_what_calls_lose_on_the_chosen_engine_is_on_the_page_with_the_way_back(operator, mood):
    package = mood.store.get("mood")
    tuning.keep(mood.store, package, tuning.Choice(engine="openvino_genai", format="openvino-int8", threads=1))
    tuning.write(package, {"tuned": TUNED, "tried": ROWS})
    assert "--lose-nothing" not in operator.get("/console/models/mood").text
    tuning.write(package, {"tried": [ROWS[0] | {"lost": ["logprobs", "tools"]}, ROWS[1]]})
    said = "Calls with logprobs, tools are refused on the chosen engine. tollway model tune mood --undo gives them back"
    assert said in operator.get("/console/models/mood").text
    assert "拒绝带有 logprobs, tools 的调用" in operator.get("/console/models/mood?lang=zh").text
    release.deploy(mood, "mood", engine="onnx")
    assert said not in operator.get("/console/models/mood").text, "who names an engine goes before what was measured"


@pytest.mark.browser
@pytest.mark.parametrize("look", ["light", "dark"])
def test_it_can_be_read_by_everybody(chromium, site, mood, axe, look):
    tuning.write(mood.store.get("mood"), {"tuned": TUNED, "tried": ROWS})
    with opened(chromium, site, seed.OPERATOR, color_scheme=look) as page:
        page.goto(f"{site.url}/console/models/mood?lang=zh")
        assert faults(page, axe) == []
        assert page.get_by_text("本机实测").count() == 1
