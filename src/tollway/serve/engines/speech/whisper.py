"""The words of a recording: Whisper on CTranslate2, with its own ears (the mel spectrogram) and its own reading of the answer.

A recording is read in windows of half a minute; the model says when each piece of text begins and ends, and the next window
begins where the last whole piece ended. A window that comes out as a stutter is read again a little more freely.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

RATE: Final = 16_000
_HOP: Final = 160
_FFT: Final = 400
_MELS: Final = 80
_WINDOW: Final = 3000  # frames of 10 ms
_STEP_S: Final = 0.02  # of the model's clock
_FRAMES_A_BLOCK: Final = 6000
_ANSWER_MAX: Final = 224
_STUTTER: Final = 2.4  # texts that shrink more than this when compressed repeat themselves
_UNSURE: Final = -1.0
_SILENT: Final = 0.6
_HEATS: Final = (0.0, 0.4, 0.8)

Stopped = Callable[[], bool]


class Segment(msgspec.Struct):
    """A piece of text, and when it was said (seconds)."""

    id: int
    start: float
    end: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float


class Whisper:
    """A loaded model. One recording at a time."""

    def __init__(self, folder: Path, threads: int) -> None:
        import ctranslate2
        from tokenizers import Tokenizer

        self._views = ctranslate2.StorageView
        self._model = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type="int8", intra_threads=threads, inter_threads=1
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._filters = _mel_filters()
        self.multilingual = bool(self._model.is_multilingual)
        self._clock = self._id("<|notimestamps|>") + 1
        self._end = self._id("<|endoftext|>")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.languages = tuple((config.get("lang_ids") and self._languages()) or ("en",))

    def transcribe(self, sound: np.ndarray, prompt: str, temperature: float, stopped: Stopped) -> list[Segment]:
        """The pieces of a recording (float32, 16 kHz)."""
        heard = _spectrogram(sound, self._filters)
        frames = heard.shape[1] - 1
        before: list[int] = self._tokenizer.encode(" " + prompt.strip(), add_special_tokens=False).ids if prompt else []
        found: list[Segment] = []
        at = 0
        while at < frames and not stopped():
            length = min(_WINDOW, frames - at)
            window = np.zeros((1, _MELS, _WINDOW), np.float32)
            window[0, :, :length] = heard[:, at : at + length]
            read, at = self._window(window, at, length, before[-_ANSWER_MAX + 1 :], temperature)
            for one in read:
                one.id = len(found)
                found.append(one)
                before += self._tokenizer.encode(" " + one.text, add_special_tokens=False).ids
            if read and read[-1].temperature > 0.5:
                before = []  # what was hard to read must not lead the next window astray
        return found

    def _window(
        self, window: np.ndarray, at: int, length: int, before: list[int], temperature: float
    ) -> tuple[list[Segment], int]:
        """The pieces in a window, and where the next one begins."""
        encoded = self._model.encode(self._views.from_array(window), to_cpu=False)
        prompt = [self._id("<|startofprev|>"), *before] if before else []
        prompt.append(self._id("<|startoftranscript|>"))
        if self.multilingual:
            language = self._model.detect_language(encoded)[0][0][0]
            prompt += [self._id(language), self._id("<|transcribe|>")]
        tried: list[tuple[bool, float, float, float, Any]] = []
        for heat in (temperature,) if temperature else _HEATS:
            told = self._model.generate(
                encoded, [prompt], beam_size=1, max_length=448, return_scores=True, return_no_speech_prob=True,
                sampling_temperature=heat, sampling_topk=0 if heat else 1, max_initial_timestamp_index=50,
            )[0]  # fmt: skip
            ratio = _ratio(self._text(told.sequences_ids[0]))
            sure: float = told.scores[0]
            tried.append((ratio <= _STUTTER, sure, ratio, heat, told))
            if ratio <= _STUTTER and (sure >= _UNSURE or told.no_speech_prob > _SILENT):
                break
        _, sure, ratio, heat, told = max(tried, key=lambda one: one[:2])
        if told.no_speech_prob > _SILENT and sure < _UNSURE:
            return [], at + length
        tokens = told.sequences_ids[0]
        pieces, left_at = self._pieces(tokens, length)
        made = [
            Segment(
                id=0,
                start=round(at * 0.01 + start, 2),
                end=round(at * 0.01 + min(end, length * 0.01), 2),
                text=words,
                avg_logprob=round(sure, 4),
                no_speech_prob=round(told.no_speech_prob, 4),
                compression_ratio=round(ratio, 3),
                temperature=heat,
            )
            for start, end, ids in pieces
            if (words := self._text(ids).strip()) and end > start
        ]
        return made, at + max(left_at, 10)

    def _pieces(self, tokens: list[int], length: int) -> tuple[list[tuple[float, float, list[int]]], int]:
        """(start, end, tokens) between the model's own times, and how many frames were read to their end."""
        pieces: list[tuple[float, float, list[int]]] = []
        start: float | None = None
        words: list[int] = []
        for token in tokens:
            if token < self._clock:
                if token < self._end:
                    words.append(token)
                continue
            moment = (token - self._clock) * _STEP_S
            if words:
                pieces.append((start or 0.0, moment, words))
                words, start = [], moment
            else:
                start = moment
        if words:  # it did not come to an end here: the window did
            return [*pieces, (start or 0.0, length * 0.01, words)], length
        stamps = [token >= self._clock for token in tokens]
        open_end = len(stamps) > 1 and stamps[-1] and stamps[-2]  # a next piece begins in this window
        return pieces, round(pieces[-1][1] * 100) if pieces and open_end else length

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode([token for token in tokens if token < self._end]))

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"this tokenizer has no {token}")
        return int(found)

    def _languages(self) -> list[str]:
        known = sorted(self._tokenizer.get_vocab().items(), key=lambda pair: pair[1])
        names = [name[2:-2] for name, _ in known if name.startswith("<|") and len(name) in (6, 7)]
        return names if self.multilingual else ["en"]


