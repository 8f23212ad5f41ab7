"""`python -m bench.gateway [--quick] [--profile] [--only peers]`: the gateway's own figures, as JSON lines on stdout.

Mock upstream and load generator on one core; gateway, nginx and LiteLLM on another; everything in one run, round by
round, so that ratios hold although the machine drifts. See bench/README.md for what each figure means.
"""

import argparse
import subprocess
import sys
import time

from bench.gateway import peers, rounds
from bench.rig import hotspots
from bench.rig.ending import ended
from bench.rig.figures import Figure
from bench.rig.load import Target, chat_body, generator_command
from bench.rig.processes import Rig, cores, plain_environment, talk
from bench.rig.shop import Shop

LIMIT_S, QUICK_LIMIT_S = 480, 150
IDLE_S, QUICK_IDLE_S = 5, 2
RSS_BAR_MB, HELP_BAR_S = 120, 0.3


def start_gateway(rig: Rig, upstream: Target) -> tuple[Shop, dict[str, Target]]:
    """The gateway under test without an engine: two models, both the mock, one of them its slow path."""
    home = rig.folder / "home"
    home.mkdir()
    shop = Shop(home)
    base = f"http://127.0.0.1:{upstream.port}"
    shop.tollway("model", "add", "mock", "--upstream", f"{base}/v1", "--upstream-model", "mock")
    shop.tollway("model", "add", "mock-slow", "--upstream", f"{base}/slow/v1", "--upstream-model", "mock")
    key = shop.open_for_business()
    child, port = shop.up(rig, cores()[0], "--no-starter")
    headers = (f"Authorization: Bearer {key}",)
    targets = {
        "gateway": Target("gateway", port, child, "mock", headers=headers),
        "gateway-slow": Target("gateway", port, child, "mock-slow", headers=headers),
    }
    return shop, targets


def idle_memory(target: Target, seconds: float) -> Figure:
    """Resident memory of the gateway's whole process tree, idle, before any call; the largest of a few looks."""
    seen = []
    for _ in range(3):
        time.sleep(seconds / 3)
        parts = target.child.rss_mb()
        seen.append(sum(parts.values()))
    for name, size in parts.items():
        talk(f"  idle  {size:7.1f} MB  {name}")
    return Figure("gateway_rss_mb", [max(seen)], "MB", RSS_BAR_MB, None, at_least=False)


def help_time() -> Figure:
    """Wall time of `tollway --help`: best of five after one warm-up, alone on the first core's side of things."""
    times = []
    for _ in range(6):
        began = time.perf_counter()
        subprocess.run(
            [*Shop.program(), "--help"], capture_output=True, timeout=30, check=True, env=plain_environment()
        )
        times.append(time.perf_counter() - began)
    talk("  tollway --help  " + "  ".join(f"{t:.3f}" for t in times) + " s (the first is the warm-up)")
    return Figure("cli_help_seconds", [min(times[1:])], "s", HELP_BAR_S, None, at_least=False)


def profile(rig: Rig, target: Target) -> None:
    """Samples the gateway under load, once with JSON calls and once with streams, and prints its hottest lines."""
    for sse in (False, True):
        command = generator_command(target, rounds.BUSY, sse, seconds=8, warmup=1)
        load = rig.start(f"profile-{sse}", [*command, "--body", chat_body(target.model, sse)], core=cores()[1])
        time.sleep(1.5)
        recording = rig.folder / f"profile-{sse}.txt"
        before = hotspots.thread_seconds(target.child.pid)
        sampler = hotspots.start_recording(target.child.pid, 6, recording, cores()[1])
        try:
            sampler.wait(60)
            after = hotspots.thread_seconds(target.child.pid)
            load.process.wait(60)
        finally:
            sampler.kill()
        used = "  ".join(f"{name} {seconds - before.get(name, 0):.2f} s" for name, seconds in after.items())
        talk(f"\nCPU while sampling: {used}")
        talk(load.tail().strip())
        hotspots.tell(recording, f"gateway, {'streams' if sse else 'JSON'} at {rounds.BUSY} connections")


def bench(rig: Rig, pace: rounds.Pace, asked: argparse.Namespace) -> tuple[list[Figure], bool]:
    """Starts all parties, runs the rounds and returns the figures and whether the books were right."""
    idle_s = QUICK_IDLE_S if asked.quick else IDLE_S
    found: list[Figure] = []
    direct = peers.start_mock(rig)
    targets = {"direct": direct, "direct-slow": peers.slow(direct)}
    shop = None
    if asked.only != "peers":
        found.append(help_time())
        shop, served = start_gateway(rig, direct)
        targets |= served
        found.append(idle_memory(served["gateway"], idle_s))
        if asked.profile:
            profile(rig, served["gateway"])
            return found, True
    if asked.only != "gateway":
        litellm = peers.start_litellm(rig, direct, wait=False)
        targets["nginx"] = peers.start_nginx(rig, direct)
        peers.await_litellm(litellm)
        targets["litellm"] = litellm
    done, every = rounds.run(rig, pace, targets)
    found += rounds.figures(done)
    broken = rounds.failures(every)
    for line in broken:
        talk(f"FAILED  {line}")
    return found, (shop is None or shop.check_rows(rounds.answered(every))) and not broken


def main() -> int:
    """Exit codes as in `bench.rig.ending`."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three short rounds, under 90 s; figures are rougher")
    parser.add_argument("--profile", action="store_true", help="sample the gateway under load instead of measuring it")
    parser.add_argument("--only", choices=("peers", "gateway"), help="leave out the gateway, or the peers")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    asked = parser.parse_args()
    if cores()[0] == cores()[1]:
        talk("bench: only one core is allowed here: everything shares it and the figures say little")

    def work(found: list[Figure]) -> bool:
        if asked.only != "gateway" and not asked.profile:
            peers.install_litellm()
        with Rig(QUICK_LIMIT_S if asked.quick else LIMIT_S) as rig:
            figures, right = bench(rig, rounds.QUICK if asked.quick else rounds.FULL, asked)
        found += figures
        return right

    return ended(work, strict=asked.strict)


if __name__ == "__main__":
    sys.exit(main())
