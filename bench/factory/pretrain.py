"""Pre-training a 14M decoder: tokens a second of our loop against nanoGPT's (float32) and Hugging Face's Trainer (packed bf16).

    python -m bench.factory --only pretrain

Each way runs in a process of its own, on one thread; they take turns, so that noise meets all of them alike, and time is
the processor time of the process: what others take of the machine does not count. A figure is the median of the rounds'
ratios. `pretrain_share_of_peak` is the useful linear work (6 x parameters x tokens a second) beside the best large bf16
product of matrices on the same core in the same minute.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from bench.factory import pretrain_worker as worker
from bench.rig.figures import Figure
from bench.rig.processes import talk

WAYS = ("ours", "nanogpt", "hf")
LINEAR = worker.LAYERS * (4 * worker.WIDTH**2 + 3 * worker.WIDTH * 1024) + worker.VOCABULARY * worker.WIDTH


def figures(quick: bool = False) -> list[Figure]:
    """Measure; one value a round."""
    rounds = 3 if quick else 7
    nano, hugging, share = [], [], []
    with contextlib.ExitStack() as stack:
        children = {way: stack.enter_context(_child(way)) for way in WAYS}
        for number in range(rounds):
            order = WAYS if number % 2 == 0 else WAYS[::-1]
            seen = {way: _ask(children[way]) for way in order}
            speed = {way: seen[way]["tokens_per_s"] for way in WAYS}
            nano.append(speed["ours"] / speed["nanogpt"])
            hugging.append(speed["ours"] / speed["hf"])
            share.append(6 * LINEAR * speed["ours"] / seen["ours"]["peak"])
            talk(f"round {number + 1}: " + ", ".join(f"{way} {value:,.0f} tokens/s" for way, value in speed.items()))
    return [
        Figure("pretrain_vs_nanogpt", nano, "ratio", 1.5, "nanoGPT-style loop, float32"),
        Figure("pretrain_vs_hf_packed", hugging, "ratio", 1.15, "transformers Trainer, packed, bf16"),
        Figure("pretrain_share_of_peak", share, "ratio", None, "bf16 matrix product of 2048"),
    ]


@contextlib.contextmanager
def _child(way: str) -> "Iterator[subprocess.Popen[str]]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "bench.factory.pretrain_worker", way]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        if child.stdout is None or child.stdout.readline().strip() != "ready":
            raise SystemExit(f"The way {way!r} did not start; try: {' '.join(command)}")
        yield child
    finally:
        child.kill()
        child.wait()


def _ask(child: "subprocess.Popen[str]") -> dict[str, float]:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    answer: dict[str, float] = json.loads(child.stdout.readline())
    return answer

