"""The fleet, live: every replica with its state, its queue, how full it is, what it does a second and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from tollway.faces.console.visit import Visit

_TONES = {
    "ready": "good", "trial": "info", "starting": "info", "leaving": "warn", "ejected": "warn",
    "failed": "bad", "dead": "bad", "resting": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sums:
    """All replicas together."""

    ready: int
    count: int
    running: int
    queued: int
    calls_per_s: float
    tokens_per_s: float
    cost_micros_per_hour: int
    rss_bytes: int


def fleet(visit: Visit) -> Response:
    """GET /console/fleet: looked at again every two seconds."""
    shop: Any = visit.shop
    views: Sequence[Any] = shop.fleet() if hasattr(shop, "fleet") else ()
    queues: Mapping[tuple[str, str], int] = shop.queues() if views else {}
    template = "parts/fleet.html" if visit.is_fragment else "fleet.html"
    return visit.page(
        template, replicas=views, queues=queues, sums=_sums(views, queues), tones=_TONES, per_hour=_per_hour
    )


def _sums(views: Sequence[Any], queues: Mapping[tuple[str, str], int]) -> Sums:
    return Sums(
        ready=sum(one.state == "ready" for one in views),
        count=sum(one.state != "resting" for one in views),
        running=sum(one.running for one in views),
        queued=sum(queues.values()),
        calls_per_s=sum(one.calls_per_s for one in views),
        tokens_per_s=sum(one.tokens_per_s for one in views),
        cost_micros_per_hour=sum(_per_hour(one) for one in views),
        rss_bytes=sum(one.rss_bytes for one in views),
    )


def _per_hour(view: Any) -> int:
    """For show: the books have the exact sums."""
    return int(view.cost_micros_per_s * 3600 + 0.5)
