"""Models that come inside packages: which there are, which are installed, and from there to something buyers can call.

    for one in packaged.listing(shop): …        packaged.bring(shop, "whisper-tiny-en")

A file is taken only if it is, byte for byte, the known one. Weights are never part of Tollway itself.
"""

import difflib

import msgspec

from tollway.artifacts import store
from tollway.flows import release
from tollway.kit.errors import NotFound
from tollway.serve import models
from tollway.shop import Shop


class Packaged(msgspec.Struct, frozen=True, kw_only=True):
    """One of them."""

    name: str
    title: str
    licence: str
    package: str
    installed: bool
    offered: bool


def listing(shop: Shop) -> list[Packaged]:
    """All of them."""
    from tollway.forge.convert import starter  # lazy: reads with the converters

    with shop.db.read() as conn:
        offered = {model.name for model in models.list_models(conn)}
    return [
        Packaged(
            name=one.name,
            title=one.title,
            licence=one.licence,
            package=one.distribution,
            installed=starter.installed(one),
            offered=one.name in offered,
        )
        for one in starter.ALL
    ]


def bring(
    shop: Shop, name: str, progress: store.Progress | None = None, *, deploy: bool = True
) -> tuple[store.ModelPackage, models.Model | None]:
    """Put one on the shelf as a signed package, and on offer. Raises NotFound when it is not installed."""
    from tollway.forge.convert import starter

    known = {one.name: one for one in starter.ALL}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise NotFound(
            f"There is no packaged model {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""),
            code="model_not_found",
            hint=f"There are {', '.join(known)}.",
        )
    package = starter.bring(shop.store, known[name], progress=progress)
    return package, release.deploy(shop, name, package.manifest.version) if deploy else None
