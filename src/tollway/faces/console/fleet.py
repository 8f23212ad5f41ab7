"""The fleet, live: every replica with its state, its queue, how full its batches are, what it does and costs a second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tollway.faces.console.visit import Visit
from tollway.kit.money import PICOS_PER_MICRO
from tollway.serve.models import without_secrets

_TONES = {
    "ready": "good", "trial": "info", "starting": "info", "waiting": "warn", "leaving": "warn", "ejected": "warn",
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
    cost_micros_per_s: float
    rss_bytes: int


async def fleet(visit: Visit) -> Response:
    """GET /console/fleet: looked at again every two seconds."""
    shop: Any = visit.shop
    steps: Mapping[tuple[str, str, int], Any] = await shop.steps() if hasattr(shop, "steps") else {}
    return await run_in_threadpool(_shown, visit, steps)


def _shown(visit: Visit, steps: Mapping[tuple[str, str, int], Any]) -> Response:
    shop: Any = visit.shop
    views: Sequence[Any] = shop.fleet() if hasattr(shop, "fleet") else ()
    queues: Mapping[tuple[str, str], int] = shop.queues() if views else {}
    template = "parts/fleet.html" if visit.is_fragment else "fleet.html"
    return visit.page(
        template, replicas=views, queues=queues, steps=steps, sums=_sums(views, queues), tones=_TONES,
        per_hour=_per_hour, picos_per_s=_picos_per_s, without_secrets=without_secrets,
    )  # fmt: skip


def _sums(views: Sequence[Any], queues: Mapping[tuple[str, str], int]) -> Sums:
    return Sums(
        ready=sum(one.state == "ready" for one in views),
        count=sum(one.state != "resting" for one in views),
        running=sum(one.running for one in views),
        queued=sum(queues.values()),
        calls_per_s=sum(one.calls_per_s for one in views),
        tokens_per_s=sum(one.tokens_per_s for one in views),
        cost_micros_per_s=sum(one.cost_micros_per_s for one in views),
        rss_bytes=sum(one.rss_bytes for one in views),
    )


def _per_hour(view: Any) -> int:
    """Micros, for show: the books have the exact sums."""
    return int(view.cost_micros_per_s * 3600 + 0.5)


def _picos_per_s(view: Any) -> int:
    """The same of a second, to three digits that say something."""
    return int(float(f"{view.cost_micros_per_s * PICOS_PER_MICRO:.3g}"))
