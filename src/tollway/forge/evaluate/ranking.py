"""Metrics of a list in order: recall@k, NDCG@k, MRR, MAP@k of recommendations.

NDCG with binary relevance: Jarvelin and Kekalainen 2002.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollway.forge.evaluate.measures import Measure, mean

DEPTHS = (5, 10, 20)


def measures(
    relevant: Sequence[set[Any]], listed: Sequence[Sequence[Any]], depths: Sequence[int] = DEPTHS
) -> list[Measure]:
    """One row a user (or query): the relevant items and the list shown, best first. NDCG@10 comes first."""
    hits = [
        np.array([item in wanted for item in shown], dtype=bool) for wanted, shown in zip(relevant, listed, strict=True)
    ]
    counts = [len(wanted) for wanted in relevant]
    found = [
        mean(f"ndcg@{k}", [_ndcg(hit[:k], min(n, k)) for hit, n in zip(hits, counts, strict=True)]) for k in depths
    ]
    found.sort(key=lambda one: one.name != "ndcg@10")
    for k in depths:
        found.append(
            mean(f"recall@{k}", [hit[:k].sum() / n if n else np.nan for hit, n in zip(hits, counts, strict=True)])
        )
        found.append(
            mean(f"precision@{k}", [hit[:k].sum() / k if n else np.nan for hit, n in zip(hits, counts, strict=True)])
        )
        found.append(
            mean(f"map@{k}", [_average_precision(hit[:k], min(n, k)) for hit, n in zip(hits, counts, strict=True)])
        )
    firsts = [1 / (int(np.argmax(hit)) + 1) if hit.any() else 0.0 for hit in hits]
    found.append(mean("mrr", [first if n else np.nan for first, n in zip(firsts, counts, strict=True)]))
    return found


def _ndcg(hit: NDArray[np.bool_], possible: int) -> float:
    if not possible:
        return float("nan")
    discount = 1 / np.log2(np.arange(2, max(len(hit), possible) + 2))
    return float((hit * discount[: len(hit)]).sum() / discount[:possible].sum())


def _average_precision(hit: NDArray[np.bool_], possible: int) -> float:
    if not possible:
        return float("nan")
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    return float((precision * hit).sum() / possible)
