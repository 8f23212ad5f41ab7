"""Answers bought elsewhere: what upstreams charge for what calls used, at the prices that the operator noted of them.

An upstream's price is part of the offer (`tollway model add --cost`), in micros per million units of a meter. It holds for
all calls of a report: notes of earlier prices are not kept. Calls that failed, and are billed to nobody, may cost something
there; that is not known here.
"""

from collections.abc import Mapping
from fractions import Fraction

import sqlalchemy as sa

from tollway.serve import models

VERSION = "upstream"
Rates = Mapping[str, int]
"""Micros per million units, by meter."""


def rates(conn: sa.Connection) -> dict[str, Rates]:
    """What each upstream charges, by our name of its model; those without a price are left out."""
    offered = models.list_models(conn, retired=True)
    return {one.name: dict(one.upstream.costs) for one in offered if one.upstream is not None and one.upstream.costs}


def cost(charged: Rates, used: Mapping[str, int]) -> Fraction:
    """Micros for these quantities. Where nothing is said of cached tokens, they cost what input costs."""
    filled = {"cached_tokens": charged.get("input_tokens", 0), **charged}
    return sum(
        (Fraction(filled[meter] * units, 1_000_000) for meter, units in used.items() if meter in filled), Fraction(0)
    )
