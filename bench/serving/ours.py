"""The whole shop: gateway, key, limits, holds, replica, usage rows. Two organizations buy: one busy, one quiet."""

from dataclasses import dataclass
from pathlib import Path

from bench.rig.processes import Child, Rig
from bench.rig.shop import Shop
from bench.serving import models
from bench.serving.loads import Target

MODEL = "minilm"


@dataclass
class Ours:
    """The running shop. `quiet` is the head line of the second organization's key."""

    shop: Shop
    child: Child
    target: Target
    quiet: str
    home: Path


def start(rig: Rig, *flags: str, place: str = "home") -> Ours:
    """Made, opened, started with `flags`; ready when its replica has answered."""
    from tollway.artifacts.store import About
    from tollway.kit.settings import Settings
    from tollway.shop import Shop as Home

    home = rig.folder / place
    shop = Shop(home)
    opened = Home.open(Settings(home, environment={}))
    try:
        opened.store.add_package(MODEL, models.folder("minilm"), About(**models.about("minilm")))
    finally:
        opened.close()
    key = shop.open_for_business()
    shop.tollway("org", "create", "quiet")
    shop.tollway("subscription", "start", "quiet", "bench")
    shop.tollway("wallet", "top-up", "quiet", "1000000")
    quiet = str(shop.tollway("key", "create", "quiet")["key"])
    shop.tollway("deploy", MODEL)
    child, port = shop.up(rig, None, "--no-starter", *flags, timeout_s=120)
    target = Target(
        "tollway", port, "/v1/embeddings",
        lambda text: {"model": MODEL, "input": text, "encoding_format": "float"}, (f"Authorization: Bearer {key}",), child,
    )  # fmt: skip
    return Ours(shop, child, target, quiet, home)
