"""`python -m bench.llm [--quick] [--only share|tune|overload] [--threads N]`: the whole path with a real model.

`share`: the whole path = `tollway up` with its replica process, called over HTTP by the load generator; the peer = the same
engine with the same settings, called in process from threads. Blocks of both alternate; only one works at a time.
`tune`: what `tollway model tune` chooses on this machine, against llama.cpp with its own defaults (`tuned.py`).
`overload`: more callers than can be served (`overload.py`).
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

from bench.llm import overload, tuned
from bench.llm.measuring import MODEL, bodies, pair, prompts, start_in_process, weights, whole_path_block
from bench.rig.ending import ended
from bench.rig.figures import Figure
from bench.rig.load import NOISY, Target
from bench.rig.processes import Rig, talk
from bench.rig.shop import Shop

BAR = 0.95
LIMIT_S, QUICK_LIMIT_S = 480, 240
TUNE_LIMIT_S, TUNE_QUICK_LIMIT_S = 1500, 600
ENGINE_BATCH, CACHE_RAM_MIB = 128, 256  # what the replica process sets beyond the settings (serve.engines.llama_cpp)


def settings_of(shop: Shop, threads: int) -> dict[str, int]:
    """What the replica will run with, so that the peer runs with the same."""
    table = shop.tollway("config", "show")
    rows = {row["name"]: row["value"] for row in (table["settings"] if isinstance(table, dict) else table)}
    return {
        "slots": int(rows["replica_slots"]),
        "context": int(rows["replica_context_tokens"]),
        "threads": threads,
        "batch": ENGINE_BATCH,
        "cache_ram_mib": CACHE_RAM_MIB,
    }


def start_shop(rig: Rig, model: Path, threads: int) -> tuple[Shop, Target]:
    """A home with the model imported through the command line, and the gateway with its replica."""
    home = rig.folder / "home"
    home.mkdir()
    (home / "tollway.toml").write_text(f"replica_threads = {threads}\n")
    shop = Shop(home)
    shop.tollway("model", "import", str(model), "--name", MODEL)
    shop.tollway("deploy", MODEL)
    key = shop.open_for_business()
    child, port = shop.up(rig, None, "--no-starter", timeout_s=120)
    return shop, Target("tollway", port, child, MODEL, headers=(f"Authorization: Bearer {key}",))


def bench(rig: Rig, model: Path, rounds: int, alone_calls: int, threads: int) -> tuple[list[Figure], bool]:
    """All rounds; one ratio per round and concurrency."""
    shop, target = start_shop(rig, model, threads)
    engine = start_in_process(rig, model, settings_of(shop, threads))
    source, shares, calls, again = prompts(), {1: [], 8: []}, 0, rounds
    warm = bodies(source, 2)
    engine.block(warm, 2)
    whole_path_block(rig, target, warm, 2)
    for number in range(rounds):
        talk(f"round {number + 1} of {rounds} ({threads} engine thread{'s' if threads > 1 else ''})")
        for conns in shares:
            asked = bodies(source, alone_calls if conns == 1 else conns)
            calls += len(asked)
            tries = [pair(rig, engine, target, asked, conns, engine_first=bool((number + conns) % 2))]
            if tries[0][0] > NOISY and again:
                again -= 1
                asked = bodies(source, len(asked))
                calls += len(asked)
                tries.append(pair(rig, engine, target, asked, conns, engine_first=bool((number + conns) % 2)))
            shares[conns].append(min(tries)[1])  # the quieter one, whatever it gave
    for conns, found in shares.items():
        talk(f"  c={conns}: {statistics.median(found):.3f} of the engine in process")
    peer = "xllamacpp in process, same settings"
    lowest = min(shares.values(), key=statistics.median)
    figures = [Figure("llm_share_of_engine", lowest, "ratio", BAR, peer)]
    figures += [Figure(f"llm_share_of_engine_{conns}", found, "ratio", BAR, peer) for conns, found in shares.items()]
    return figures, shop.check_rows(calls + len(warm))


def main() -> int:
    """Exit codes as in `bench.rig.ending`."""
    parser = argparse.ArgumentParser(prog="python -m bench.llm", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds; figures are rougher")
    parser.add_argument("--model", help="a GGUF chat model (default: the packaged SmolLM2-135M-Instruct)")
    default = max(1, len(os.sched_getaffinity(0)) - 1)
    parser.add_argument(
        "--threads", type=int, default=default, help="engine threads on both sides (default: cores - 1)"
    )
    parser.add_argument("--only", choices=("share", "tune", "overload"), help="one of them")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    asked = parser.parse_args()

    def work(found: list[Figure]) -> bool:
        model, right = weights(asked.model), True
        if asked.only in (None, "share"):
            with Rig(QUICK_LIMIT_S if asked.quick else LIMIT_S) as rig:
                figures, right = bench(rig, model, 2 if asked.quick else 4, 1 if asked.quick else 2, asked.threads)
                found += figures
        if asked.only in (None, "overload"):
            with Rig(QUICK_LIMIT_S if asked.quick else LIMIT_S) as rig:
                shop, target = start_shop(rig, model, asked.threads)
                found += overload.bench(shop, target, 15.0 if asked.quick else 40.0)
        if asked.only in (None, "tune"):
            with Rig(TUNE_QUICK_LIMIT_S if asked.quick else TUNE_LIMIT_S) as rig:
                figures, too = tuned.bench(rig, model, 2 if asked.quick else 4, asked.quick)
                found += figures
                right = right and too
        return right

    return ended(work, strict=asked.strict)


if __name__ == "__main__":
    sys.exit(main())