def _ratio(text: str) -> float:
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def _spectrogram(sound: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Log mel, a column for each 10 ms; worked out block by block, so that memory stays small."""
    half = _FFT // 2
    padded = np.pad(np.concatenate([sound, np.zeros(_HOP, np.float32)]), half, mode="reflect")
    frames = 1 + (len(padded) - _FFT) // _HOP
    taper = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT) / _FFT)).astype(np.float32)
    views = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP]
    heard = np.empty((_MELS, frames), np.float32)
    for start in range(0, frames, _FRAMES_A_BLOCK):
        power = np.abs(np.fft.rfft(views[start : start + _FRAMES_A_BLOCK] * taper, axis=1)).astype(np.float32) ** 2
        heard[:, start : start + _FRAMES_A_BLOCK] = np.log10(np.maximum(filters @ power.T, 1e-10))
    return np.asarray((np.maximum(heard, heard.max() - 8.0) + 4.0) / 4.0, dtype=np.float32)


def _mel_filters() -> np.ndarray:
    """Slaney's triangles: linear below 1 kHz, logarithmic above, each of area one."""
    least, width, knee = 0.0, 200.0 / 3, 1000.0
    step = np.log(6.4) / 27.0
    top = knee / width + np.log(RATE / 2 / knee) / step
    mels = np.linspace(least, top, _MELS + 2)
    hertz = np.where(mels < knee / width, width * mels, knee * np.exp(step * (mels - knee / width)))
    bins = np.fft.rfftfreq(_FFT, 1 / RATE)
    rises = hertz[:, None] - bins[None, :]
    gaps = np.diff(hertz)
    lower, upper = -rises[:-2] / gaps[:-1, None], rises[2:] / gaps[1:, None]
    triangles = np.maximum(0, np.minimum(lower, upper))
    shaped: Any = triangles * (2.0 / (hertz[2:] - hertz[:-2]))[:, None]
    return np.asarray(shaped, dtype=np.float32)
