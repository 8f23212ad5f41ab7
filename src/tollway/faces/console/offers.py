"""The models page: what is on offer, what serves it, how fast it is, and what it may be used for."""

from typing import Any

import msgspec
from starlette.responses import Response

from tollway.faces.console import charts, deployments, queries, ranges, tuned
from tollway.faces.console.visit import Visit
from tollway.flows import unpriced
from tollway.kit.errors import NotFound
from tollway.sell import catalog, rating
from tollway.serve.models import Upstream, list_models, without_secrets

_NOTHING = dict.fromkeys(("digest", "licence", "size_bytes", "parameters", "context_tokens", "signed_by"))
_DAY = ranges.RANGES["24h"]


def models(visit: Visit) -> Response:
    """GET /console/models"""
    live = {**queries.NOTHING_LIVE, **visit.console.live()}
    from_ms, to_ms = _DAY.window(visit.now_ms)
    with visit.shop.db.read() as conn:
        speeds = queries.throughput(conn, from_ms, to_ms)
        prices = _Prices(visit, conn)
        rows = [_row(visit, one, speeds.get(one["name"]), prices, live) for one in queries.models(conn)]
    template = "parts/models.html" if visit.is_fragment else "models.html"
    return visit.page(template, rows=rows)


def model(visit: Visit) -> Response:
    """GET /console/models/{name}"""
    name = visit.request.path_params["name"]
    live = {**queries.NOTHING_LIVE, **visit.console.live()}
    span = ranges.RANGES["30d"]
    from_ms, to_ms = _DAY.window(visit.now_ms)
    with visit.shop.db.read() as conn:
        found = next((one for one in queries.models(conn) if one["name"] == name), None)
        if found is None:
            raise NotFound(visit.t("error.no_model", name=name[:80]))
        first, last = span.days(visit.now_ms)
        days = {row["group"]: row for row in queries.usage_rows(conn, "day", first, last, None, name, None)}
        panel = deployments.panel(visit, conn, found)
        if visit.is_fragment:  # the figures of a rollout, again and again
            return visit.page("parts/versions.html", panel=panel)
        row = _row(visit, found, queries.throughput(conn, from_ms, to_ms).get(name), _Prices(visit, conn), live)
        latency = queries.latency(conn, from_ms, to_ms, None, name)
    starts = span.starts(visit.now_ms)
    chart = charts.chart(
        visit, "model-usage", visit.t("chart.tokens"), starts, True, _token_series(visit, days, starts)
    )
    return visit.page(
        "model.html",
        row=row,
        warnings=[] if found["retired_ms"] else deployments.unpriced_words(visit, name),
        chart=chart,
        latency=latency,
        card=_card(visit, found),
        panel=panel,
        tuned=tuned.panel(visit, found),
        upstream=msgspec.convert(found["upstream"], Upstream) if found["upstream"] else None,
        without_secrets=without_secrets,
    )


def _row(visit: Visit, found: dict[str, Any], used: dict[str, int] | None, prices: "_Prices", live: Any) -> dict[str, Any]:
    """A model with its replicas, today's speed, and the prices of the plans that sell it."""
    replicas = [one for one in live["replicas"] if one.get("model") == found["name"]]
    decode_us = used["decode_us"] if used else 0
    return {
        **found,
        "replicas": replicas,
        "engine": tuned.engine(visit, found),
        "state": "retired" if found["retired_ms"] else _state(replicas, found["engine"]),
        "used": used,
        "tokens_per_s": used["output_tokens"] * 1_000_000 // decode_us if used and decode_us else None,
        "prices": prices.compared(found["name"]),
        "sold": prices.all_of(found["name"]),
        "licence": _card(visit, found)["licence"] or "",
    }


def _state(replicas: list[dict[str, Any]], engine: str) -> str:
    """The best state any replica is in; `unknown` when no gateway runs here to tell."""
    states = {one.get("state") for one in replicas}
    for state in ("ready", "trial", "starting", "waiting", "ejected", "leaving", "resting", "failed", "dead"):
        if state in states:
            return state
    return "upstream" if engine == "upstream" else "unknown"


class _Prices:
    """What each model costs on the plans that sell it: by the meters of its calls, whatever else a plan has prices for."""

    def __init__(self, visit: Visit, conn: Any) -> None:
        self._plans = list(catalog.list_plans(conn))
        self._meters = {one.name: unpriced.meters(visit.shop.store, one) for one in list_models(conn, retired=True)}

    def compared(self, model: str) -> list[tuple[Any, Any]]:
        """(plan version, charge) by the first of its meters, the cheapest plan first."""
        return sorted(self._charges(model, self._meters.get(model, ())[:1]), key=lambda one: one[1].price_micros)

    def all_of(self, model: str) -> list[tuple[Any, Any]]:
        """The same by each of its meters, plan by plan."""
        return self._charges(model, self._meters.get(model, ()))

    def _charges(self, model: str, meters: tuple[str, ...]) -> list[tuple[Any, Any]]:
        selling = [plan for plan in self._plans if "*" in plan.terms.models or model in plan.terms.models]
        charges = [(plan, rating.charge_for(plan.terms, meter, model)) for plan in selling for meter in meters]
        return [(plan, charge[1]) for plan, charge in charges if charge is not None]


def _card(visit: Visit, found: dict[str, Any]) -> dict[str, Any]:
    """What the model package says about itself: digest, licence, size; nothing for upstreams."""
    describe = getattr(visit.shop, "describe_model", None)
    if not callable(describe) or found["engine"] == "upstream":
        return _NOTHING
    manifest = describe(found["name"], found["version"])
    return _NOTHING if manifest is None else _told(manifest)


def _told(manifest: Any) -> dict[str, Any]:
    return {
        "digest": manifest.digest,
        "licence": manifest.licence,
        "size_bytes": sum(file.size_bytes for file in manifest.files),
        "parameters": manifest.parameters,
        "context_tokens": manifest.context_tokens,
        "signed_by": manifest.signed_by,
    }


def _token_series(visit: Visit, days: dict[str, dict[str, int]], starts: list[int]) -> list[charts.Series]:
    from tollway.kit.clock import day_of

    rows = [days.get(day_of(start), {}) for start in starts]
    return [
        charts.Series(visit.t("chart.out"), [row.get("output_tokens", 0) for row in rows], "number"),
        charts.Series(
            visit.t("chart.in"),
            [row.get("input_tokens", 0) + row.get("cached_tokens", 0) for row in rows],
            "number",
            "quiet",
        ),
    ]
