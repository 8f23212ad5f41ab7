"""Weights stored smaller: sparse ones come back bit for bit, rounded ones exactly as they were rounded."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tollway.forge.compress import rounding
from tollway.forge.models import encoded, folders
from tollway.kit.errors import BadRequest


def tensor(rows, columns, share, seed=0, dtype=torch.float32):
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    return (made * (torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed + 1)) < share)).to(dtype)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 70), share=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), seed=st.integers(0, 99),
)  # fmt: skip
def test_sparse_is_bit_for_bit(tmp_path_factory, rows, columns, share, dtype, seed):
    path = tmp_path_factory.mktemp("sparse") / "model.safetensors"
    one = tensor(rows, columns, share, seed, dtype)
    encoded.write({"a.weight": one, "b": torch.arange(3)}, path, {"a.weight": "sparse"})
    back = encoded.read(path)
    assert back["a.weight"].dtype == dtype
    assert torch.equal(back["a.weight"], one)
    assert torch.equal(back["b"], torch.arange(3))


@pytest.mark.parametrize(("share", "most"), [(0.5, 0.54), (0.1, 0.14), (0.01, 0.03)])
def test_sparse_is_smaller(tmp_path, share, most):
    one = tensor(512, 512, share)
    encoded.write({"w": one}, tmp_path / "m.safetensors", {"w": "sparse"})
    assert (tmp_path / "m.safetensors").stat().st_size < most * one.numel() * 4
    assert encoded.form_of(one) == "sparse"


def test_what_would_not_get_smaller_stays(tmp_path):
    assert encoded.form_of(torch.ones(64, 64)) == ""


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 33), columns=st.integers(1, 100), seed=st.integers(0, 99), form=st.sampled_from(["int8", "int4"]))
def test_rounding_twice_changes_nothing_more(tmp_path_factory, rows, columns, seed, form):
    path = tmp_path_factory.mktemp("rounded") / "model.safetensors"
    layer = torch.nn.Linear(columns, rows, bias=False)
    layer.weight.data = tensor(rows, columns, 1.0, seed)
    wanted = layer.weight.detach().clone()
    rounding.snap(layer, {"weight": form})
    encoded.write({"weight": layer.weight}, path, {"weight": form})
    back = encoded.read(path)["weight"]
    assert torch.equal(back, layer.weight.detach())
    step = (0.51 / 127) if form == "int8" else 1 / 8  # of the largest weight of a row
    error, largest = (back - wanted).square().mean(1).sqrt(), wanted.abs().amax(1)
    assert (error <= step * largest + 1e-6).all()


def test_4_bits_take_an_eighth_and_the_scales(tmp_path):
    one = tensor(256, 512, 1.0)
    encoded.write({"w": one}, tmp_path / "m.safetensors", {"w": "int4"})
    assert (tmp_path / "m.safetensors").stat().st_size < one.numel() * (0.5 + 2 / 32) + 500


def test_a_plain_file_stays_a_plain_file(tmp_path):
    encoded.write({"w": torch.ones(2)}, tmp_path / "m.safetensors", {})
    assert not encoded.is_encoded(tmp_path / "m.safetensors")
    assert torch.equal(load_file(tmp_path / "m.safetensors")["w"], torch.ones(2))


@pytest.mark.parametrize(
    "about",
    [
        {"w": {"form": "sparse", "shape": [2**40, 2**40]}},
        {"w": {"form": "sparse", "shape": [-1, 3]}},
        {"w": {"form": "nonsense", "shape": [2]}},
        {"w": {"form": "int8", "shape": [2, 2]}},
        {"w": {"form": "int4", "shape": [3, 99]}},
        {"w": {"shape": [2]}},
    ],
)
def test_a_file_that_lies_about_its_tensors_is_refused(tmp_path, about):
    path = tmp_path / "model.safetensors"
    parts = {"w::values": torch.ones(4), "w::places": torch.tensor([0, 1, 99_999_999, -7]), "w::codes": torch.zeros(3, 16, dtype=torch.uint8)}
    save_file(parts, path, metadata={encoded.KEY: json.dumps(about)})
    with pytest.raises(BadRequest, match="damaged"):
        folders.read_weights(path)
