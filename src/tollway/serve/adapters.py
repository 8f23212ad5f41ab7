"""Adapters (LoRA) on a shared base: many models on one replica, each call with its own adapter's number.

A base's engine is started with all its adapters; a new one means a new life of the base beside the old, as with any new
version. An adapter belongs to one organization: for all others it does not exist. Two calls with different adapters are
never in one batch of the engine, and no cached prompt of one is used for another: the engine clears what a slot has read
when a call names other adapters than the one before, but only when it NAMES them. A call that names none, or an empty
list, goes on with what an adapter made of the same prompt. So every call to such an engine names one (`chosen`).
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from tollway.kit.errors import Unavailable
from tollway.serve.models import Model

Served = TypeVar("Served")
Loaded = tuple[tuple[str, str], ...]
"""Packages and versions of a base's adapters, in the order of their numbers in the engine."""


def chosen(number: int | None) -> dict[str, Any]:
    """What a call says of adapters: number so-and-so, or none of them, by name."""
    return {"lora": [{"id": 0, "scale": 0.0} if number is None else {"id": number, "scale": 1.0}]}


class Adapters(Generic[Served]):
    """Which adapters are on offer, by name. `adapted` makes what can be called of (base, model, number)."""

    def __init__(self, adapted: Callable[[Any, Model, int], Served]) -> None:
        self._adapted = adapted
        self._models: dict[str, Model] = {}

    def offer(self, models: list[Model]) -> None:
        """Exactly these."""
        self._models = {model.name: model for model in models}

    def on(self, base: str) -> Loaded:
        """What the engine of a base must have loaded."""
        mine = sorted((one for one in self._models.values() if one.base == base), key=lambda one: one.created_ms)
        return tuple((one.package_name, one.version) for one in mine)

    def find(self, name: str, org_id: str, served: dict[str, Any]) -> Served | None:
        """An organization's own model as something to call; None when there is none. Raises Unavailable while its base
        is still loading it."""
        model = self._models.get(name)
        if model is None or model.org_id != org_id:
            return None
        found = self._on_base(model, served)
        if found is None:
            raise Unavailable(
                f"The model {name[:120]!r} is being loaded.", code="model_loading", hint="Try again.", retry_after_s=2
            )
        return found

    def of(self, org_id: str, served: dict[str, Any]) -> list[Served]:
        """An organization's own models that can be called now."""
        mine = [self._on_base(model, served) for model in self._models.values() if model.org_id == org_id]
        return [one for one in mine if one is not None]

    def _on_base(self, model: Model, served: dict[str, Any]) -> Served | None:
        base = served.get(model.base)
        place = (model.package_name, model.version)
        if base is None or place not in base.adapters:
            return None
        return self._adapted(base, model, base.adapters.index(place))
