"""From a file to something buyers can call: import -> verify -> offer. Every model takes this road, the starters too.

Running gateways see a new, moved or retired model at their next look (settings.refresh_s).
"""

from pathlib import Path

import msgspec

from tollway.artifacts import store
from tollway.kit.errors import Conflict, NotFound
from tollway.sell import revision
from tollway.serve import models
from tollway.shop import Shop


def import_file(
    shop: Shop, path: Path, name: str, about: store.About | None = None, progress: store.Progress | None = None
) -> store.ModelPackage:
    """Put a GGUF file on the shelf as the next version of `name`: inspected, hashed, described, signed."""
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", hint="Give the path of a .gguf file.")
    return shop.store.import_gguf(path, name, about, progress=progress)


def deploy(shop: Shop, name: str, version: str | None = None, title: str = "") -> models.Model:
    """Make a package (the newest version unless one is named) the one that answers under its name, once it verifies."""
    package = shop.store.get(name, version)
    shop.store.verify(package).require()
    manifest = package.manifest
    if manifest.kind == "adapter" or manifest.engine not in ("llama_cpp", "onnx"):
        what = "is an adapter" if manifest.kind == "adapter" else f"has only {', '.join(manifest.formats)}"
        raise Conflict(
            f"The package {name}@{manifest.version} {what}: it cannot be served by itself.",
            code="not_servable",
            hint='Add "onnx" (or "gguf" for language models) to [convert] formats of its recipe.',
        )
    kind = msgspec.convert(manifest.kind, models.Kind)
    engine = msgspec.convert(manifest.engine, models.EngineName)
    shown = title or manifest.title or name
    with shop.db.write() as conn:
        offered = models.offer_package(conn, shop.clock.now_ms(), name, kind, manifest.version, shown, engine)
        revision.touch(conn)
    return offered


def add_upstream(shop: Shop, name: str, kind: models.Kind, upstream: models.Upstream, title: str = "") -> models.Model:
    """Offer somebody else's OpenAI-compatible server under a name of ours, metered and priced like any model."""
    with shop.db.write() as conn:
        offered = models.offer_upstream(conn, shop.clock.now_ms(), name, kind, upstream, title)
        revision.touch(conn)
    return offered


def retire(shop: Shop, name: str) -> models.Model:
    """Withdraw a model from sale; its packages and its usage stay."""
    with shop.db.write() as conn:
        retired = models.retire_model(conn, shop.clock.now_ms(), name)
        revision.touch(conn)
    return retired
