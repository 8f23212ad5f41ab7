"""`tollway deploy NAME`: which version of a model buyers reach, what runs beside it, what they pay for it, and the way back.

tollway deploy reviews                      the newest version answers
tollway deploy reviews@4 --canary 10%       version 4 answers ten of a hundred calls and is watched
tollway deploy status|promote|back|stop reviews
"""

import re
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from tollway.faces.cli import deploy_view, next_step, unpriced
from tollway.faces.cli.desk import Desk, amount, command, nearest, pairs
from tollway.flows import release, sample_calls, versions
from tollway.flows.rollout_verdict import RolloutPolicy
from tollway.kit.errors import BadRequest, NotFound
from tollway.kit.formats import ROWS
from tollway.sell import catalog
from tollway.serve import models
from tollway.serve.deployments import Role

_USUAL = "start"
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
Name = Annotated[str, typer.Argument(help="The name buyers call.", metavar="NAME")]
Price = Annotated[list[str] | None, typer.Option(
    "--price", help="METER=PRICE per 1M units, for this model on --plan; repeat. "
    f"Meters: {', '.join(catalog.METERS)}.")]  # fmt: skip
Plan = Annotated[
    str | None, typer.Option("--plan", help="The plan it is sold on: a known one, or the name of a new one.")
]
Move = Annotated[bool, typer.Option("--move-subscribers", help="Those on the plan get the new prices at once.")]
Watch = Annotated[bool, typer.Option("--watch", help="Stay until it is decided; exit code 1 if it was taken back.")]


