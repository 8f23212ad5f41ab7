"""A voice: hibari's network from the signed package, with its dictionaries from there too.

The library would take its files from wherever it is installed, and fetch others from the network; here it reads the package
that was verified, and nothing else.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

_SILENCE_S: Final = 0.2  # between paragraphs that hold nothing to say


class Voice:
    """A loaded voice. One text at a time."""

    def __init__(self, folder: Path) -> None:
        import hibari.g2p
        import hibari.g2p.oov
        import hibari.tts

        assets = str(folder / "assets")
        for module in (hibari.tts, hibari.g2p, hibari.g2p.oov):
            module.ASSETS = assets
        self._hibari = hibari.tts.Hibari(model=str(folder / "model.onnx"), threads=1)
        self.rate = int(self._hibari.sample_rate)

    def spoken(self, text: str, speed: float, stopped: Callable[[], bool]) -> np.ndarray:
        """The text as samples of -1..1, sentence by sentence; the same text is the same speech."""
        pieces = [np.zeros(0, np.float32)]
        for piece in self._hibari.stream(text, speed=speed, seed=0):
            if stopped():
                break
            pieces.append(np.asarray(piece, np.float32))
        spoken = np.concatenate(pieces)
        return spoken if len(spoken) else np.zeros(int(_SILENCE_S * self.rate), np.float32)
