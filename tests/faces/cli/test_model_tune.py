"""What `tollway model tune` says when it has measured."""

import io

import pytest
from rich.console import Console

from tollway.artifacts.tuning import Choice
from tollway.faces.cli import model_tune
from tollway.flows.tune import Row, Tuned


def test_what_was_not_tried_is_said_as_it_is_to_be_typed():
    row = Row(engine="llama_cpp", format="gguf-q8_0", threads=1, per_second=40, cost_micros=8, verdict="chosen")
    made = Tuned(
        name="small", version="1", unit="tokens", currency="USD", agreement=0.4, first_token_ms=0, rows=[row], choice=None,
        gain=1.5, left_out="OpenVINO was not tried: nncf not installed; pip install 'tollway[openvino]' brings it.",
    )  # fmt: skip
    held = io.StringIO()
    Console(file=held, width=180).print(model_tune.shown(made))
    assert "pip install 'tollway[openvino]' brings it." in held.getvalue()
    assert "small would be served by llama_cpp as gguf-q8_0 with 1 thread: 1.50 times as fast." in held.getvalue()


@pytest.mark.parametrize(("kept", "verdict"), [(True, "chosen"), (False, "chosen"), (True, "failed")])
def test_what_calls_lose_on_the_chosen_engine_is_said_with_the_way_back(kept, verdict):
    row = Row(engine="openvino_genai", format="openvino-int8", threads=2, per_second=40, verdict=verdict, lost=("logprobs", "tools"))
    made = Tuned(
        name="small", version="1", unit="tokens", currency="USD", agreement=0.4, first_token_ms=0, rows=[row], gain=1.5,
        choice=Choice(engine=row.engine, format=row.format, threads=2) if kept else None,
    )  # fmt: skip
    held = io.StringIO()
    Console(file=held, width=180).print(model_tune.shown(made))
    said = held.getvalue()
    assert ("openvino_genai refuses calls with logprobs, tools: " in said) == (verdict == "chosen") == ("`--lose-nothing` tries" in said)
    assert ("`tollway model tune small --undo` gives them back" in said) == (kept and verdict == "chosen")