class Deploy(TyperGroup):
    """`tollway deploy NAME` means `tollway deploy start NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, "--help", "-h", ""}
        if len(args) > 1 and args[0] not in known and not args[0].startswith("-") and not args[1].startswith("-"):
            raise BadRequest(
                f"`tollway deploy` takes one name, not {args[0]!r} and {args[1]!r}.{nearest(args[0], self.commands)}",
                hint="Write tollway deploy NAME, or tollway deploy status|promote|back|stop NAME.",
            )
        if args and args[0] not in known:
            args = [_USUAL, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(cls=Deploy, add_completion=False, no_args_is_help=True,
                  help="Make a model version the one that buyers reach, at once or step by step.")  # fmt: skip


@command(app, _USUAL)
def start(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="A package on the shelf, or NAME@VERSION.", metavar="NAME[@VERSION]")],
    version: Annotated[str | None, typer.Option("--version", help="The newest by default.")] = None,
    canary: Annotated[
        str | None, typer.Option("--canary", help="It answers this share of the calls (10%), watched.")
    ] = None,
    shadow: Annotated[
        str | None, typer.Option("--shadow", help="It gets copies of this share of the calls; nobody gets its answers.")
    ] = None,
    blue_green: Annotated[
        bool, typer.Option("--blue-green", help="Move over when it is loaded; keep the version before warm for --grace.")
    ] = False,
    grace: Annotated[str, typer.Option("--grace", help="How long the version before stays loaded: 90s, 5m, 2h.")] = "5m",
    engine: Annotated[
        str | None, typer.Option("--engine", help="Serve it on this engine: onnx, openvino, litert, torch.")
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Return to the version before.")] = False,
    by_hand: Annotated[bool, typer.Option("--manual", help="Promote by `deploy promote` alone.")] = False,
    promote_after: Annotated[str, typer.Option("--promote-after", help="Watch it for so long at least.")] = "5m",
    max_time: Annotated[str, typer.Option("--max-time", help="What is not shown by then is taken back.")] = "1d",
    min_calls: Annotated[int, typer.Option("--min-calls", help="Calls it must have answered.")] = 100,
    max_error: Annotated[str, typer.Option("--max-error", help="Failed calls, over the stable version's share.")] = "1%",
    max_latency_ratio: Annotated[
        float, typer.Option("--max-latency-ratio", help="Its 95th percentile, times the stable version's.")
    ] = 1.5,
    max_first_token_ratio: Annotated[
        float, typer.Option("--max-first-token-ratio", help="The same of the first token.")
    ] = 1.5,
    max_bad: Annotated[str, typer.Option("--max-bad", help="Bad ratings, over the stable version's share.")] = "10%",
    min_agreement: Annotated[
        str, typer.Option("--min-agreement", help="Copied calls answered as the stable version did (with --shadow).")
    ] = "0%",
    max_cost_ratio: Annotated[
        float | None, typer.Option("--max-cost-ratio", help="Engine time of a call, times the stable version's.")
    ] = None,
    min_margin: Annotated[
        str | None, typer.Option("--min-margin", help="What must be left of the price after engine time.")
    ] = None,
    price: Price = None,
    plan: Plan = None,
    move: Move = False,
    watch: Watch = False,
) -> None:  # fmt: skip
    """Put a version into service: for all calls (with its price), as a canary, or as a shadow. `start` may be left out."""
    name, _, named = name.partition("@")
    version = version or named or None
    if back:
        _back(desk, name)
        return
    if canary is not None or shadow is not None:
        if blue_green or price or plan:
            raise BadRequest("--canary and --shadow go with neither --blue-green nor --price.")
        policy = RolloutPolicy(
            automatic=not by_hand, promote_after_s=_seconds(promote_after), min_calls=min_calls,
            max_time_s=max(_seconds(max_time), _seconds(promote_after)), max_error=_share(max_error),
            max_latency_ratio=max_latency_ratio, max_first_token_ratio=max_first_token_ratio, max_bad=_share(max_bad),
            min_agreement=_share(min_agreement), max_cost_ratio=max_cost_ratio, grace_s=_seconds(grace),
            min_margin=None if min_margin is None else _share(min_margin),
            mirror=percent(shadow) if canary is not None and shadow is not None else 0,
        )  # fmt: skip
        _beside(desk, name, version, canary, shadow, policy, engine or "", watch)
        return
    _outright(desk, name, version, engine or "", _seconds(grace) if blue_green else 0, plan, price or [], move)


@command(app)
def status(desk: Desk, name: Name, watch: Watch = False) -> None:
    """Its versions: what answers, what runs beside it with which figures, what was."""
    found = versions.status(desk.shop, name)
    if watch and any(one.role in ("canary", "shadow") for one in found.in_service):
        found = deploy_view.follow(desk, name)
    desk.answer(found, lambda: deploy_view.drawn(found))
    desk.then(*deploy_view.next_step(found))
    _exit(found, watch)


@command(app)
def promote(desk: Desk, name: Name) -> None:
    """The canary answers all calls from now on; the version before stays warm for a while."""
    made = versions.promote(desk.shop, name)
    desk.until_noticed()
    desk.answer(versions.status(desk.shop, name), lambda: f"{name} is answered by version {made.version}.")
    desk.then(f"tollway deploy back {name}", "the way back")


@command(app)
def back(desk: Desk, name: Name) -> None:
    """The way back from the last step: a canary is taken back; without one, the version before answers again."""
    _back(desk, name)


@command(app)
def stop(desk: Desk, name: Name) -> None:
    """End the canary, the shadow and what is kept warm; the stable version goes on."""
    ended = versions.stop(desk.shop, name)
    desk.until_noticed()
    said = ", ".join(f"{one.role} {one.version}" for one in ended)
    desk.answer(versions.status(desk.shop, name), lambda: f"Ended: {said}.")
    desk.then(f"tollway deploy status {name}")


def _back(desk: Desk, name: str) -> None:
    made = versions.back(desk.shop, name)
    if made.role == "stable":
        found, taken = deploy_view.until_up(desk, name, made), ""
    else:
        deploy_view.until_ready(desk, name)
        found, taken = versions.status(desk.shop, name), f"The {made.role} {made.version} was taken back. "
    desk.answer(found, lambda: f"{taken}{name} is answered by {deploy_view.stable(found)}.")
    desk.then(f"tollway deploy status {name}")


def _beside(
    desk: Desk,
    name: str,
    version: str | None,
    canary: str | None,
    shadow: str | None,
    policy: RolloutPolicy,
    engine: str,
    watch: bool,
) -> None:
    """A canary, with or without copies to compare; or a shadow."""
    role: Role = "canary" if canary is not None else "shadow"
    share = percent(canary if canary is not None else shadow or "")
    try:
        made = versions.start(desk.shop, name, version, role, share, policy, engine)
    except NotFound as error:
        if error.code == "model_not_found":
            error.hint = f"It must be on offer first: tollway deploy {name}."
        raise
    deploy_view.until_ready(desk, name)
    found = deploy_view.follow(desk, name) if watch else versions.status(desk.shop, name)
    now = next(one for one in found.history if one.id == made.id)
    if not watch:
        deploy_view.require_not_over(found, now)
    if now.state == "promoted":
        line = f"{name} is answered by {deploy_view.stable(found)}."
    elif role == "canary":
        line = f"{share} % of the calls are answered by {name}@{made.version}, the rest by {found.stable}."
    else:
        line = f"{share} % of the calls are copied to {name}@{made.version}; {found.stable} answers all of them."
    desk.answer(found, lambda: deploy_view.drawn(found) if watch else line)
    desk.then(*deploy_view.next_step(found))
    _exit(found, watch)


def _outright(
    desk: Desk, name: str, version: str | None, engine: str, grace_s: int, plan: str | None, price: list[str], move: bool
) -> None:
    """A version for all calls, on another engine if one is named. What does not come up changes no price."""
    again = release.offer_adapter_again(desk.shop, name) if version is None and not engine else None
    if again is not None:
        desk.until_noticed()
        desk.answer(again, lambda: f"{name} is on offer to its organization again, on {again.base}.")
        desk.then("tollway model list")
        return
    prices = [(_meter(meter), amount(text)) for meter, text in pairs(price, "--price")]
    wanted = release.plan_to_sell_on(desk.shop, plan) if prices or plan else None
    with desk.shop.db.read() as conn:
        answered = any(one.name == name for one in models.list_models(conn))
    try:
        offered = release.deploy(desk.shop, name, version, grace_s=grace_s, engine=engine)
    except NotFound as error:
        known = {package.manifest.name for package in desk.shop.store.list()} - {name}
        error.message += nearest(name, known)
        raise
    sold, moved = None, 0
    if wanted and not answered:  # nobody gets it without its price
        sold, moved = release.sell(desk.shop, name, wanted, prices, move=move)
    found = deploy_view.until_up(desk, name, offered)
    if wanted and answered:
        sold, moved = release.sell(desk.shop, name, wanted, prices, move=move)
        desk.until_noticed()
    from tollway.faces.console import snippets  # lazy: brings the console along

    call = sample_calls.of(desk.shop.store, desk.shop.settings, offered)[0]
    curl = snippets.curl(desk.url, call).rstrip("\n")
    data = msgspec.to_builtins(offered) | {"curl": curl, "path": call.path, "plan": sold and msgspec.to_builtins(sold)}
    missing = unpriced.of_model(desk, offered)
    data |= {"moved": moved, "way_back": found.way_back}
    data["unpriced"] = [{"plan": on.plan_name} | msgspec.to_builtins(gap) for on, gaps in missing for gap in gaps]
    lines = [f"{name} is answered by {deploy_view.stable(found)}."]
    if sold is not None:
        lines.append(
            f"It is sold on {sold.plan_name}, version {sold.version}" + (f"; {moved} moved to it." if moved else ".")
        )
    desk.answer(data, lambda: "\n".join([*lines, "", curl]))
    for on, gaps in missing:
        unpriced.warn(desk, on, gaps)
    if sold is not None and not move:
        desk.then(*next_step.subscribe(desk, sold.plan_name))
    elif found.way_back:
        desk.then(f"tollway deploy back {name}", f"the way back to version {found.way_back}")
    else:
        desk.then(f"tollway model lineage {name}" if offered.engine in ROWS else f"tollway model show {name}")


def _exit(found: versions.Status, watched: bool) -> None:
    if watched and deploy_view.taken_back(found):
        raise typer.Exit(1)


def percent(text: str, least: int = 1) -> int:
    """`10%` or `10` as whole percent."""
    match = re.fullmatch(r"\s*(\d{1,3})\s*%?\s*", text)
    if match is None or not least <= int(match[1]) <= 100:
        raise BadRequest(f"{text!r} is not a share of the calls.", hint=f"Write {least}% to 100%.")
    return int(match[1])


def _share(text: str) -> float:
    """`1%` or `0.01`."""
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*(%?)\s*", text)
    if match is None:
        raise BadRequest(f"{text!r} is not a share.", hint="Write it as 1% or 0.01.")
    return float(match[1]) / (100 if match[2] else 1)


def _seconds(text: str) -> int:
    """`90s`, `5m`, `2h`, `1d`, or seconds."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*(s|m|min|h|d)?\s*", text)
    if match is None:
        raise BadRequest(f"{text!r} is not a length of time.", hint="Write it as 90s, 5m, 2h or 1d.")
    return int(match[1]) * _UNITS[match[2] or "s"]


def _meter(name: str) -> str:
    if name not in catalog.METERS:
        raise BadRequest(
            f"There is no meter {name!r}.{nearest(name, catalog.METERS)}",
            hint=f"Use one of: {', '.join(catalog.METERS)}.",
        )
    return name
