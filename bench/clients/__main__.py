"""`python -m bench.clients [--seconds 30] [--only locust|hey|guidellm] [--report FILE]`: load clients that others wrote.

Each is taken as its makers ship it, in an environment of its own, and pointed at a shop with the starter models. What it
reports is kept as it says it; beside it stands what our books say: calls it saw answered = usage rows. guidellm (the load
client of the vLLM project) brings its own torch: its first run installs about 1.5 GB.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.endurance.__main__ import models_of
from bench.rig import store
from bench.rig.ending import ended
from bench.rig.figures import Figure
from bench.rig.processes import Rig, plain_environment, talk
from bench.rig.shop import Shop
from bench.rig.store import Missing

LOCUST, GUIDELLM, TORCH = "locust==2.47.0", "guidellm==0.8.1", "torch==2.13.0"


@dataclass(frozen=True)
class Place:
    """The running shop as a load client sees it."""

    rig: Rig
    url: str
    key: str
    chat: str
    encoder: str
    seconds: int

    def environment(self) -> dict[str, str]:
        """For clients that read it from there."""
        about = {"SHOP_KEY": self.key, "SHOP_CHAT": self.chat, "SHOP_ENCODER": self.encoder}
        return plain_environment({**about, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"})


@dataclass(frozen=True)
class Report:
    """What a client said. `billed` of its answered calls leave a usage row."""

    client: str
    command: str
    answered: int
    billed: int
    failed: int
    table: str


def run(command: list[str], place: Place, timeout_s: float) -> str:
    """Run a client to its end; its output."""
    done = subprocess.run(
        command, cwd=place.rig.folder, env=place.environment(), capture_output=True, text=True, timeout=timeout_s
    )
    if done.returncode not in (0, 1):  # locust says 1 when calls failed: that is for us to judge
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def locust(place: Place) -> Report:
    """Eight users, mixed calls."""
    program = store.environment("locust-2.47.0", LOCUST) / "locust"
    file = Path(__file__).with_name("locustfile.py")
    words = [
        "--headless",
        "--users",
        "8",
        "--spawn-rate",
        "8",
        "--run-time",
        f"{place.seconds}s",
        "--stop-timeout",
        "20",
    ]
    command = [str(program), "-f", str(file), "--host", place.url, *words, "--json"]
    read = json.loads(run(command, place, place.seconds + 120))
    lines = ["| call | answered | failed | median ms | 95 % ms | 99 % ms |", "|---|---|---|---|---|---|"]
    answered = billed = failed = 0
    for row in sorted(read, key=lambda row: row["name"]):
        good = row["num_requests"] - row["num_failures"]
        answered, failed = answered + good, failed + row["num_failures"]
        billed += good * (row["name"] != "/v1/models")
        times = {float(ms): count for ms, count in row["response_times"].items()}
        marks = " | ".join(f"{percentile(times, share):.0f}" for share in (0.5, 0.95, 0.99))
        lines.append(f"| {row['name']} | {good} | {row['num_failures']} | {marks} |")
    return Report("locust 2.47.0", f"locust {' '.join(words)}", answered, billed, failed, "\n".join(lines))


def percentile(times: dict[float, int], share: float) -> float:
    """The time that `share` of the calls did not exceed, from how many took how long."""
    left = share * sum(times.values())
    for time_ms, count in sorted(times.items()):
        left -= count
        if left <= 0:
            return time_ms
    return max(times, default=0.0)


def hey(place: Place) -> Report:
    """Sixteen connections, the same embedding again and again."""
    program = shutil.which("hey")
    if program is None:
        raise Missing("hey is not installed (Debian, Ubuntu: apt install hey)")
    body = json.dumps({"model": place.encoder, "input": "a toll road for models"})
    words = ["-z", f"{place.seconds}s", "-c", "16", "-m", "POST", "-T", "application/json"]
    said = run(
        [program, *words, "-H", f"Authorization: Bearer {place.key}", "-d", body, f"{place.url}/v1/embeddings"],
        place,
        place.seconds + 60,
    )
    codes = [line.split() for line in said.splitlines() if line.strip().startswith("[")]
    counts = {code.strip("[]"): int(count) for code, count, *_ in codes}
    answered = counts.get("200", 0)
    kept = [line.rstrip() for line in said.splitlines() if line.strip() and "bytes" not in line and "■" not in line]
    table = "```\n" + "\n".join(kept) + "\n```"
    return Report(
        "hey 0.1.4",
        f"hey {' '.join(words)} …/v1/embeddings",
        answered,
        answered,
        sum(counts.values()) - answered,
        table,
    )


def guidellm(place: Place) -> Report:
    """Streams of chats, one at a time and four at a time."""
    program = store.environment("guidellm-0.8.1", TORCH, GUIDELLM, timeout_s=1800) / "guidellm"
    prompts = [f"Question {number}: tell me about toll roads, in a few sentences." for number in range(500)]
    (place.rig.folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    lines = [
        "| streams | calls | failed | calls/s | first token ms, median | between tokens ms, median | output tokens/s |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    answered = failed = 0
    for streams in (1, 4):
        out = place.rig.folder / f"guidellm-{streams}.json"
        backend = f"kind=openai_http,target={place.url},model={place.chat},api_key={place.key},max_tokens=32,validate_backend=false"
        command = [str(program), "run", "--backend", backend, "--profile", f"kind=concurrent,streams={streams}"]
        command += ["--constraint", f"kind=max_requests,count={6 * streams + place.seconds // 3}"]
        command += [
            "--data",
            "kind=json_file,path=prompts.jsonl",
            "--output",
            f"kind=json,path={out}",
            "--disable-console",
        ]
        run(command, place, place.seconds + 240)
        found = json.loads(out.read_text())["benchmarks"][0]
        counts, metrics = found["metrics"]["request_totals"], found["metrics"]
        answered, failed = answered + counts["successful"], failed + counts["errored"]

        def median(name: str, metrics: dict[str, dict[str, dict[str, float]]] = metrics) -> float:
            return metrics[name]["successful"]["median"]

        shown = (median("requests_per_second"), median("time_to_first_token_ms"), median("inter_token_latency_ms"))
        tokens = metrics["output_tokens_per_second"]["successful"]["mean"]
        figures = " | ".join(f"{value:.4g}" for value in (*shown, tokens))
        lines.append(f"| {streams} | {counts['successful']} | {counts['errored']} | {figures} |")
    told = "guidellm run --profile kind=concurrent,streams=1 (then 4) --backend kind=openai_http,max_tokens=32,…"
    return Report("guidellm 0.8.1", told, answered, answered, failed, "\n".join(lines))


CLIENTS = {"locust": locust, "hey": hey, "guidellm": guidellm}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=30, help="how long each client works")
    parser.add_argument("--only", choices=sorted(CLIENTS))
    parser.add_argument("--report", type=Path, help="write what they said to this Markdown file")
    given = parser.parse_args()
    reports: list[tuple[Report, int]] = []

    def work(figures: list[Figure]) -> bool:
        equal = True
        with Rig(given.seconds * 8 + 2400) as rig:
            home = rig.folder / "home"
            home.mkdir()
            shop = Shop(home)
            key = shop.open_for_business()
            _, port = shop.up(rig, None, timeout_s=180)
            place = Place(rig, f"http://127.0.0.1:{port}", key, *models_of(shop), given.seconds)
            for name, client in CLIENTS.items():
                if given.only not in (None, name):
                    continue
                before = shop.events()[0]
                try:
                    report = client(place)
                except Missing as missing:
                    talk(f"{name}: skipped: {missing}")
                    continue
                rows = shop.events()[0] - before
                equal &= rows == report.billed
                talk(
                    f"\n{report.client}: {report.answered} answered, {report.failed} failed; usage rows {rows}\n{report.table}"
                )
                reports.append((report, rows))
                figures.append(Figure(f"client_{name}_failed", [report.failed], "calls", 0, report.client, False))
        if given.report:
            given.report.write_text(page(reports))
        return equal and not any(report.failed for report, _ in reports)

    return ended(work)


def page(reports: list[tuple[Report, int]]) -> str:
    """The page for the docs."""
    parts = [
        "# What load clients say\n",
        "Load clients that others wrote, unmodified, against `tollway up` with its starter models (SmolLM2-135M and",
        f"MiniLM) on {os.cpu_count()} cores which they share with it. Written by `python -m bench.clients --report FILE`; the rates say",
        "more about the machine than about Tollway. What counts: no call fails, and calls they saw answered = rows billed.\n",
    ]
    for report, rows in reports:
        parts += [f"## {report.client}\n", f"    {report.command}\n", report.table, ""]
        parts += [
            f"Answered {report.answered:,}, failed {report.failed:,}; calls to be billed {report.billed:,}, usage rows {rows:,}.\n"
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
