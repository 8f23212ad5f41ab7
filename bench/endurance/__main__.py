"""`python -m bench.endurance [--minutes 10] [--only slow|soak]`: slow clients, and a soak with the real starter models.

Slow clients: 1,500 connections that send their headers, then their bodies, a byte at a time, opened again whenever they
are closed, while a client with a real call knocks ten times. Soak: chats and embeddings go on for minutes, and the
resident memory of the gateway and of each replica is fitted with a straight line.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.rig.ending import ended
from bench.rig.figures import Figure
from bench.rig.processes import Child, Rig, talk
from bench.rig.shop import Shop

SLOW, PROBES, PROBE_WITHIN_S = 1500, 10, 1.0
WARM_SHARE = 0.3  # caches and pools fill at first: growth is counted after this share of the soak
TOGETHER = 16
OWN_MIX_S = 180.0
FILLING = 10  # long chats before it: as much as the chat model remembers of prompts (256 MiB)
SAMPLE_EVERY_S = 2.0


@dataclass
class Front:
    """The running shop, and a tiny client for it."""

    port: int
    key: str
    child: Child
    shop: Shop
    answered: int = 0
    failed: list[str] = field(default_factory=list)

    def request(self, path: str, document: dict[str, object]) -> bytes:
        """A whole request with a connection of its own."""
        body = json.dumps(document).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {self.key}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def call(self, path: str, document: dict[str, object], within_s: float) -> bool:
        """Whether a call was answered with 200 in time; what it got instead is noted."""
        try:
            async with asyncio.timeout(within_s):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(self.request(path, document))
                    answer = await reader.read(-1)
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError) as error:
            self.failed.append(repr(error))
            return False
        if not answer.startswith(b"HTTP/1.1 200"):
            self.failed.append(answer[:200].decode(errors="replace"))
            return False
        self.answered += 1
        return True


def models_of(shop: Shop) -> tuple[str, str]:
    """The chat model and the encoder on offer, by kind: the starters."""
    rows = shop.tollway("model", "list")
    rows = rows["models"] if isinstance(rows, dict) else rows
    kinds = {row["kind"]: row["name"] for row in rows if not row.get("retired_ms")}
    return kinds["chat"], kinds["embedding"]


def open_front(rig: Rig) -> tuple[Front, str, str]:
    """A shop with the starter models, ready."""
    home = rig.folder / "home"
    home.mkdir()
    shop = Shop(home)
    key = shop.open_for_business()
    child, port = shop.up(rig, None, timeout_s=180)
    chat, encoder = models_of(shop)
    return Front(port, key, child, shop), chat, encoder


# -- slow clients --------------------------------------------------------------------------------------------------------


async def slow_clients(front: Front, encoder: str) -> tuple[int, float]:
    """Probes answered in time, of both kinds together, and the slowest of them in seconds."""
    good, slowest = 0, 0.0
    for kind in ("headers", "body"):
        opened = [0]
        clients = [asyncio.ensure_future(_slow(front.port, kind, opened)) for _ in range(SLOW)]
        while opened[0] < SLOW:
            await asyncio.sleep(0.05)
        await asyncio.sleep(2)
        for _ in range(PROBES):
            began = time.monotonic()
            document: dict[str, object] = {"model": encoder, "input": "does somebody answer?"}
            good += await front.call("/v1/embeddings", document, PROBE_WITHIN_S)
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.2)
        talk(f"  {SLOW} slow {kind}: {opened[0]} connections opened, {good} probes good so far")
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return good, slowest


async def _slow(port: int, kind: str, opened: list[int]) -> None:
    """One client that takes its time, for ever: a byte every half second."""
    start = b"POST /v1/embeddings HTTP/1.1\r\nHost: shop\r\n"
    if kind == "body":
        start += b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened[0] += 1
            try:
                writer.write(start)
                while not reader.at_eof() and not writer.is_closing():
                    writer.write(b"x")
                    await asyncio.sleep(0.5)
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.05)


# -- soak ----------------------------------------------------------------------------------------------------------------


async def soak(front: Front, chat: str, encoder: str, minutes: float) -> dict[str, float]:
    """Growth of each process in percent of its size, over the time after warming up."""
    until = time.monotonic() + minutes * 60
    samples: list[tuple[float, dict[str, float]]] = []

    async def keep_sampling() -> None:
        began = time.monotonic()
        while time.monotonic() < until:
            samples.append((time.monotonic() - began, front.child.rss_mb()))
            await asyncio.sleep(SAMPLE_EVERY_S)

    await asyncio.gather(ask(front, chat, encoder, until), keep_sampling())
    return growth(samples)


async def ask(front: Front, chat: str, encoder: str, until: float, first: int = 0) -> None:
    """Two callers who chat and two who embed, without a pause. `first`: number of the first, for other callers ask other
    things."""

    async def keep_calling(number: int) -> None:
        for prompt in prompts(first + number):
            if time.monotonic() >= until:
                return
            if number < 2:
                messages = [{"role": "user", "content": prompt}]
                await front.call("/v1/chat/completions", {"model": chat, "messages": messages, "max_tokens": 24}, 60)
            else:
                await front.call("/v1/embeddings", {"model": encoder, "input": [prompt, prompt[:40]]}, 60)

    await asyncio.gather(*(keep_calling(number) for number in range(4)))


async def fill(front: Front, chat: str, encoder: str) -> None:
    """Calls until what the chat model remembers of prompts is full, and as many at once as an engine takes into one step: its
    room for them is taken from the kernel when it is first needed, and kept."""
    for number in range(FILLING):
        content = f"Story {number}: " + "the toll keeper speaks about the weather of the day. " * 120
        messages = [{"role": "user", "content": content}]
        await front.call("/v1/chat/completions", {"model": chat, "messages": messages, "max_tokens": 1}, 120)
    for number in range(4):
        short = [{"role": "user", "content": f"Greeting {number}"}]
        texts = [f"Text {number}: " + "the toll keeper speaks. " * 40] * 2
        asks: dict[str, dict[str, object]] = {
            "/v1/chat/completions": {"model": chat, "messages": short, "max_tokens": 24},
            "/v1/embeddings": {"model": encoder, "input": texts},
        }
        for path, document in asks.items():
            await asyncio.gather(*(front.call(path, document, 120) for _ in range(TOGETHER)))
    await ask(front, chat, encoder, time.monotonic() + OWN_MIX_S, 10)  # what the soak itself asks
    talk(f"  after {FILLING} long chats and three minutes of the soak's own calls: {sum(front.child.rss_mb().values()):.0f} MB")


def growth(samples: Sequence[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Percent that a straight line through the samples after warming up rises from its first to its last."""
    kept = samples[int(len(samples) * WARM_SHARE) :]
    found = {}
    for process in kept[-1][1]:
        points = [(at, sizes[process]) for at, sizes in kept if process in sizes]
        if len(points) < 3:
            continue
        fitted = statistics.linear_regression([at for at, _ in points], [size for _, size in points])
        first = fitted.intercept + fitted.slope * points[0][0]
        found[process] = 100 * fitted.slope * (points[-1][0] - points[0][0]) / first
    return found


