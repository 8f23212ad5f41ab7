"""The Predictor of `tollway.inference` on torch: the reference that exported formats are held against."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tollway.forge.models.net import Net
from tollway.inference import Arrays, Features, Predictor


class TorchPredictor(Predictor):
    """Rows in, answers out, by the net itself, in evaluation mode and without gradients."""

    def __init__(self, net: Net, features: Features | None = None) -> None:
        super().__init__(features or net.features, self._run)
        self.net = net

    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """How likely a language model finds rows: `nll` and `tokens`, or the `margin` of a preference."""
        was = self.net.training
        self.net.eval()
        try:
            net: Any = self.net
            found: list[dict[str, float]] = net.score(rows)
        finally:
            self.net.train(was)
        return found

    def _run(self, arrays: Arrays) -> Arrays:
        was = self.net.training
        self.net.eval()
        try:
            with torch.inference_mode():
                made = self.net(**{name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()})
        finally:
            self.net.train(was)
        return {name: one.float().numpy() if one.is_floating_point() else one.numpy() for name, one in made.items()}
