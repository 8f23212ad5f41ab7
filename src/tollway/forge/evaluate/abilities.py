"""What some predictors can do besides answering: say how likely a text is, rebuild a picture, bound its likelihood.

Asked of the predictor first, then of the net inside it (`forge.models.TorchPredictor`); None when neither can.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]
ROWS_MAX = 512  # pictures that are bounded one by one


def likelihood(predictor: Any) -> Callable[[Sequence[Row]], list[dict[str, float]]] | None:
    """rows -> [{"nll", "tokens"}] (language) or [{"margin"}] (preferences)."""
    return getattr(predictor, "score", None) or getattr(getattr(predictor, "net", None), "score", None)


def rebuilding(predictor: Any) -> Callable[[Sequence[Row]], NDArray[np.float64]] | None:
    """rows with images -> the images as the model sees them, height x width x channels of 0..1."""
    if hasattr(predictor, "reconstruct"):
        return lambda rows: np.stack([np.asarray(one, np.float64) for one in predictor.reconstruct(rows)])
    if not _is_vae(predictor):
        return None

    def rebuild(rows: Sequence[Row]) -> NDArray[np.float64]:
        from tollway.forge.models import TorchPredictor

        found = TorchPredictor(predictor.net, predictor.features).outputs([_shown(row) for row in rows])
        return np.stack([one["image"].transpose(1, 2, 0) for one in found]).astype(np.float64)

    return rebuild


def bounding(predictor: Any) -> Callable[[Sequence[Row]], NDArray[np.float64]] | None:
    """rows with images -> the evidence lower bound of each in nats, with the latent at its mean."""
    if not _is_vae(predictor):
        return None

    def bound(rows: Sequence[Row]) -> NDArray[np.float64]:
        import torch

        net, features = predictor.net.eval(), predictor.features
        found = np.full(len(rows), np.nan)
        with torch.inference_mode():
            for at, one in enumerate(features.encode([_shown(row) for row in rows[:ROWS_MAX]])):
                batch = {name: torch.from_numpy(array) for name, array in features.collate([one]).items()}
                _, figures = net.loss(batch)
                found[at] = -(figures["reconstruction"] + figures["kl"])
        return found

    return bound


def _shown(row: Row) -> dict[str, Any]:
    """What an auto-encoder is shown of a row: the picture, and its class where it draws classes."""
    return {name: row[name] for name in ("image", "label") if row.get(name) is not None}


def _is_vae(predictor: Any) -> bool:
    spec = getattr(getattr(predictor, "net", None), "spec", None)
    return getattr(spec, "architecture", "") == "vae"
