"""When two models count as the same, and when not."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.forge.models import worlds
from tollway.forge.convert import parity
from tollway.forge.models.measure import Sample


def sample():
    net = worlds.make("text-classification", architecture="linear")
    return Sample.of(net.features, worlds.TABLES["text-classification"].to_pylist())


SAMPLE = sample()  # 16 rows, labels pos and neg in turns; class 0 is neg


def outputs(right=16, scale=1.0, noise=0.0):
    """Logits that are right for the first `right` rows."""
    found = []
    for number, row in enumerate(SAMPLE.rows):
        answer = 1.0 if (row["label"] == "pos") == (number < right) else -1.0
        found.append({"logits": np.array([-answer * scale, answer * scale + noise], dtype=np.float32)})
    return found


def test_the_same_is_the_same():
    found = parity.compare("pt2", outputs(), outputs(), SAMPLE)
    assert found.holds
    assert (found.max_difference, found.agreement, found.drop, found.source) == (0.0, 1.0, 0.0, 1.0)


def test_lost_quality_fails_even_where_outputs_may_differ():
    found = parity.compare("onnx-int8", outputs(right=16), outputs(right=8), SAMPLE)
    assert not found.holds
    assert any("accuracy falls by 0.5000" in one for one in found.problems)
    assert found.agreement == 0.5


def test_getting_better_is_no_problem_for_quality_but_labels_must_agree():
    found = parity.compare("onnx-int8", outputs(right=8), outputs(right=16), SAMPLE)
    assert [one for one in found.problems if "falls" in one] == []
    assert any("agrees for 50.00%" in one for one in found.problems)


def test_a_float_format_may_not_differ_as_8_bits_may():
    assert parity.compare("onnx-int8", outputs(), outputs(noise=0.1), SAMPLE).holds
    assert not parity.compare("onnx", outputs(), outputs(noise=0.1), SAMPLE).holds


def test_a_given_tolerance_replaces_the_table():
    assert parity.compare("onnx", outputs(), outputs(noise=0.1), SAMPLE, tolerance=0.2).holds
    assert not parity.compare("onnx-int8", outputs(), outputs(noise=0.1), SAMPLE, tolerance=0.05).holds


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_holds(bad):
    found = outputs()
    found[3]["logits"][0] = bad
    verdict = parity.compare("onnx-int8", outputs(), found, SAMPLE, tolerance=1e9)
    assert not verdict.holds
    assert "no numbers" in "; ".join(verdict.problems)


def test_a_missing_output_never_holds():
    found = outputs()
    found[0] = {"other": found[0]["logits"]}
    verdict = parity.compare("onnx-int8", outputs(), found, SAMPLE)
    assert not verdict.holds


@given(st.integers(1, 10_000).map(lambda n: n / 1000), st.integers(0, 5000).map(lambda n: n / 1000))
def test_the_relative_difference_does_not_depend_on_the_unit(unit, noise):
    one = parity.compare("onnx-int8", outputs(), outputs(noise=noise), SAMPLE)
    scaled = [{"logits": found["logits"] * unit} for found in outputs(noise=noise)]
    other = parity.compare("onnx-int8", outputs(scale=unit), scaled, SAMPLE)
    assert other.relative == pytest.approx(one.relative, rel=1e-3, abs=1e-6)