def prompts(number: int) -> Iterator[str]:
    """Texts that are never the same twice, of changing length."""
    for turn in itertools.count():
        yield f"Caller {number}, question {turn}: " + "what does the toll keeper say about the weather? " * (
            1 + turn % 7
        )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the soak")
    parser.add_argument("--only", choices=("slow", "soak"))
    parser.add_argument("--strict", action="store_true", help="a missed bar is exit code 1")
    given = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * SLOW)), hard))

    def work(figures: list[Figure]) -> bool:
        with Rig(given.minutes * 60 + 600) as rig:
            front, chat, encoder = open_front(rig)
            if given.only != "soak":
                good, slowest = asyncio.run(slow_clients(front, encoder))
                figures.append(Figure("slow_clients_probes_good", [good / 2], f"of {PROBES}", PROBES, None))
                figures.append(Figure("slow_clients_slowest_probe_ms", [slowest * 1000], "ms", None, None))
            if given.only != "slow":
                asyncio.run(fill(front, chat, encoder))
                grown = asyncio.run(soak(front, chat, encoder, given.minutes))
                for process, percent in grown.items():
                    talk(f"  {percent:+6.2f} %  {process}")
                figures.append(Figure("soak_memory_growth_percent", [max(grown.values())], "%", 1.0, None, False))
                share = len(front.failed) / max(1, front.answered + len(front.failed))
                figures.append(Figure("soak_failed_share", [share], "ratio", 0.0, None, False))
            for told in front.failed[:3]:
                talk(f"  failed: {told}")
            return front.shop.check_rows(front.answered)

    return ended(work, strict=given.strict)


if __name__ == "__main__":
    sys.exit(main())
