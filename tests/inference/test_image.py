"""Pictures to pixels: what is no picture is refused, what is one keeps its values."""

import base64
import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tollway import inference
from tollway.inference.image import MOST_PIXELS, png
from tollway.kit.errors import BadRequest


def picture(size=(8, 8), mode="L", kind="PNG", seed=0):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(out, kind)
    return out.getvalue()


ROWS = pa.table({"image": [picture(seed=seed) for seed in range(6)], "label": ["a", "b"] * 3})


@pytest.fixture(scope="module")
def features():
    return inference.fit("image-classification", ROWS)


def test_size_and_colours_come_from_the_first_picture(features):
    assert (features.size, features.channels) == (8, 1)
    colour = inference.fit(
        "image-classification", pa.table({"image": [picture((9, 5), "RGB")] * 2, "label": ["a", "b"]})
    )
    assert (colour.size, colour.channels) == (9, 3)


def test_pixels_are_normalised_to_mean_zero_and_spread_one(features):
    pixels = features.collate(features.encode(ROWS.to_pylist()))["pixel_values"]
    assert pixels.shape == (6, 1, 8, 8)
    assert pixels.mean() == pytest.approx(0, abs=1e-3)
    assert pixels.std() == pytest.approx(1, abs=1e-2)


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.integers(0, 255), min_size=64, max_size=64))
def test_png_and_back_loses_nothing(values):
    grey = np.array(values, dtype=np.uint8).reshape(1, 8, 8)
    unit = inference.fit("image-classification", ROWS, {"normalise": "unit"})
    pixels = unit.collate(unit.encode([{"image": png(grey / 255.0)}]))["pixel_values"]
    assert (np.rint(pixels[0] * 255) == grey).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_every_kind_any_size_and_colour_fits(features, kind):
    (row,) = features.encode([{"image": picture((31, 17), "RGB", kind)}])
    assert row["pixel_values"].shape == (1, 8, 8)


def test_a_data_url_an_array_and_the_bytes_are_the_same_picture(features):
    data = picture()
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    found = [
        features.encode([{"image": one}])[0]["pixel_values"].tolist() for one in (data, url, pixels, {"bytes": data})
    ]
    assert all(one == found[0] for one in found)


@settings(max_examples=60, deadline=None)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100), st.none(), st.integers()))
def test_what_is_no_picture_is_refused_with_row_and_field(features, data):
    with pytest.raises(BadRequest, match="Row 0, 'image'"):
        features.encode([{"image": data}])


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(10, 120), flip=st.integers(0, 60), value=st.integers(0, 255))
def test_a_damaged_picture_is_refused_or_read_never_a_crash(features, cut, flip, value):
    data = bytearray(picture())
    data[flip % len(data)] = value
    try:
        features.encode([{"image": bytes(data[:cut])}])
    except BadRequest as refused:
        assert refused.param == "image"


def test_a_bomb_is_refused_by_its_header(features):
    """A few hundred bytes that would unfold into gigapixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = int(MOST_PIXELS**0.5) + 10
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(BadRequest, match="too many"):
        features.encode([{"image": bomb}])


def test_a_seed_always_gives_the_same_noise():
    made = inference.fit("image-generation", ROWS.drop_columns(["label"]), {"noise": 12})
    one, other, third = made.encode([{"seed": 3}, {"seed": 3}, {"seed": 4}])
    assert one["noise"].tolist() == other["noise"].tolist() != third["noise"].tolist()
    (answer,) = made.decode({"image": np.full((1, 1, 8, 8), 0.5)})
    assert Image.open(io.BytesIO(answer["image"])).size == (8, 8)
    for wrong in (-1, 1.5, "x", True, 2**70):
        with pytest.raises(BadRequest, match="'seed'"):
            made.encode([{"seed": wrong}])


def test_what_was_saved_encodes_the_same(features, tmp_path):
    features.save(tmp_path)
    again = inference.load_features(tmp_path)
    rows = ROWS.to_pylist()
    assert (
        again.collate(again.encode(rows))["pixel_values"] == features.collate(features.encode(rows))["pixel_values"]
    ).all()
