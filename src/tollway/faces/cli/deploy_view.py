"""A model's versions on a terminal: a table of what is in service, the figures of a rollout, and following one live.

Progress goes to stderr: a spinner and the figures so far where somebody watches, one line for each change where not.
"""

import sys
import time
from typing import Any, Final

from tollway.faces.cli import tables
from tollway.faces.cli.desk import Desk
from tollway.flows import versions
from tollway.flows.versions import Status
from tollway.kit.errors import Conflict
from tollway.serve.deployments import Record
from tollway.serve.models import Model

_LOOK_EVERY_S: Final = 0.25
_READY_WITHIN_S: Final = 300.0
_STATES: Final = {"good": "[green]good[/]", "bad": "[red]bad[/]", "open": "[yellow]open[/]", "unknown": "not known"}


def until_up(desk: Desk, name: str, made: Model | Record) -> Status:
    """`until_ready` for what is to answer all calls; how it stands then. Raises Conflict when something else answers: it was
    taken back, and what was there before never stopped answering; or somebody else put another in its place."""
    until_ready(desk, name)
    found = versions.status(desk.shop, name)
    wanted = (made.version, made.chosen_engine)
    same = (one for one in found.history if one.role == "stable" and (one.version, one.chosen_engine) == wanted)
    ended = next(same, None)
    if ended is not None:
        require_not_over(found, ended)
    return found


def require_not_over(found: Status, ended: Record) -> None:
    """Raises Conflict for what was put into service and is there no more, unless it was promoted."""
    name = found.model
    if ended.state == "rolled_back":
        raise Conflict(
            f"{name}@{what(ended)} was taken back: {ended.why}.",
            code="taken_back",
            hint=f"{name} is answered by {stable(found)} as before. The log of `tollway up` has what the engine said; "
            "another version or --engine can be deployed at once.",
        )
    if ended.state == "ended":
        raise Conflict(
            f"{name}@{what(ended)} is not in service any more: {ended.why}.",
            code="not_in_service",
            hint=f"{name} is answered by {stable(found)}. tollway deploy status {name} shows what was done and when.",
        )


def until_ready(desk: Desk, name: str) -> None:
    """Wait until a running gateway has loaded what was put into service; without one there is nothing to wait for. Raises
    Conflict when it does not come up and there is no version to go back to, or not in time."""
    from tollway.watch import doctor

    if doctor.running_pid(desk.home) is None:
        return
    with _Line(desk) as line:
        began, before = time.monotonic(), ""
        while True:
            coming = [
                one for one in versions.status(desk.shop, name).in_service if one.role != "warm" and not one.ready_ms
            ]
            if not coming:
                return
            waited_s, what_comes = time.monotonic() - began, f"{name}@{what(coming[0])}"
            if coming[0].role == "stable" and coming[0].why:
                raise Conflict(
                    f"{what_comes} does not come up: {coming[0].why}.",
                    code="not_up",
                    hint=f"It is tried again and again, calls get 503. Another version: tollway deploy {name}@VERSION; "
                    f"off sale: tollway model retire {name}.",
                )
            if waited_s > _READY_WITHIN_S:
                raise Conflict(
                    f"{what_comes} is still loading after {waited_s:.0f} s. It answers as soon as it can; what answered "
                    "before goes on until then.",
                    code="still_loading",
                    hint=f"tollway deploy status {name} shows how it stands; tollway deploy back {name} is the way back.",
                )
            line.say(f"{what_comes} ({coming[0].role}): loading, {waited_s:.0f} s", changed=what_comes != before)
            before = what_comes
            time.sleep(_LOOK_EVERY_S)


def what(one: Record) -> str:
    """A version, with the engine that was chosen for it by name."""
    return f"{one.version} on {one.chosen_engine}" if one.chosen_engine else one.version


def stable(found: Status) -> str:
    """What answers, in words."""
    one = _answering(found)
    return f"version {what(one) if one is not None else found.stable}"


