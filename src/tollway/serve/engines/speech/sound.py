"""Samples to files: WAV, raw PCM, and FLAC (a fixed predictor and Rice codes: about two thirds of the WAV, exactly the same
samples)."""

import hashlib
import struct
from typing import Final

import numpy as np

KINDS: Final = {"wav": "audio/wav", "pcm": "audio/pcm", "flac": "audio/flac"}
_BLOCK: Final = 4096


def written(sound: np.ndarray, rate: int, form: str) -> bytes:
    """Mono samples of -1..1 as a file of the kind `form`."""
    samples = (np.clip(np.nan_to_num(sound), -1.0, 1.0) * 32767.0).round().astype("<i2")
    if form == "pcm":
        return bytes(samples.tobytes())
    return flac(samples, rate) if form == "flac" else wav(samples, rate)


def wav(samples: np.ndarray, rate: int) -> bytes:
    """16-bit mono WAV."""
    data = samples.astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + form + (
        b"data" + struct.pack("<I", len(data)) + data
    )  # fmt: skip


def flac(samples: np.ndarray, rate: int) -> bytes:
    """16-bit mono FLAC."""
    whole = samples.astype(np.int64)
    info = struct.pack(">HH", _BLOCK, _BLOCK) + bytes(6)  # sizes of frames: not told
    info += ((rate << 44) | (15 << 36) | len(whole)).to_bytes(8, "big") + hashlib.md5(  # noqa: S324 - the format's own
        samples.astype("<i2").tobytes()
    ).digest()
    frames = [_frame(whole[start : start + _BLOCK], start // _BLOCK) for start in range(0, len(whole), _BLOCK)]
    sealed = [frame + struct.pack(">H", check) for frame, check in zip(frames, _checks(frames), strict=True)]
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info + b"".join(sealed)


def _frame(block: np.ndarray, number: int) -> bytes:
    """One block: second differences in Rice codes, or the samples as they are where those are shorter."""
    head = b"\xff\xf8" + bytes([0x70, 0x08]) + _utf8(number) + struct.pack(">H", len(block) - 1)
    check = 0
    for byte in head:
        check = int(_CRC_8[check ^ byte])
    head += bytes([check])
    body = _predicted(block) if len(block) > 2 else None
    verbatim = np.concatenate([_bits(np.asarray([2]), 8), _bits(block & 0xFFFF, 16)])
    chosen = verbatim if body is None or len(body) >= len(verbatim) else body
    return head + np.packbits(chosen.astype(np.uint8)).tobytes()


def _predicted(block: np.ndarray) -> np.ndarray | None:
    rest = block[2:] - 2 * block[1:-1] + block[:-2]
    folded = np.where(rest >= 0, rest * 2, -rest * 2 - 1)
    low = min(14, max(0, int(np.log2(folded.mean() + 1))))
    tops = folded >> low
    if tops.max() > 4096:
        return None
    widths = tops + 1 + low
    ends = np.cumsum(widths)
    bits = np.zeros(int(ends[-1]), np.uint8)
    marks = ends - low - 1
    bits[marks] = 1
    for place in range(low):
        bits[marks + 1 + place] = (folded >> (low - 1 - place)) & 1
    opening = [_bits(np.asarray([0b00010100]), 8), _bits(block[:2] & 0xFFFF, 16)]  # fixed predictor of order 2
    coding = [_bits(np.asarray([0]), 6), _bits(np.asarray([low]), 4)]  # Rice, one partition
    return np.concatenate([*opening, *coding, bits])


def _bits(numbers: np.ndarray, width: int) -> np.ndarray:
    places = np.arange(width - 1, -1, -1)
    return ((numbers[:, None] >> places) & 1).astype(np.uint8).reshape(-1)


def _utf8(number: int) -> bytes:
    return chr(number).encode("utf-8", "surrogatepass")


def _table(width: int, polynomial: int) -> np.ndarray:
    """What each byte does to a checksum."""
    made = []
    for number in range(256):
        found = number << (width - 8)
        for _ in range(8):
            found = ((found << 1) ^ (polynomial if found >> (width - 1) else 0)) & ((1 << width) - 1)
        made.append(found)
    return np.asarray(made, dtype=np.int64)


_CRC_8: Final = _table(8, 0x07)
_CRC_16: Final = _table(16, 0x8005)


def _checks(frames: list[bytes]) -> list[int]:
    """The checksum of each frame, all frames at once: byte by byte in Python they would take longer than the speech."""
    lengths = np.asarray([len(frame) for frame in frames])
    table = np.zeros((lengths.max(initial=0), len(frames)), np.uint8)
    for number, frame in enumerate(frames):
        table[: len(frame), number] = np.frombuffer(frame, np.uint8)
    found = np.zeros(len(frames), np.int64)
    for place, column in enumerate(table):
        following = ((found << 8) & 0xFFFF) ^ _CRC_16[(found >> 8) ^ column]
        found = np.where(place < lengths, following, found)
    return [int(one) for one in found]
