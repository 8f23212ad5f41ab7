"""A model for a device: one folder with the model, the modules that run it, and the device's own key.

    made = export(shop, "mood", org_id, Path("out"))        then, on the device:  python edge.py classify "a text"

The modules are the product's own, copied as they are: what trained and served the model answers on the device too.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Final

import msgspec

import tollway
from tollway.artifacts import manifest as manifests
from tollway.artifacts.store import ModelPackage
from tollway.edge import chain
from tollway.kit.errors import BadRequest, Conflict
from tollway.kit.formats import FORMATS, ROLES_OF_A_FORMAT
from tollway.kit.ids import new_id
from tollway.sell import accounts, edge_devices
from tollway.sell.edge_devices import EdgeDevice
from tollway.serve import models
from tollway.shop import Shop

ENGINES: Final = {"onnx": "onnxruntime", "litert": "ai-edge-litert"}
_ROOM: Final = "runtime"
_ALONE: Final = ("kit/__init__.py", "kit/errors.py", "kit/formats.py", "kit/lazy.py", "__init__.py")
_FOLDERS: Final = ("inference", "edge")
_WRITERS: Final = ("chat", "translation", "image-generation", "transcription", "speech", "adapter")
"""Kinds whose answers are written or drawn: a device counts what it read, and they cost by what they made."""
_START: Final = '''"""{title}: answers on this device.   python edge.py --help"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER / "{room}"))

from tollway.edge.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(FOLDER))
'''


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was made."""

    device: str
    model: str
    version: str
    format: str
    kind: str
    input: str
    organization: str
    folder: str
    size_bytes: int
    needs: tuple[str, ...]


def export(
    shop: Shop, model: str, org_id: str, out: Path, *, form: str = "", name: str = "", url: str = ""
) -> Exported:
    """Write the folder and register the device. Raises BadRequest and Conflict for what cannot run on a device."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Conflict(f"{out} is not an empty folder.", hint="Give the path of a new folder with --out.")
    wanted, _, version = model.partition("@")
    with shop.db.read() as conn:
        organization = accounts.get_organization(conn, org_id)
        on_offer = {one.name: one for one in models.list_models(conn)}
    offered = on_offer.get(wanted)
    if offered is not None and offered.org_id not in ("", org_id):
        raise Conflict(f"The model {wanted!r} belongs to somebody else.", code="model_not_allowed")
    newest = offered.version if offered else None
    package = shop.store.get(offered.package_name if offered else wanted, version or newest)
    shop.store.verify(package).require()
    chosen = _format(package, form)
    now_ms, device_id = shop.clock.now_ms(), new_id("dev", shop.clock.now_ms())
    key = chain.key_of(shop.secrets.pepper, device_id)
    manifest = package.manifest
    device = EdgeDevice(
        id=device_id,
        org_id=organization.id,
        name=name or f"{wanted} for {organization.name}",
        model=wanted,
        model_version=manifest.version,
        digest=manifest.digest,
        input=manifest.input or "text",
        created_ms=now_ms,
        revoked_ms=None,
        head_n=0,
        head_seal=chain.beginning(key, device_id, manifest.digest),
        last_at_ms=now_ms,
        synced_ms=None,
    )
    about = {
        "device": device_id,
        "organization": organization.id,
        "model": wanted,
        "version": manifest.version,
        "digest": manifest.digest,
        "manifest": hashlib.sha256((package.folder / manifests.FILE_NAME).read_bytes()).hexdigest(),
        "kind": manifest.kind,
        "input": device.input,
        "format": chosen,
        "url": url or shop.settings.url,
        "created_ms": now_ms,
        "key": key,
    }
    _write(out, package, chosen, about)
    with shop.db.write() as conn:
        edge_devices.register(conn, device)
    return Exported(
        device=device_id,
        model=wanted,
        version=manifest.version,
        format=chosen,
        kind=manifest.kind,
        input=device.input,
        organization=organization.id,
        folder=str(out),
        size_bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        needs=_needs(chosen, device.input),
    )


def _needs(form: str, read: str) -> tuple[str, ...]:
    """The libraries that a device must have."""
    more = {"text": ("tokenizers",), "image": ("pillow",)}.get(read, ())
    return ("numpy", ENGINES[FORMATS[form].engine], *more)


def _format(package: ModelPackage, wanted: str) -> str:
    """The format to take along: the wanted one, else the one that is served, else the first that a device can run."""
    manifest = package.manifest
    able = [form for form in manifest.formats if form in FORMATS and FORMATS[form].engine in ENGINES]
    has_features = any(file.role == "features" for file in manifest.files)
    if manifest.kind in _WRITERS:
        raise BadRequest(
            f"{package.ref} cannot run on a device: its kind is {manifest.kind}.",
            code="not_for_devices",
            hint="Models that classify, predict, embed, recommend or detect can go; this one is served by the gateway.",
        )
    if not able or not has_features:
        raise BadRequest(
            f"{package.ref} cannot run on a device: it has {', '.join(manifest.formats)}.",
            code="not_for_devices",
            hint='Add "onnx" or "litert" to [convert] formats of its recipe.',
        )
    if wanted and wanted not in able:
        raise BadRequest(f"{package.ref} has no {wanted!r} for devices, only {', '.join(able)}.", param="format")
    return wanted or (manifest.weights.format if manifest.weights.format in able else able[0])


def _write(out: Path, package: ModelPackage, form: str, about: dict[str, object]) -> None:
    """Fill the folder; nothing is left of it when that fails."""
    made_here = not out.exists()
    try:
        target = out / "model"
        try:
            target.mkdir(parents=True)
        except OSError as error:
            raise BadRequest(f"{out} cannot be made ({error.strerror}).", param="out") from error
        for file in package.manifest.files:
            others = file.role in ROLES_OF_A_FORMAT and file.format != form
            if not others and file.role != "report":
                (target / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(package.folder / file.path, target / file.path)
        shutil.copyfile(package.folder / manifests.FILE_NAME, target / manifests.FILE_NAME)
        _runtime(out / _ROOM / "tollway")
        title = package.manifest.title.replace("\\", "").replace('"', "'")
        (out / "edge.py").write_text(_START.format(title=title, room=_ROOM), encoding="utf-8")
        needs = _needs(form, str(about["input"]))
        (out / "requirements.txt").write_text("\n".join([*needs, ""]), encoding="utf-8")
        secret = out / "device.json"
        secret.touch(mode=0o600)
        secret.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(out, ignore_errors=True) if made_here else _empty(out)
        raise


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _runtime(room: Path) -> None:
    """The modules that run the model, as they are."""
    source = Path(tollway.__file__).parent
    found = [source / name for name in _ALONE]
    found += [path for folder in _FOLDERS for path in sorted((source / folder).rglob("*.py"))]
    for path in found:
        target = room / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
