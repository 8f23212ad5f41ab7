"""What cannot be converted is said before anything is trained, all of it at once."""

import pytest

from tollway.forge import convert
from tollway.forge.compress import outline
from tollway.forge.convert import gguf_decoder
from tollway.forge.recipe import Compress, Convert
from tollway.kit.errors import BadRequest


def test_everything_wrong_is_listed():
    part = Convert(formats=["gguf", "onnx"], quantise="int7", options={"litert_lenght": 3})
    with pytest.raises(BadRequest) as refused:
        convert.check(part, "text-classification")
    text = str(refused.value)
    assert "gguf holds language models" in text
    assert "'int7' fits none of the formats" in text
    assert "litert_lenght" in text


def test_float_can_always_be_asked_for():
    convert.check(Convert(formats=["pt2", "torchscript", "safetensors"], quantise="none"), "text-classification")


def test_what_has_no_smaller_form_says_so():
    with pytest.raises(BadRequest, match="cannot be quantised"):
        convert.check(Convert(formats=["pt2"], quantise="int8"), "text-classification")


def test_every_precision_that_can_be_written_can_be_asked_for():
    for precision in gguf_decoder.PRECISIONS:
        convert.check(Convert(formats=["gguf"], quantise=precision), "chat")


def test_only_a_lora_of_a_language_model_is_written_beside_it():
    part = Convert(formats=["gguf"], options={"adapter": True})
    convert.check(part, "chat", method="lora")
    for task, method in (("chat", "full"), ("sentence-embedding", "lora")):
        with pytest.raises(BadRequest, match="adapter = true writes the LoRA"):
            convert.check(part, task, method=method)


def test_a_recurrent_model_cannot_be_pt2_and_is_told_so_before_it_is_trained():
    with pytest.raises(BadRequest, match="onnx keeps it open"):
        convert.check(Convert(formats=["pt2"]), "text-classification", "bilstm")
    convert.check(Convert(formats=["pt2"]), "text-classification", "transformer")
    known = outline.Outline(architecture="bilstm")
    assert outline.converted(known, None) == "bilstm" == outline.converted(known, Compress(steps=["distil:1", "sparse"]))
    assert outline.converted(known, Compress(steps=["distil:transformer", "distil:1"])) == "transformer"
