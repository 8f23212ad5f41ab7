"""The gateway's eye on versions in service: what each did since its rollout began, judged four times a second, acted on at once.

    rollouts.adopt(records)      what the database says is in service
    await rollouts.look()        measure, judge, write: promote, roll back, or note how far it is

Figures are sums over the life of a rollout and over all gateways of the shop. They are written down every few seconds, so
that a gateway that is started anew goes on with them. A version whose replicas cannot be started or keep dying is taken
back without waiting for calls.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from fractions import Fraction
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tollway.flows import versions
from tollway.flows.copies import Copies, Target
from tollway.flows.rollout_figures import Figures, Growth, Part, figures_of, read
from tollway.flows.rollout_verdict import RolloutPolicy, Verdict, judge, policy_of, verdict
from tollway.insight import economics, versions_sold
from tollway.kit import log
from tollway.kit.clock import Clock
from tollway.kit.db import Database
from tollway.kit.errors import TollwayError
from tollway.kit.ids import new_id
from tollway.kit.said import Said, say
from tollway.sell.metering import Recorder
from tollway.serve import deployments, models
from tollway.serve.deployments import Record
from tollway.serve.fleet import Fleet
from tollway.serve.replica import State
from tollway.serve.served import Served

_log = log.get("flows.rollouts")
_EVERY_S: Final = 0.25
_IDLE_EVERY_S: Final = 1.0
_NOTE_EVERY_MS: Final = 2_000
_SOLD_EVERY_S: Final = 10.0
_SOLD_REST: Final = 50  # times as long as the last look took
_LIVES: Final = 3  # starts of a replica that did not end well
_READY_WITHIN_S: Final = 900
_FAILURE_MAX: Final = 340


class _Watched(msgspec.Struct):
    record: Record
    figures: Figures
    own: Part = msgspec.field(default_factory=Part)  # what this gateway counted
    growth: Growth = msgspec.field(default_factory=Growth)
    begun: bool = False
    noted_ms: int = 0
    sold_again_at: float = 0.0
    changed: bool = True


class Rollouts:
    """Watches what is in service beside stable versions. Use it from one event loop."""

    def __init__(
        self, fleet: Fleet, copies: Copies, recorder: Recorder, db: Database, clock: Clock, settings: Any
    ) -> None:
        self._fleet, self._copies, self._recorder = fleet, copies, recorder
        self._db, self._clock, self._settings = db, clock, settings
        self.on_decided: Callable[[str, str], None] = lambda model, outcome: None
        self._watched: dict[str, _Watched] = {}
        self._stable: dict[str, Record] = {}
        self._warm: list[Record] = []
        self._me = new_id("gw", clock.now_ms())
        self._opened_ms = clock.now_ms()

    async def work(self) -> None:
        """Look, again and again, until cancelled."""
        while True:
            going_on = bool(self._watched) or any(one.ready_ms is None for one in self._stable.values())
            await asyncio.sleep(_EVERY_S if going_on else _IDLE_EVERY_S)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - logged; if this ended, a bad version would stay
                _log.error("rollouts not looked at", error=repr(error)[:300])

    def adopt(self, records: Sequence[Record]) -> None:
        """What is in service now."""
        beside = {one.id: one for one in records if one.role in ("canary", "shadow")}
        for id_, one in beside.items():
            known = self._watched.get(id_)
            if known is not None:
                known.record = one
            else:
                self._watched[id_] = _Watched(one, figures_of(one), noted_ms=self._clock.now_ms())
        self._watched = {id_: one for id_, one in self._watched.items() if id_ in beside}
        self._stable = {one.model: one for one in records if one.role == "stable"}
        self._warm = [one for one in records if one.role == "warm"]
        targets: dict[str, list[Target]] = {}
        for one in beside.values():
            share = one.share if one.role == "shadow" else int(one.policy.get("mirror", 0))
            if share:
                targets.setdefault(one.model, []).append(Target(one.version, share))
        self._copies.adopt(targets)

    async def look(self) -> None:
        """Everything that is due now."""
        for stable in [*self._stable.values()]:
            if stable.ready_ms is None:
                await _alone(stable, self._came_up(stable))
        now_ms = self._clock.now_ms()
        for warm in self._warm:
            await _alone(warm, self._keep_warm(warm, now_ms))
        for watched in [*self._watched.values()]:
            await _alone(watched.record, self._watch(watched, now_ms))

    async def _keep_warm(self, warm: Record, now_ms: int) -> None:
        now = self._stable.get(warm.model)
        since_ms = warm.began_ms if now is None else now.ready_ms  # from when the other one answers
        if since_ms is not None and now_ms - since_ms >= 1000 * int(warm.policy.get("grace_s", 0)):
            await self._end(warm, say("rollout.grace_over", "its grace time is over"))

    # -- one version beside the stable one -----------------------------------------------------------------------------

    async def _watch(self, watched: _Watched, now_ms: int) -> None:
        record, figures = watched.record, watched.figures
        served = self._served(record)
        trouble = self._trouble(record, served)
        if trouble:
            await self._decide(watched, verdict("roll back", trouble, figures.verdict.findings))
            return
        if record.ready_ms is None:
            if served is not None and served.available:
                self._measure(watched, served)
                await self._recorder.run(lambda conn: deployments.note_ready(conn, now_ms, record.id))
                watched.record = msgspec.structs.replace(record, ready_ms=now_ms)
            elif now_ms - record.began_ms > 1000 * _READY_WITHIN_S:
                why = say("rollout.not_ready", "it was not ready within {limit_s}", limit_s=_READY_WITHIN_S)
                await self._decide(watched, verdict("roll back", why))
            return
        self._measure(watched, served)
        policy, elapsed_s = policy_of(record.policy), (now_ms - record.ready_ms) / 1000
        found = judge(policy, figures.canary, figures.stable, figures.agreement, elapsed_s)
        due = found.decision == "promote" and _may(record, policy)
        if due or self._clock.monotonic() >= watched.sold_again_at:
            await self._read_sold(watched)
            found = judge(policy, figures.canary, figures.stable, figures.agreement, elapsed_s)
        watched.changed = watched.changed or found.why != figures.verdict.why
        figures.verdict = found
        if found.decision == "roll back" or (found.decision == "promote" and _may(record, policy)):
            await self._decide(watched, found)
        elif watched.changed and now_ms - watched.noted_ms >= _NOTE_EVERY_MS:
            watched.noted_ms, watched.changed = now_ms, False
            await self._recorder.run(lambda conn: self._note(conn, watched), lambda noted: _adopt(watched, noted))

    def _measure(self, watched: _Watched, served: Served | None) -> None:
        """Add what happened since the last look."""
        record, figures, own = watched.record, watched.figures, watched.own
        offered = self._fleet.offered(record.model)
        stable = offered.stable if offered is not None else None
        counts = self._copies.counts.get((record.model, record.version))
        if not watched.begun:
            watched.begun = True
            self._begin(watched, served, stable)
        if served is not None:
            watched.growth.add("canary", served.stats, own.canary)
        if stable is not None and stable is not served:
            watched.growth.add(stable.model.version, stable.stats, own.stable)
        if counts is not None:
            watched.growth.add("copies", counts, own.agreement)
        before = figures.calls
        figures.parts[self._me] = own
        figures.add_up()
        watched.changed = watched.changed or figures.calls != before

    def _begin(self, watched: _Watched, served: Served | None, stable: Served | None) -> None:
        """What was counted before the rollout is not of it; a gateway that was started in the middle counts all."""
        record, growth = watched.record, watched.growth
        if record.began_ms < self._opened_ms:
            return
        if stable is not None:
            growth.begin(stable.model.version, stable.stats)
        if served is not None and served.stats.since_ms < record.began_ms:  # it was kept warm
            growth.begin("canary", served.stats)
        counts = self._copies.counts.get((record.model, record.version))
        if counts is not None:
            growth.begin("copies", counts)

    def _note(self, conn: sa.Connection, watched: _Watched) -> Figures:
        """Write down this gateway's part beside those of the others, and the sum."""
        figures, id_ = watched.figures, watched.record.id
        others = read(deployments.get(conn, id_, to_change=True).figures, id_).parts
        found = Figures(
            figures.canary, figures.stable, figures.agreement, figures.verdict, others | {self._me: watched.own}
        )
        found.add_up()
        deployments.note_figures(conn, id_, msgspec.to_builtins(found), figures.verdict.reason)
        return found

    async def _read_sold(self, watched: _Watched) -> None:
        """Look into the books; where that takes long, seldom."""
        began = self._clock.monotonic()
        await asyncio.to_thread(self._sold, watched.record, watched.figures)
        now = self._clock.monotonic()
        watched.sold_again_at = now + max(_SOLD_EVERY_S, _SOLD_REST * (now - began))

    def _sold(self, record: Record, figures: Figures) -> None:
        """What both versions' calls were sold for, cost and were rated, from the books."""
        price = economics.machine_price(self._settings)
        with self._db.read() as conn:
            found = versions_sold.since(conn, record.model, record.ready_ms or record.began_ms, price.currency)
        stable = self._stable.get(record.model)
        for side, version in ((figures.canary, record.version), (figures.stable, stable.version if stable else "")):
            one = found.get(version)
            if one is not None:
                side.sold, side.price_picos, side.rated, side.bad = one.calls, one.price_picos, one.rated, one.bad
                side.cost_picos = round(Fraction(one.engine_us * price.micros_per_hour * 10**6, 3_600_000_000))

    # -- acting ---------------------------------------------------------------------------------------------------------

    async def _decide(self, watched: _Watched, found: Verdict) -> None:
        """Write the outcome, with the figures it rests on; the gateway's next look at the database carries it out."""
        record = watched.record
        watched.figures.verdict = found
        now_ms = self._clock.now_ms()

        def work(conn: sa.Connection) -> bool:
            deployments.alone(conn, record.model)
            if not deployments.get(conn, record.id, to_change=True).running:
                return False  # somebody was faster
            self._note(conn, watched)
            if found.decision == "roll back":
                versions.roll_back_in(conn, now_ms, record, found.reason)
            elif record.role == "canary":
                versions.promote_in(conn, now_ms, record, found.reason)
            else:
                versions.end_in(conn, now_ms, record, found.reason)
            return True

        decided = await self._recorder.run(work)
        self._watched.pop(record.id, None)
        if not decided:
            return  # whoever was faster has said it
        self.on_decided(record.model, found.decision)
        _log.warning("rollout decided", model=record.model, version=record.version, role=record.role,
                     decision=found.decision, why=found.why)  # fmt: skip

    async def _end(self, record: Record, why: str) -> None:
        def work(conn: sa.Connection) -> None:
            deployments.alone(conn, record.model)
            if deployments.get(conn, record.id, to_change=True).running:
                versions.end_in(conn, self._clock.now_ms(), record, why)

        await self._recorder.run(work)
        self._warm = [one for one in self._warm if one.id != record.id]

    async def _came_up(self, stable: Record) -> None:
        """What was deployed outright, a version or another engine for it: note that it answers; if it never will, what was
        there before goes on for good."""
        offered = self._fleet.offered(stable.model)
        served = offered.wanted.get("stable") if offered is not None else None
        now_ms = self._clock.now_ms()
        broken = self._fleet.broken_version(stable.model, stable.version)  # then what is served is what was there before
        if not broken and served is not None and served.available and offered is not None and offered.stable is served:
            await self._recorder.run(lambda conn: deployments.note_ready(conn, now_ms, stable.id))
            self._stable[stable.model] = msgspec.structs.replace(stable, ready_ms=now_ms)
            return
        trouble = self._trouble(stable, served)
        if not trouble:
            return

        def work(conn: sa.Connection) -> bool:
            deployments.alone(conn, stable.model)
            if not deployments.get(conn, stable.id, to_change=True).running:
                return False
            if deployments.version_before(conn, stable.model) is None:
                deployments.note_figures(conn, stable.id, {}, trouble)  # for whoever waits for it
                return False
            versions.back_in(conn, now_ms, models.get_model(conn, stable.model), trouble)
            return True

        try:
            taken_back = await self._recorder.run(work)
        except TollwayError as error:
            _log.warning("no way back", model=stable.model, why=error.message)
            taken_back = False
        if taken_back:
            _log.error(
                "a version never came up and was taken back", model=stable.model, version=stable.version, why=trouble
            )
        else:
            self._stable.pop(stable.model, None)  # said once; it is looked at again when something changes

    def _served(self, record: Record) -> Served | None:
        offered = self._fleet.offered(record.model)
        live = offered.live if offered is not None else []
        return next((one for one in live if one.model.version == record.version), None)

    def _trouble(self, record: Record, served: Served | None) -> str:
        """Why this version cannot work, in words; "" while it may."""
        broken = self._fleet.broken_version(record.model, record.version)
        if broken is not None:
            return say("rollout.broken", "it cannot be served: {failure}", failure=broken.said)
        if served is None or served.passes_through:
            return ""
        for replica in served.replicas:
            if replica.restarts >= _LIVES:
                return say(
                    "rollout.keeps_dying", "its replica keeps dying ({times} times): {failure}", times=replica.restarts,
                    failure=_short(replica.last_failure),
                )  # fmt: skip
            if not served.ready and replica.last_failure and replica.state is not State.READY and replica.restarts >= 2:
                return say(
                    "rollout.not_up", "its replica does not come up: {failure}", failure=_short(replica.last_failure)
                )  # fmt: skip
        return ""


async def _alone(record: Record, work: Awaitable[None]) -> None:
    """One record that cannot be looked at must not keep those after it from being judged."""
    try:
        await work
    except Exception as error:  # noqa: BLE001 - logged; it is looked at again
        _log.error("a version not looked at", model=record.model, version=record.version, error=repr(error)[:300])


def _short(failure: str) -> str:
    """What a replica said last, at a length for a reason, in any language."""
    if not isinstance(failure, Said):
        return failure[:_FAILURE_MAX]
    figures = {name: one[:_FAILURE_MAX] if isinstance(one, str) else one for name, one in failure.figures.items()}
    return Said(failure[:_FAILURE_MAX], failure.code, figures)


def _may(record: Record, policy: RolloutPolicy) -> bool:
    return policy.automatic or record.role == "shadow"


def _adopt(watched: _Watched, found: Figures) -> None:
    """What other gateways counted meanwhile."""
    watched.figures.parts = found.parts
