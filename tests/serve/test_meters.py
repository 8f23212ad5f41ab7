"""The meters that a model is known to use are those that its calls are counted by."""

from pathlib import Path
from typing import Any

import pytest

from tollway.kit.errors import BadRequest
from tollway.serve.engines import Rows, Speech, UpstreamServer
from tollway.serve.engines.llama_cpp import LlamaCpp
from tollway.serve.meters import uses_of
from tollway.serve.models import Model
from tollway.serve.requests import (
    ChatRequest,
    ClassifyRequest,
    EmbeddingRequest,
    ExplainRequest,
    ImageRequest,
    Message,
    RecommendationRequest,
    SpeechRequest,
    TranscriptionRequest,
)

CHAT = ChatRequest(model="m", messages=[Message(role="user", content="Hello")])
CALLS: list[Any] = [
    CHAT,
    ClassifyRequest(model="m", input="a film"),
    EmbeddingRequest(model="m", input="a film"),
    ExplainRequest(model="m", input="a film"),
    ImageRequest(model="m", prompt=""),
    RecommendationRequest(model="m", user="ann"),
    SpeechRequest(model="m", input="a film"),
    TranscriptionRequest(model="m", recording=b""),
]


def engine_of(name: str, kind: str, input: str) -> Any:
    if name == "llama_cpp":
        return LlamaCpp(Path("w.gguf"), "m", kind=kind, has_chat_template=True)
    if name == "speech":
        return Speech(Path("p"), "m", kind=kind)
    if name == "upstream":
        return UpstreamServer("http://x/v1", "m", kind=kind)
    return Rows(Path("p"), "m", kind=kind, input=input)


@pytest.mark.parametrize(
    ("engine", "kind", "input"),
    [
        ("llama_cpp", "chat", ""),
        ("upstream", "chat", ""),
        ("onnx", "embedding", "text"),
        ("onnx", "classification", "text"),
        ("onnx", "classification", "row"),
        ("openvino", "regression", "row"),
        ("onnx", "image-classification", "image"),
        ("onnx", "recommendation", "row"),
        ("onnx", "image-generation", "image"),
        ("speech", "transcription", ""),
        ("speech", "speech", ""),
    ],
)
def test_they_are_those_that_a_call_is_counted_by(engine: str, kind: str, input: str):
    uses = uses_of(Model("m", kind, "m", engine, "1", None, 0), input)  # type: ignore[arg-type]
    caps = engine_of(engine, kind, input).caps
    counted = set()
    for call in CALLS:
        try:
            call.refuse_unsupported(caps)
        except BadRequest:
            continue
        meter = "" if call is CHAT else call.counted(caps)[0]
        counted.add(meter or "input_tokens")
    assert counted, "the model answers nothing"
    said = {meter for use in uses for meter in use}
    assert said - {"output_tokens", "training_tokens"} == counted
    assert ("training_tokens" in said) == (engine == "llama_cpp"), "only a chat model of ours is trained on"


def test_an_adapter_is_priced_as_its_base_is():
    assert uses_of(Model("ft:m:x", "chat", "x", "llama_cpp", "1", None, 0, base="m")) == ()


def test_what_draws_judges_nothing():
    caps = engine_of("onnx", "image-generation", "image").caps
    assert caps.images and not caps.classify, "its door is images/generations alone"
