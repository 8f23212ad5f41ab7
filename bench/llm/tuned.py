"""What `tollway model tune` gains: the shop serving its choice, against llama.cpp as it comes, both asked by eight at once.

The peer is the same library in process, on the file as imported, with every setting left at the engine's own default.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.llm import measuring
from bench.rig.figures import Figure
from bench.rig.load import Target
from bench.rig.processes import Rig, plain_environment, talk
from bench.rig.shop import Shop

BAR, CALLERS = 2.5, 8


def tune(shop: Shop, quick: bool) -> dict[str, Any]:
    """The command, as an operator would run it; its table goes to stderr."""
    words = [*shop.program(), "model", "tune", measuring.MODEL, "--home", str(shop.home), "--json"]
    done = subprocess.run(
        words + (["--quick"] if quick else []), stdout=subprocess.PIPE, env=plain_environment(), check=False
    )
    if done.returncode:
        raise RuntimeError(f"`tollway model tune` failed ({done.returncode})")
    made: dict[str, Any] = json.loads(done.stdout)
    for row in made["rows"]:
        options = " ".join(row.get("options", {}).values())
        talk(
            f"  {row['engine']:<15}{row['format']:<15}{options:<6}{row['threads']} threads  agreement "
            f"{row.get('agreement', 0):.2f}  {row.get('per_second', 0):7.1f} tokens/s of {CALLERS}  {row.get('verdict', '')}"
        )
    return made


def bench(rig: Rig, model: Path, rounds: int, quick: bool) -> tuple[list[Figure], bool]:
    """One ratio a round; the agreement of what was chosen beside it."""
    home = rig.folder / "tuned"
    home.mkdir()
    shop = Shop(home)
    shop.tollway("model", "import", str(model), "--name", measuring.MODEL)
    made = tune(shop, quick)
    key = shop.open_for_business()
    child, port = shop.up(rig, None, "--no-starter", timeout_s=120)
    target = Target("tuned", port, child, measuring.MODEL, headers=(f"Authorization: Bearer {key}",))
    peer = measuring.start_in_process(rig, model, {"default": 1})
    source, shares = measuring.prompts(), []
    calls = 2
    warm = measuring.bodies(source, 2)
    peer.block(warm, 2)
    measuring.whole_path_block(rig, target, warm, 2)
    for number in range(rounds):
        asked = measuring.bodies(source, CALLERS)
        _, share = measuring.pair(rig, peer, target, asked, CALLERS, engine_first=bool(number % 2))
        calls += len(asked)
        shares.append(share)
    best = made["rows"][0]
    chosen = f"{best['engine']} {best['format']} with {best['threads']} threads"
    talk(f"  chosen: {chosen}, agreement {best.get('agreement', 0):.2f} (the bar was {made['agreement']})")
    figures = [
        Figure("tune_vs_llama_default_8", shares, "ratio", BAR, "llama.cpp, its own defaults, same file"),
        Figure("tune_agreement", [best.get("agreement", 0.0)], "share", made["agreement"], "float16 on llama.cpp"),
    ]
    return figures, shop.check_rows(calls)


if __name__ == "__main__":
    sys.exit("python -m bench.llm --only tune")
