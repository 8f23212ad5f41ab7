"""LiteRT (TFLite) as an engine. Its shapes are fixed in the file: batches are cut and padded to them, longer rows cut.

Beside `model.tflite` lies `model.tflite.json`: the names of inputs and outputs in order, and which axis is rows and which
is length.
"""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from tollway.inference.encoding import Arrays
from tollway.kit.errors import BadRequest


class LiteRtRunner:
    """An interpreter; calls take turns, since it holds its tensors itself."""

    shared = False

    def __init__(self, path: Path, threads: int) -> None:
        try:
            about = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
            self.inputs: tuple[str, ...] = tuple(about["inputs"])
            self._outputs: list[str] = list(about["outputs"])
            self._axes: dict[str, dict[str, int]] = {**about["axes"]}
            self._interpreter = Interpreter(model_path=str(path), num_threads=max(1, threads))
            self._signature = self._interpreter.get_signature_runner()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadRequest(f"{path.name} is no LiteRT model that can be loaded: {str(error)[:300]}") from error
        details = self._signature.get_input_details()
        names = sorted(details, key=_number)
        self._slots = {
            name: (slot, details[slot]["shape"], details[slot]["dtype"])
            for name, slot in zip(self.inputs, names, strict=True)
        }
        self._results = sorted(self._signature.get_output_details(), key=_number)
        self._rows = next(int(shape[0]) for _, shape, _ in self._slots.values())
        self._lock = threading.Lock()

    def run(self, arrays: Arrays) -> Arrays:
        missing = [name for name in self.inputs if name not in arrays]
        if missing:
            raise BadRequest(f"The model wants {', '.join(missing)}, which these features do not give.")
        count = len(arrays[self.inputs[0]])
        lengths = [
            arrays[name].shape[axis]
            for name, axes in self._axes.items()
            if name in arrays
            for one, axis in axes.items()
            if one == "length"
        ]
        parts: list[list[np.ndarray]] = []
        with self._lock:
            for start in range(0, count, self._rows):
                feed = {
                    slot: _fitted(arrays[name][start : start + self._rows], shape, kind)
                    for name, (slot, shape, kind) in self._slots.items()
                }
                made = self._signature(**feed)
                parts.append([np.array(made[name]) for name in self._results])
        found: Arrays = {}
        for number, name in enumerate(self._outputs):
            whole = np.concatenate([part[number] for part in parts])[:count]
            axis = self._axes.get(name, {}).get("length")
            found[name] = (
                whole.take(np.arange(min(lengths[0], whole.shape[axis])), axis=axis) if axis and lengths else whole
            )
        return found


def _fitted(array: np.ndarray, shape: Any, kind: Any) -> np.ndarray:
    """The array in the shape of the file: filled up with zeros, or cut."""
    out = np.zeros(tuple(shape), dtype=kind)
    places = tuple(slice(0, min(own, wanted)) for own, wanted in zip(array.shape, shape, strict=True))
    out[places] = array[places].astype(kind, copy=False)
    return out


def _number(name: str) -> int:
    digits = "".join(c for c in name if c.isdigit())
    return int(digits) if digits else 0


def open_model(path: Path, threads: int, _spinning: bool = False) -> LiteRtRunner:
    """Load `path`."""
    return LiteRtRunner(path, threads)
