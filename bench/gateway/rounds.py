"""The rounds: every party gets the same blocks of load, one after another, several times over."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.gateway import peers
from bench.rig.figures import Figure
from bench.rig.load import NOISY, Block, Target, measure
from bench.rig.processes import Rig, talk

BUSY, ALONE, SLOW_STREAMS = 32, 1, 64
STARVED = 0.9  # a peer at 32 connections uses more of its core than this, unless the client is too slow


@dataclass(frozen=True)
class Pace:
    """How long blocks last. A block of a slow peer is longer, so that it holds enough calls."""

    rounds: int
    seconds: float
    slow_peer_seconds: float
    warmup: float
    slow_peer_warmup: float
    repeats: int  # so many disturbed blocks are run again, in all


FULL = Pace(rounds=5, seconds=2.5, slow_peer_seconds=4.0, warmup=0.5, slow_peer_warmup=1.5, repeats=12)
QUICK = Pace(rounds=3, seconds=1.0, slow_peer_seconds=1.8, warmup=0.3, slow_peer_warmup=0.8, repeats=4)

# (target, streamed, connections): what one round consists of
PLAN = (
    ("direct", False, BUSY),
    ("nginx", False, BUSY),
    ("gateway", False, BUSY),
    ("litellm", False, BUSY),
    ("direct", True, BUSY),
    ("nginx", True, BUSY),
    ("gateway", True, BUSY),
    ("litellm", True, BUSY),
    ("direct", False, ALONE),
    ("gateway", False, ALONE),
    ("direct", True, ALONE),
    ("gateway", True, ALONE),
)

SLOW_PAIR = {("direct-slow", True, SLOW_STREAMS), ("gateway-slow", True, SLOW_STREAMS)}

Round = Mapping[tuple[str, bool, int], Block]


def run_block(rig: Rig, pace: Pace, target: Target, sse: bool, conns: int) -> Block:
    """One block at the pace its target needs."""
    heavy = target.name == "litellm"
    block = measure(
        rig,
        target,
        conns=conns,
        sse=sse,
        seconds=pace.slow_peer_seconds if heavy else pace.seconds,
        warmup=pace.slow_peer_warmup if heavy else pace.warmup,
    )
    talk(block.row())
    return block


def run(rig: Rig, pace: Pace, targets: Mapping[str, Target]) -> tuple[list[Round], list[Block]]:
    """All rounds, and every block that was run; the order is turned round every other time, so that drift of the
    machine favours nobody. A block disturbed by other processes is run again and the quieter one counts, whatever it gave."""
    rounds: list[Round] = []
    every: list[Block] = []
    again = pace.repeats
    plan = [step for step in PLAN if step[0] in targets]
    if "gateway-slow" in targets:
        plan += [("direct-slow", True, SLOW_STREAMS), ("gateway-slow", True, SLOW_STREAMS)]
    for number in range(pace.rounds):
        talk(f"round {number + 1} of {pace.rounds}")
        blocks: dict[tuple[str, bool, int], Block] = {}
        for name, sse, conns in plan if number % 2 == 0 else reversed(plan):
            tries = [run_block(rig, pace, targets[name], sse, conns)]
            if tries[0].foreign > NOISY and again:
                again -= 1
                talk("  (disturbed by other processes: once more)")
                tries.append(run_block(rig, pace, targets[name], sse, conns))
            every += tries
            blocks[name, sse, conns] = min(tries, key=lambda block: block.foreign)
        rounds.append(blocks)
    return rounds, every


def _rates(rounds: list[Round], ours: tuple[str, bool, int], peer: tuple[str, bool, int]) -> list[float]:
    """Our rate over the peer's. A peer that could not use its core, because something kept the load generator from
    asking for more, is credited with what it would do on a whole one: noise must not make us look better."""
    return [
        r[ours].rate / (r[peer].rate / (r[peer].cpu if r[peer].cpu < STARVED else 1))
        for r in rounds
        if ours in r and peer in r and r[peer].rate
    ]


def _added(rounds: list[Round], sse: bool, what: str) -> list[float]:
    """The gateway minus the mock reached directly, at one connection."""
    pairs = [(r.get(("gateway", sse, ALONE)), r.get(("direct", sse, ALONE))) for r in rounds]
    return [float(g.result[what]) - float(d.result[what]) for g, d in pairs if g and d]


def figures(rounds: list[Round]) -> list[Figure]:
    """The figures these rounds allow: one ratio or difference per round, the median counts."""
    json_busy, sse_busy = ("gateway", False, BUSY), ("gateway", True, BUSY)
    litellm, direct = f"litellm {peers.LITELLM}", "mock upstream, direct"
    nginx = f"nginx {peers.nginx_version()}" if any(("nginx", False, BUSY) in r for r in rounds) else "nginx"
    slow_share = [
        float(r["direct-slow", True, SLOW_STREAMS].result["latency_p50_ms"])
        / float(r["gateway-slow", True, SLOW_STREAMS].result["latency_p50_ms"])
        for r in rounds
        if r.keys() >= SLOW_PAIR
    ]
    found = [
        Figure("gateway_json_vs_nginx", _rates(rounds, json_busy, ("nginx", False, BUSY)), "ratio", 0.06, nginx),
        Figure("gateway_json_vs_litellm", _rates(rounds, json_busy, ("litellm", False, BUSY)), "x", 15, litellm),
        Figure("gateway_stream_vs_litellm", _rates(rounds, sse_busy, ("litellm", True, BUSY)), "x", 30, litellm),
        Figure("gateway_slow_streams_vs_direct", slow_share, "ratio", 0.8, direct),
        Figure("gateway_added_p50_ms", _added(rounds, False, "latency_p50_ms"), "ms", 1.0, direct, at_least=False),
        Figure("gateway_added_p99_ms", _added(rounds, False, "latency_p99_ms"), "ms", 3.0, direct, at_least=False),
        Figure("gateway_ttft_added_ms", _added(rounds, True, "ttft_p50_ms"), "ms", 1.0, direct, at_least=False),
    ]
    return [figure for figure in found if figure.values]


def answered(blocks: list[Block]) -> int:
    """How many calls the gateway answered in these blocks, warm-up and drain included."""
    return sum(int(block.result["answered"]) for block in blocks if block.target == "gateway")


def failures(blocks: list[Block]) -> list[str]:
    """Blocks in which something was not answered as it should be."""
    return [
        f"{b.target} {'sse' if b.sse else 'json'} c={b.conns}: {b.result['errors']} errors, "
        f"{b.result['unfinished']} unfinished: {b.result['first_error']}"
        for b in blocks
        if b.result["errors"] or b.result["unfinished"]
    ]
