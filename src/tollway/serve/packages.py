"""The packages behind what is on offer: held against their signatures, and made into engines.

For the fleet; what a manifest's words mean to an engine is `assembly`'s.
"""

import contextlib
import os
from typing import Any

import msgspec

from tollway.artifacts import tuning
from tollway.artifacts.store import Store
from tollway.kit import log
from tollway.kit.errors import TollwayError
from tollway.kit.settings import Settings
from tollway.serve import adapters, assembly
from tollway.serve.engines import Engine, UpstreamServer
from tollway.serve.models import Model

_log = log.get("serve.packages")


class Packages:
    """The shelf, as the fleet needs it."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._sound: set[tuple[str, str]] = set()  # adapters whose every byte was looked at

    def engines(self, model: Model, loaded: adapters.Loaded, threads: int) -> tuple[list[Engine], dict[str, Any], str]:
        """What executes a model with its adapters (one engine, or one for each address of an upstream), the generation
        defaults its package recommends, and the package's digest. `threads` of one replica; 0: its engine decides."""
        if model.upstream is not None:
            key = os.environ.get(model.upstream.key_env, "") if model.upstream.key_env else ""
            if model.upstream.key_env and not key:
                _log.warning("the upstream's key is not set where the gateway runs", model=model.name, variable=model.upstream.key_env)
            name = model.upstream.model
            return [UpstreamServer(url, name, kind=model.kind, key=key) for url in model.upstream.urls], {}, ""
        package = self._store.get(model.package_name, model.version)
        weights = tuple(self._store.get(name, version).weights_path for name, version in loaded)
        engine = assembly.engine(model, package, self._settings.but(replica_threads=threads), weights)
        recommended = msgspec.structs.asdict(package.manifest.generation)
        defaults = {name: value for name, value in recommended.items() if value is not None}
        return [engine], defaults, package.manifest.digest

    def require_sound(self, model: Model) -> None:
        """Hold the package against its signature: every byte is read where no note vouches for it, so not on the loop.
        Raises what is wrong with it."""
        if model.upstream is None:
            package = self._store.get(model.package_name, model.version)
            self._store.verify(package).require()
            if not model.chosen_engine:
                tuning.require_sound(self._store, package)

    def require_sound_adapter(self, model: Model) -> None:
        """The same for an adapter, which is small: it is looked at once."""
        place = (model.package_name, model.version)
        if place not in self._sound:
            self._store.verify(self._store.get(*place)).require()
            self._sound.add(place)

    def tuned(self, model: Model) -> str:
        """Which measured way of serving a package is chosen on this machine; another one is a new life. "" where an engine
        was chosen by name."""
        if model.upstream is not None or model.chosen_engine:
            return ""
        with contextlib.suppress(TollwayError):
            return tuning.stamp(self._store.get(model.package_name, model.version))
        return ""

    def weights_bytes(self, model: Model) -> int:
        """The size of what has to be loaded; 0 for what is not on the shelf."""
        try:
            return self._store.get(model.package_name, model.version).manifest.weights.size_bytes
        except TollwayError:
            return 0
