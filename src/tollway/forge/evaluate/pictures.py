"""Metrics of generated images: reconstruction error, PSNR, ELBO, and a distance of distributions under its honest name.

`pixel_frechet` is the Frechet distance of two Gaussians (Heusel et al. 2017, formula 6), but over the leading principal
components of real pixels, not over Inception features. It ranks models trained on one dataset; it is not "FID" and must not
be compared with published FID figures.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate.measures import Floats, Measure, mean, of_sums

COMPONENTS = 48


def reconstruction(real: NDArray[Any], made: NDArray[Any]) -> list[Measure]:
    """Mean squared error a pixel (images 0..1) and the peak signal-to-noise ratio in decibels that follows from it."""
    error = ((np.asarray(real, np.float64) - np.asarray(made, np.float64)) ** 2).reshape(len(real), -1).mean(axis=1)
    stats = np.stack([error, np.ones(len(error))], axis=1)
    return [
        mean("reconstruction_mse", error, higher=False),
        of_sums(
            "psnr_db",
            stats,
            lambda sums: -10 * np.log10(np.maximum(sums[:, 0] / np.maximum(sums[:, 1], 1e-300), 1e-12)),
        ),
    ]


def elbo(bound: NDArray[Any]) -> list[Measure]:
    """Evidence lower bound in nats an image (Kingma and Welling 2014), the latent at its mean; higher is better."""
    return [mean("elbo_at_mean", bound)]


def distance(real: NDArray[Any], made: NDArray[Any]) -> list[Measure]:
    """`pixel_frechet` as a measure; it has no interval, for resampled sets are farther apart than the sets themselves."""
    value = frechet(real, made)
    return [Measure("pixel_frechet", False, lambda weights: np.full(len(weights), value), resamples=False)]


def frechet(real: NDArray[Any], made: NDArray[Any], components: int = COMPONENTS) -> float:
    """Distance of two sets of images (n, ...) in the principal components of the real ones; 0 for equal moments."""
    flat = np.asarray(real, np.float64).reshape(len(real), -1)
    other = np.asarray(made, np.float64).reshape(len(made), -1)
    centre = flat.mean(axis=0)
    _, _, axes = np.linalg.svd(flat - centre, full_matrices=False)
    axes = axes[: min(components, len(flat) - 1, len(other) - 1)]
    return gaussian_distance((flat - centre) @ axes.T, (other - centre) @ axes.T)


def gaussian_distance(one: Floats, two: Floats) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) of the two sets' means and covariances."""
    shift = one.mean(axis=0) - two.mean(axis=0)
    first, second = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    root = _root(first)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return float(max(0.0, shift @ shift + np.trace(first) + np.trace(second) - 2 * cross))


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
