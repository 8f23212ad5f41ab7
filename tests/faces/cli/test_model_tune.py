"""What `tollway model tune` says when it has measured."""

import io

from rich.console import Console

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
