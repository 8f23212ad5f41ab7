"""The models page: what is on offer, what serves it, how fast it is, and what it may be used for."""

from typing import Any

from starlette.responses import Response

from tollway.faces.console import charts, deployments, queries, ranges, tuned
from tollway.faces.console.visit import Visit
from tollway.kit.errors import NotFound
from tollway.sell import catalog, rating

_NOTHING = dict.fromkeys(("digest", "licence", "size_bytes", "parameters", "context_tokens", "signed_by"))
_DAY = ranges.RANGES["24h"]
_METERS = {
    "chat": ("output_tokens",),
    "embedding": ("input_tokens",),
    "rerank": ("input_tokens",),
    "transcription": ("audio_seconds",),
    "speech": ("characters",),
    "image-generation": ("images",),
    "object-detection": ("images",),
}
"""What a model of a kind is priced by; others by rows where a plan does, else by the tokens of their texts."""


def models(visit: Visit) -> Response:
    """GET /console/models"""
    live = {**queries.NOTHING_LIVE, **visit.desk.live()}
    from_ms, to_ms = _DAY.window(visit.now_ms)
    with visit.shop.db.read() as conn:
        speeds = queries.throughput(conn, from_ms, to_ms)
        prices = _prices(conn)
        rows = [_row(visit, one, speeds.get(one["name"]), prices, live) for one in queries.models(conn)]
    template = "parts/models.html" if visit.is_fragment else "models.html"
    return visit.page(template, rows=rows)


def model(visit: Visit) -> Response:
    """GET /console/models/{name}"""
    name = visit.request.path_params["name"]
    live = {**queries.NOTHING_LIVE, **visit.desk.live()}
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
        row = _row(visit, found, queries.throughput(conn, from_ms, to_ms).get(name), _prices(conn), live)
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
    )


def _row(visit: Visit, found: dict[str, Any], used: dict[str, int] | None, prices: Any, live: Any) -> dict[str, Any]:
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
        "prices": _prices_of(prices, found["name"], _METERS.get(found["kind"], ("rows", "input_tokens"))),
        "licence": _card(visit, found)["licence"] or "",
    }


def _state(replicas: list[dict[str, Any]], engine: str) -> str:
    """The best state any replica is in; `unknown` when no gateway runs here to tell."""
    states = {one.get("state") for one in replicas}
    for state in ("ready", "trial", "starting", "ejected", "leaving", "resting", "failed", "dead"):
        if state in states:
            return state
    return "upstream" if engine == "upstream" else "unknown"


def _prices_of(plans: list[Any], model: str, meters: tuple[str, ...]) -> list[tuple[Any, Any]]:
    """(plan version, charge) for every plan that sells the model, all by the first of the meters that any of them uses."""
    selling = [plan for plan in plans if "*" in plan.terms.models or model in plan.terms.models]
    for meter in meters:
        charges = [(plan, rating.charge_for(plan.terms, meter, model)) for plan in selling]
        if found := [(plan, charge[1]) for plan, charge in charges if charge is not None]:
            return sorted(found, key=lambda one: one[1].price_micros)
    return []


def _prices(conn: Any) -> list[Any]:
    return list(catalog.list_plans(conn))


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
