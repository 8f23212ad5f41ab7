"""Metrics of generated images: reconstruction error, PSNR, ELBO, and a distance of distributions under its honest name.

`pixel_frechet` is the Frechet distance of two Gaussians (Heusel et al. 2017, formula 6), but over the leading principal
components of real pixels, not over Inception features. It ranks models trained on one dataset; it is not "FID" and must not
be compared with published FID figures. `realism` and `coverage` look at neighbours in the same components (Kynkäänniemi et
al. 2019; Naeem et al. 2020): how many made pictures lie among the real ones, and how many real ones have a made one near.
`classifier_score` is the inception score (Salimans et al. 2016) of a plain classifier of this dataset: high when each
picture clearly is of one class, and all classes occur; at most the number of classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate.measures import Floats, Measure, mean, of_sums

COMPONENTS = 48
NEIGHBOURS = 5
COMPARED_MAX = 2000  # pictures of each side whose distances are taken


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
    return gaussian_distance(*_in_components(real, made, components))


def _in_components(real: NDArray[Any], made: NDArray[Any], components: int = COMPONENTS) -> tuple[Floats, Floats]:
    flat = np.asarray(real, np.float64).reshape(len(real), -1)
    other = np.asarray(made, np.float64).reshape(len(made), -1)
    centre = flat.mean(axis=0)
    _, _, axes = np.linalg.svd((flat - centre)[:COMPARED_MAX], full_matrices=False)
    axes = axes[: min(components, len(flat) - 1, len(other) - 1)]
    return (flat - centre) @ axes.T, (other - centre) @ axes.T


def neighbours(real: NDArray[Any], made: NDArray[Any], near: int = NEIGHBOURS) -> list[Measure]:
    """`realism`: the share of made pictures that are as near to a real one as its own neighbours are. `coverage`: the share
    of real pictures that have a made one that near. Both are 1 for other real pictures, nearly; 0 for noise."""
    ours, theirs = _in_components(real[:COMPARED_MAX], made[:COMPARED_MAX])
    if len(ours) <= near:
        return []
    among = np.sqrt(_squares(ours, ours))
    radius = np.partition(among, near, axis=1)[:, near]  # the picture itself is the nearest of all
    inside = np.sqrt(_squares(ours, theirs)) <= radius[:, None]
    realism, coverage = np.full(len(made), np.nan), np.full(len(real), np.nan)
    realism[: len(theirs)], coverage[: len(ours)] = inside.any(axis=0), inside.any(axis=1)
    return [mean("realism", realism), mean("coverage", coverage)]


def _squares(one: Floats, two: Floats) -> Floats:
    apart = (one**2).sum(axis=1)[:, None] + (two**2).sum(axis=1)[None, :] - 2 * one @ two.T
    return np.asarray(np.maximum(apart, 0))


def classifier_score(told: Sequence[Mapping[str, float]]) -> Measure:
    """exp of how much a picture tells about its class: mean KL of its shares from the shares of all pictures."""
    shares = np.array([list(one.values()) for one in told], dtype=np.float64)
    shares = np.maximum(shares, 1e-12)
    sure = (shares * np.log(shares)).sum(axis=1)
    stats = np.concatenate([shares, sure[:, None], np.ones((len(shares), 1))], axis=1)

    def combine(sums: Floats) -> Floats:
        count = np.maximum(sums[:, -1:], 1e-300)
        overall = np.maximum(sums[:, :-2] / count, 1e-12)
        return np.asarray(np.exp(sums[:, -2] / count[:, 0] - (overall * np.log(overall)).sum(axis=1)))

    return of_sums("classifier_score", stats, combine)


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
