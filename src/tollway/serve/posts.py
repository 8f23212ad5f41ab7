"""One replica's place in a version: its seat in the line, what it did lately, and how it is shown."""

from typing import Any

import msgspec

from tollway.kit.said import coded
from tollway.serve.line import Seat
from tollway.serve.replica import Replica, State

_KEPT = 0.2  # of what is new, each second


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """One replica as it is shown: now, and as it was over the last ten seconds or so."""

    model: str
    version: str
    number: int
    role: str = ""  # stable | canary | shadow | warm
    state: str  # of its supervisor, or "waiting" (for room), "ejected", "trial" (back from that), "leaving", "resting" (not loaded)
    node: str  # "" while it waits for one
    pid: int | None
    restarts: int
    ejections: int = 0  # in a row
    why: str = ""  # it was lost the last time, or has no room
    said: dict[str, Any] | None = None  # why, as code and figures
    slots: int
    running: int
    busy_share: float = 0.0  # of the time, in which it had a call
    fill_share: float = 0.0  # of its slots, while it had a call
    calls_per_s: float = 0.0
    tokens_per_s: float = 0.0
    cost_micros_per_s: float = 0.0  # of the machine, as far as it is this replica's
    rss_bytes: int = 0
    loaded_bytes: int = 0
    load_seconds: float = 0.0


class Lately(msgspec.Struct):
    """What one replica did lately: means that fade."""

    busy: float = 0.0
    fill: float = 0.0
    calls_per_s: float = 0.0
    tokens_per_s: float = 0.0
    calls: int = 0  # counters as they were at the last tick
    tokens: int = 0

    def tick(self, seat: Seat) -> None:
        """A second has passed."""
        health, keep = seat.health, _KEPT
        busy = seat.running > 0
        self.busy += (busy - self.busy) * keep
        if busy:
            self.fill += (seat.running / max(1, seat.slots) - self.fill) * keep
        self.calls_per_s += (max(0, health.answered - self.calls) - self.calls_per_s) * keep
        self.tokens_per_s += (max(0, health.tokens - self.tokens) - self.tokens_per_s) * keep
        self.calls, self.tokens = health.answered, health.tokens


class Post(msgspec.Struct, eq=False):
    """One replica's place in the version: its seat, once it was ready for the first time."""

    number: int
    replica: Replica
    seat: Seat | None = None
    leaving: bool = False
    loaded_bytes: int = 0  # what it took when it was ready
    lately: Lately = msgspec.field(default_factory=Lately)

    @property
    def ready(self) -> bool:
        """Whether a call can be sent there."""
        return self.seat is not None and self.seat.ready and not self.leaving

    def shown(self, model: str, version: str) -> ReplicaView:
        """How it is."""
        seat, replica, lately = self.seat, self.replica, self.lately
        state = str(replica.state)
        if seat is not None and replica.state is State.READY:
            state = "ejected" if seat.health.ejected else "trial" if seat.health.trial else state
        elif replica.waits:
            state = "waiting"
        why = replica.waits or replica.last_failure
        return ReplicaView(
            model=model,
            version=version,
            number=self.number,
            state="leaving" if self.leaving else state,
            node=replica.node,
            pid=replica.pid,
            restarts=replica.restarts,
            ejections=seat.health.ejections if seat is not None else 0,
            why=str(why),
            said=coded(why),
            slots=replica.slots,
            running=seat.running if seat is not None else 0,
            busy_share=lately.busy,
            fill_share=lately.fill,
            calls_per_s=lately.calls_per_s,
            tokens_per_s=lately.tokens_per_s,
            rss_bytes=replica.rss_bytes,
            loaded_bytes=self.loaded_bytes,
            load_seconds=replica.load_seconds,
        )