def follow(desk: Desk, name: str) -> Status:
    """Show a rollout's figures until it is decided."""
    last = ""
    with _Line(desk) as line:
        while True:
            found = versions.status(desk.shop, name)
            beside = [one for one in found.in_service if one.role in ("canary", "shadow")]
            if not beside:
                line.keep(f"{name}: {_outcome(found)}")
                return found
            said = "; ".join(_told(one) for one in beside)
            line.say(f"{name}: {said}", changed=said != last)
            last = said
            time.sleep(2 * _LOOK_EVERY_S)


def drawn(found: Status) -> Any:
    """The whole picture."""
    from rich.console import Group

    rows = [_row(one) for one in found.in_service]
    columns = {"role": "role", "version": "version", "share": "share", "since": "since", "state": "state"}
    parts: list[Any] = [tables.table(rows, columns, empty=f"{found.model} has no version in service.")]
    for one in found.in_service:
        if one.role in ("canary", "shadow"):
            parts += [f"\n{found.model}@{one.version}, {one.role}: {_told(one)}", _findings(one)]
    past = [
        {"version": what(one), "role": one.role, "state": one.state.replace("_", " "), "began": tables.moment(one.began_ms),
         "ended": tables.moment(one.ended_ms), "why": one.why}
        for one in found.history if not one.running
    ][:12]  # fmt: skip
    if past:
        heads = {name: name for name in ("version", "role", "state", "began", "ended", "why")}
        parts += ["\nBefore:", tables.table(past, heads)]
    return Group(*parts)


def next_step(found: Status) -> tuple[str, str]:
    """What one may want to do now."""
    canary = next((one for one in found.in_service if one.role == "canary"), None)
    if canary is not None:
        return f"tollway deploy back {found.model}", f"the way back; `deploy promote {found.model}` goes on at once"
    shadow = next((one for one in found.in_service if one.role == "shadow"), None)
    if shadow is not None:
        onward = f"`deploy {found.model}@{shadow.version} --canary 10%` lets it answer calls"
        return f"tollway deploy stop {found.model}", f"the way back; {onward}"
    if found.way_back:
        return f"tollway deploy back {found.model}", f"the way back to version {found.way_back}"
    return f"tollway usage --model {found.model}", "another version is tried on some calls with `tollway deploy --canary`"


def taken_back(found: Status) -> bool:
    """Whether the last rollout was."""
    last = next((one for one in found.history if one.role in ("canary", "shadow")), None)
    return last is not None and last.state == "rolled_back"


def _answering(found: Status) -> Record | None:
    return next((one for one in found.in_service if one.role == "stable"), None)


def _row(one: Record) -> dict[str, Any]:
    share = "copies of " if one.role == "shadow" else ""
    state = "loading" if one.ready_ms is None and one.role != "warm" else "ready"
    return {
        "role": one.role, "version": what(one), "share": f"{share}{one.share} %" if one.share else "-",
        "since": tables.moment(one.began_ms), "state": state,
    }  # fmt: skip


def _findings(one: Record) -> Any:
    found = (one.figures.get("verdict") or {}).get("findings") or []
    rows = [
        {"measure": each["name"].replace("_", " "), "figures": each["words"], "verdict": each["state"]}
        for each in found
    ]
    heads = {name: name for name in ("measure", "figures", "verdict")}
    return tables.table(rows, heads, empty="Nothing was measured yet.", marks=_STATES)


def _told(one: Record) -> str:
    if one.ready_ms is None:
        return f"{one.role} {one.version} is loading"
    return f"{one.role} {one.version} {one.why or 'waits for calls'}"


def _outcome(found: Status) -> str:
    last = next((one for one in found.history if one.role in ("canary", "shadow")), None)
    if last is None:
        return f"answered by version {found.stable}"
    return f"{last.role} {last.version} was {last.state.replace('_', ' ')}: {last.why}"


class _Line:
    """One line on stderr, rewritten where somebody watches; elsewhere a line for each change."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._status: Any = None

    def __enter__(self) -> "_Line":
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True, emoji=False).status("")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, text: str, *, changed: bool = False) -> None:
        """How it stands."""
        if self._status is not None:
            self._status.update(text.replace("[", "\\["))
        elif changed:
            self._desk.say(text)

    def keep(self, text: str) -> None:
        """What stays on the screen."""
        if self._status is not None:
            self._status.console.print(text, highlight=False, markup=False)
        else:
            self._desk.say(text)
