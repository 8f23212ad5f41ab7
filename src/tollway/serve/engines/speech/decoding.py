"""Reads a stranger's recording in a limited process of its own (`kit/sandbox.py`): WAV, FLAC, MP3, Ogg Vorbis to
16 kHz mono.

    python -P -m tollway.serve.engines.speech.decoding SECONDS_MAX < recording > 16-bit samples
    python -P -m tollway.serve.engines.speech.decoding SECONDS_MAX count < recording > how many

Whatever a broken file does to the decoder, it does it here: the caller sees an exit code. 3: no recording; 4: too long.
"""

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from typing import Final

from tollway.kit import sandbox
from tollway.kit.errors import BadRequest, Unavailable

RATE: Final = 16_000
NOT_A_RECORDING, TOO_LONG = 3, 4
_LIMITS: Final = sandbox.ResourceLimits(memory_bytes=768 << 20, cpu_s=20, wall_s=40.0, file_bytes=0)
_FRAMES: Final = 65_536
_FORMATS: Final = "WAV, FLAC, MP3 or Ogg Vorbis"
_MODULE: Final = "tollway.serve.engines.speech.decoding"


def looks_like_one(recording: bytes) -> bool:
    """Whether the first bytes are those of a format that is read."""
    head = recording[:4]
    mp3 = head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2)
    return mp3 or head in (b"fLaC", b"OggS") or (head == b"RIFF" and recording[8:12] == b"WAVE")


async def decoded(recording: bytes, seconds_max: int) -> bytes:
    """16-bit samples at 16 kHz, mono. Raises BadRequest for what is no recording, or too long a one."""
    samples = await _asked(recording, seconds_max)
    if len(samples) < 2:
        raise _unreadable()
    return samples


async def length_s(recording: bytes, seconds_max: int) -> int:
    """How many seconds it has, begun ones whole: what it plays, not what it says. Raises BadRequest; Unavailable where
    nothing is installed that could read it."""
    if importlib.util.find_spec("miniaudio") is None:
        raise Unavailable(
            "Recordings cannot be measured here.", code="not_installed",
            hint="The operator: pip install 'tollway[speech]'.",
        )  # fmt: skip
    count = int(await _asked(recording, seconds_max, "count"))
    if not count:
        raise _unreadable()
    return -(-count // RATE)


async def _asked(recording: bytes, seconds_max: int, *how: str) -> bytes:
    """What the process says."""
    if not looks_like_one(recording):
        raise _unreadable()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", _MODULE, str(seconds_max), *how,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_LIMITS.wall_s):
            samples, _ = await process.communicate(recording)
    except TimeoutError:
        raise _unreadable() from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == TOO_LONG:
        raise BadRequest(
            f"The recording is longer than {seconds_max:,} seconds.",
            param="file", code="audio_too_long", hint="Cut it into pieces.",
        )  # fmt: skip
    if process.returncode != 0:
        raise _unreadable()
    return samples


def _unreadable() -> BadRequest:
    return BadRequest(
        f"This is no recording that can be read: {_FORMATS}.",
        param="file", code="invalid_audio", hint="Convert it, for example to 16 kHz mono WAV.",
    )  # fmt: skip


def main() -> int:
    seconds_max = int(sys.argv[1])
    recording = sys.stdin.buffer.read()
    sandbox.confine(_LIMITS)
    most = left = seconds_max * RATE
    counting = sys.argv[2:] == ["count"]
    try:
        for samples in _stream(recording):
            left -= len(samples) // 2
            if left < 0:
                return TOO_LONG
            if not counting:
                sys.stdout.buffer.write(samples)
    except (OSError, ValueError, MemoryError, RuntimeError):
        return NOT_A_RECORDING
    if counting:
        sys.stdout.write(str(most - left))
    sys.stdout.flush()
    return 0


def _stream(recording: bytes) -> Iterator[bytes]:
    import miniaudio

    try:
        pieces = miniaudio.stream_memory(
            recording, output_format=miniaudio.SampleFormat.SIGNED16, nchannels=1, sample_rate=RATE,
            frames_to_read=_FRAMES,
        )  # fmt: skip
        for piece in pieces:
            yield piece.tobytes()
    except miniaudio.MiniaudioError as error:
        raise ValueError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
