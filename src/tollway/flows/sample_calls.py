"""Calls that a model answers as they stand: for whoever deploys one, and for the buyer's first page.

    for call in sample_calls.of(shop.store, shop.settings, model): call.path, call.body

The input is a real one where the package carries it (`example.json`), else made up from what the features learnt. Read
without numpy: the gateway shows it too.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tollway.artifacts.store import Store
from tollway.kit.errors import TollwayError
from tollway.kit.settings import Settings
from tollway.serve.engines import Caps
from tollway.serve.models import Model
from tollway.serve.packages import Packages

TEXT: Final = "A toll road for models"
_GREY: Final = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNsYIAAJgaKGAAmCACQtTEKkQAAAABJRU5ErkJggg=="
"""A picture to send where a package carries none: eight by eight, grey."""
_LEFT_OUT: Final[dict[str, tuple[str, ...]]] = dict.fromkeys(
    ("classification", "regression", "image-classification", "moderation", "rerank"), ()
) | dict.fromkeys(("recommendation", "image-generation"), ("classify", "explain"))
"""Doors that would answer, but are not shown: another one is meant for it, or explains little. `explain` where not said."""
_MAIN: Final = {
    "chat": "chat", "embedding": "embeddings", "rerank": "rerank", "moderation": "moderations",
    "recommendation": "recommendations", "image-generation": "images", "object-detection": "detect",
    "transcription": "transcriptions", "speech": "speech",
}  # fmt: skip
"""What a kind is mostly asked for; `classify` where it is not said."""


class SampleCall(msgspec.Struct, frozen=True, kw_only=True):
    """One of them. `call` is the last word of what it asks for, as in `Caps`; a transcription's `file` is to be sent beside
    the fields of `body`."""

    call: str
    path: str
    body: dict[str, Any]


def of(store: Store, settings: Settings, model: Model) -> list[SampleCall]:
    """All of a model, the one it is mostly used for first; of a model whose package cannot be read, that one alone."""
    folder = _folder(store, model)
    caps = _caps(store, settings, model)
    found = Input(folder, caps)
    asked = _asked(model, caps)
    return [
        SampleCall(call=name, path=_CALLS[name][0], body={"model": model.name} | _CALLS[name][1](found))
        for name in asked
    ]


class Input:
    """What can be said to a model: its own example, and what its features know."""

    def __init__(self, folder: Path | None, caps: Caps) -> None:
        self.caps = caps
        self.features = _json(folder / "features.json") if folder else {}
        carried = _json(folder / "example.json").get("input") if folder else None
        self.given: Any = carried if carried is not None else made_up(self.features, caps.input)

    @property
    def text(self) -> str:
        """A text, where only a text will do."""
        given = self.given
        if isinstance(given, Mapping):
            given = given.get("text")
        return given if isinstance(given, str) and not given.startswith("data:") else TEXT


def made_up(features: Mapping[str, Any], input: str = "text") -> Any:
    """An input that features like these read; `input`: what there is to say of a package without any."""
    kind, options = features.get("kind"), features.get("options") or {}
    state = features.get("state") or {}
    if kind == "tabular":
        return _row(state.get("columns") or [])
    if kind == "pair":
        return str((state.get("users") or ["1"])[0])
    if kind in ("image", "detection") or (not kind and input == "image"):
        return {"image": _GREY}
    if kind == "question":
        return {"question": "Who pays?", "context": "The driver pays the toll."}
    if kind == "text" and options.get("pair"):
        return {"text": "Who pays?", "text_b": "The driver pays the toll."}
    return TEXT


def _row(columns: list[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {one["name"]: round(one["mean"], 4) for one in columns if one.get("kind") == "number"}
    return made | {one["name"]: one["values"][0] for one in columns if one.get("kind") == "category" and one["values"]}


def _pair(found: Input) -> dict[str, Any]:
    """Two texts of a pair are a query and a document; one more stands beside it, so that there is something to rank."""
    given = found.given if isinstance(found.given, Mapping) else {}
    query, document = given.get("text", "Who pays?"), given.get("text_b", "The driver pays the toll.")
    return {"query": query, "documents": [document, "It rained all day."]}


def _drawn(found: Input) -> dict[str, Any]:
    """The class to draw; a text for who reads texts; nothing for a model that draws whatever comes."""
    if found.caps.passes_through:
        return {"prompt": TEXT, "n": 1}
    return {"prompt": found.caps.prompts[0], "n": 1} if found.caps.prompts else {"n": 1}


def _spoken(found: Input) -> dict[str, Any]:
    voice = found.caps.voices[0] if found.caps.voices else "alloy" if found.caps.passes_through else "default"
    return {"input": TEXT, "voice": voice, "response_format": "wav"}


_CALLS: Final[dict[str, tuple[str, Callable[[Input], dict[str, Any]]]]] = {
    "chat": (
        "/v1/chat/completions",
        lambda found: {"messages": [{"role": "user", "content": "Say hello in five words."}]},
    ),
    "completions": ("/v1/completions", lambda found: {"prompt": "A toll road is", "max_tokens": 24}),
    "embeddings": ("/v1/embeddings", lambda found: {"input": found.text}),
    "classify": ("/v1/classify", lambda found: {"input": found.given}),
    "detect": ("/v1/detect", lambda found: {"input": found.given}),
    "moderations": ("/v1/moderations", lambda found: {"input": found.text}),
    "rerank": ("/v1/rerank", _pair),
    "recommendations": ("/v1/recommendations", lambda found: {"user": found.given, "top_n": 5}),
    "images": ("/v1/images/generations", _drawn),
    "transcriptions": ("/v1/audio/transcriptions", lambda found: {}),
    "speech": ("/v1/audio/speech", _spoken),
    "explain": ("/v1/explain", lambda found: {"input": found.given}),
}


def _asked(model: Model, caps: Caps) -> list[str]:
    """The calls to show, in order."""
    found = [name for name in _CALLS if getattr(caps, name)]
    if caps.embeddings and not caps.passes_through:
        found.append("rerank")  # by the nearness of its vectors
    found = [name for name in found if name not in _LEFT_OUT.get(model.kind, ("explain",))]
    main = _MAIN.get(model.kind, "classify")
    return sorted(found, key=lambda name: name != main) if found else [main]


def _folder(store: Store, model: Model) -> Path | None:
    if model.upstream is not None or model.base:
        return None
    with contextlib.suppress(TollwayError):
        return store.get(model.package_name, model.version).folder
    return None


def _caps(store: Store, settings: Settings, model: Model) -> Caps:
    """What can be asked of it. Nothing is started for that."""
    if model.base:  # an adapter answers as its base does
        return Caps(chat=True, completions=True)
    with contextlib.suppress(TollwayError):
        return Packages(store, settings).engines(model, (), 0)[0][0].caps
    return Caps()


def _json(path: Path) -> dict[str, Any]:
    """A file of a package that may not be there, or come from elsewhere."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
