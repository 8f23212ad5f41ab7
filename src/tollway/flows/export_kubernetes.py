"""The shop's Kubernetes manifests in a folder, with the Dockerfile and the commands that bring them up.

    made = export(Wanted(image="registry.example/tollway:1"), folder)
"""

from pathlib import Path

import msgspec

from tollway.kit import yaml
from tollway.kit.errors import BadRequest, Conflict
from tollway.kubernetes import Wanted, dockerfile, manifests, readme


class Exported(msgspec.Struct, frozen=True):
    """What was written."""

    folder: str
    files: tuple[str, ...]
    objects: int


def export(wanted: Wanted, folder: Path) -> Exported:
    """Write the manifests, a Dockerfile and a README into a new folder. Raises BadRequest, Conflict."""
    wanted.check()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is not an empty folder.", code="folder_not_empty", hint="Give a new one with --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"{folder} cannot be made ({error.strerror}).", param="out") from error
    files = manifests(wanted)
    for name, objects in files.items():
        (folder / name).write_text("---\n".join(yaml.dumped(one) for one in objects), encoding="utf-8")
    (folder / "Dockerfile").write_text(dockerfile(wanted), encoding="utf-8")
    (folder / "README.md").write_text(readme(wanted, files), encoding="utf-8")
    return Exported(str(folder), (*files, "Dockerfile", "README.md"), sum(len(objects) for objects in files.values()))
