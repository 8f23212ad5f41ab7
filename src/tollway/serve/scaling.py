"""How many replicas a version needs: from what was measured, by a queueing model, within limits of number and cost.

    scaler = Scaler(ScalingPolicy(least=1, most=4, wait_s=0.5))
    scaler.observe(12)                                      every second: how many calls came
    decision = scaler.decide(now, 2, service, waiting=3)    Decision(replicas=3, why="…")

The model: replicas are servers, calls arrive at random, a call takes its own share of a replica's time (what `EngineTime`
measures, so that calls that run beside each other in one replica are not counted twice). A replica that writes several
answers at once, step by step, is as many servers as it has slots, each busy from a call's beginning to its end. How long
calls wait is Erlang's formula for c servers (Erlang, 1917), scaled for how irregular arrivals and service are by Allen and Cunneen's
approximation (Allen, Probability, Statistics and Queueing Theory, 1990):

    wait = C(c, a) / (c/s - rate) x (ca2 + cs2) / 2         a = rate x s, the load in servers

More replicas come at once when the wait would break the promise, or a backlog stands that would not be gone in time.
They go one by one, and only when one fewer would have kept half the promise for a while: a replica that must be loaded
again costs more than one that idles for a minute. Pure: time and figures come in, a number and the reason go out.
"""

import math

import msgspec

_FAST_S = 10.0
_SLOW_S = 60.0
_DISPERSION_S = 60.0
_UTILISATION_MOST = 0.9
_DOWN_UTILISATION_MOST = 0.7


class ScalingPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What may be decided. `wait_s`: how long calls may wait for a replica, on average. A replica's price and the limit
    are in micros per hour; a limit of 0 is none."""

    least: int = 1
    most: int = 1
    wait_s: float = 0.5
    down_after_s: float = 120.0
    clear_within_s: float = 10.0
    price_micros: int = 0
    limit_micros: int = 0

    @property
    def affordable(self) -> int:
        """How many replicas the limits of number and cost allow; at least one, as long as one may run at all."""
        if not self.limit_micros or not self.price_micros:
            return self.most
        return max(min(1, self.most), min(self.most, self.limit_micros // self.price_micros))


class Service(msgspec.Struct, frozen=True):
    """What a call takes: mean seconds of one server, the squared coefficient of variation, and how many servers a replica
    is."""

    mean_s: float
    variation2: float = 1.0
    slots: int = 1


class Decision(msgspec.Struct, frozen=True):
    """How many replicas there should be, and why."""

    replicas: int
    why: str
    rate: float = 0.0  # calls a second, as it was reckoned with
    wait_s: float = 0.0  # that is expected with so many


def erlang_c(servers: int, load: float) -> float:
    """The share of calls that find all of `servers` busy at `load` servers' worth of work."""
    if load >= servers:
        return 1.0
    blocked = 1.0  # Erlang's B by its recursion, which stays between 0 and 1
    for server in range(1, servers + 1):
        blocked = load * blocked / (server + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def expected_wait_s(servers: int, rate: float, service: Service, arrivals_variation2: float = 1.0) -> float:
    """Mean seconds in the queue; infinite when the work is more than the servers can do."""
    load = rate * service.mean_s
    if load <= 0:
        return 0.0
    if servers <= load:
        return math.inf
    markovian = erlang_c(servers, load) / (servers / service.mean_s - rate)
    return markovian * (arrivals_variation2 + service.variation2) / 2


class Scaler:
    """What is remembered between decisions about one version. Use it from one event loop."""

    def __init__(self, policy: ScalingPolicy) -> None:
        self.policy = policy
        self._fast = self._slow = 0.0
        self._mean = self._square = 0.0
        self._seconds = 0
        self._low_since: float | None = None
        self._service: Service | None = None  # as it was measured last: in a long quiet nothing is

    @property
    def rate(self) -> float:
        """Calls a second: quick to rise, slow to fall."""
        return max(self._fast, self._slow)

    @property
    def arrivals_variation2(self) -> float:
        """How irregular arrivals are: the variance of calls per second over their mean; 1 for independent callers."""
        if self._seconds < _FAST_S or self._mean <= 0:
            return 1.0
        return min(10.0, max(0.5, (self._square - self._mean * self._mean) / self._mean))

    def observe(self, arrived: int) -> None:
        """So many calls came in one second."""
        self._seconds += 1
        self._fast += (arrived - self._fast) / min(self._seconds, _FAST_S)
        self._slow += (arrived - self._slow) / min(self._seconds, _SLOW_S)
        weight = 1 / min(self._seconds, _DISPERSION_S)
        self._mean += (arrived - self._mean) * weight
        self._square += (arrived * arrived - self._square) * weight

    def decide(self, now: float, replicas: int, service: Service | None, waiting: int = 0) -> Decision:
        """How many there should be, when there are `replicas` (those that load count) and `waiting` calls in the queue.
        Before anything was measured they stay as many as they are."""
        policy = self.policy
        most = policy.affordable
        if service is not None and service.mean_s > 0:
            self._service = service
        service = self._service
        if service is None:
            wanted = max(min(replicas, most), min(policy.least, most))
            return Decision(wanted, "nothing was measured yet" if wanted == replicas else "within the limits")
        needed = self._needed(service, policy.wait_s, _UTILISATION_MOST, most)
        backlog = math.ceil((self.rate + waiting / policy.clear_within_s) * service.mean_s / service.slots)
        wanted = max(needed, min(backlog, most) if waiting else 0, min(policy.least, most))
        if wanted >= replicas:
            self._low_since = None
            return self._said(wanted, replicas, service, waiting, most)
        relaxed = self._needed(service, policy.wait_s / 2, _DOWN_UTILISATION_MOST, most)
        if max(relaxed, policy.least) >= replicas and replicas <= most:
            self._low_since = None
            return Decision(
                replicas, "one fewer would be close to the promise", self.rate, self._wait(replicas, service)
            )
        if replicas > most:
            return Decision(most, "more than the limits allow", self.rate, self._wait(most, service))
        self._low_since = now if self._low_since is None else self._low_since
        if now - self._low_since < policy.down_after_s:
            return Decision(replicas, "fewer would do; waiting whether it stays so", self.rate)
        self._low_since = now
        return Decision(replicas - 1, "fewer do", self.rate, self._wait(replicas - 1, service))

    def _needed(self, service: Service, wait_s: float, utilisation: float, most: int) -> int:
        """The fewest that keep the promise; all there may be when even they do not."""
        load = self.rate * service.mean_s
        for replicas in range(min(self.policy.least, most), most + 1):
            if (
                load <= replicas * service.slots * utilisation and self._wait(replicas, service) <= wait_s
            ) or load == 0:
                return replicas
        return most

    def _wait(self, replicas: int, service: Service) -> float:
        return expected_wait_s(replicas * service.slots, self.rate, service, self.arrivals_variation2)

    def _said(self, wanted: int, replicas: int, service: Service, waiting: int, most: int) -> Decision:
        wait_s = self._wait(wanted, service)
        if wanted == replicas:
            short = wanted == most and (wait_s > self.policy.wait_s)
            why = "the limit is reached; calls wait longer than promised" if short else "as many as are needed"
        else:
            expected = self._wait(replicas, service)
            told = "without end" if math.isinf(expected) else f"{expected:.2f} s"
            why = f"{self.rate:.1f} calls/s of {service.mean_s:.3f} s each: with {replicas} they would wait {told}"
            why += f", and {waiting} wait already" if waiting else ""
        return Decision(wanted, why, self.rate, wait_s)
