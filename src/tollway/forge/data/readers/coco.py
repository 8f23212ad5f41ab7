"""COCO: pictures in a folder, and a JSON file that says which objects are where in them.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
     "annotations": [{"image_id", "category_id", "bbox": [left, top, width, height]}]}

One file, or one for each split (`train.json`, `instances_val2017.json`), beside the pictures or in `annotations/`. What is
wrong is told with everything else that is: a picture that is missing, a box outside of its picture, a category nobody named.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from tollway.forge.data import boxes
from tollway.forge.data.images import normal
from tollway.forge.data.problems import Problems
from tollway.forge.data.readers.found import Found, Reading, split_of

KEYS: Final = ("images", "annotations", "categories")
_FILE_MAX: Final = 64 << 20


def documents(paths: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Those of some JSON files that are COCO's, decoded."""
    found = {}
    for path in paths:
        raw = path.read_bytes()
        if not all(f'"{key}"'.encode() in raw for key in KEYS):
            continue
        try:
            content = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            continue  # the JSON reader says what is wrong with it
        if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in KEYS):
            found[path] = content
    return found


def files(root: Path) -> list[Path]:
    """The JSON files where annotations usually are."""
    return [
        path
        for folder in (root, root / "annotations")
        for path in sorted(folder.glob("*.json"))
        if not path.is_symlink()
    ]


def read(found: dict[Path, dict[str, Any]], root: Path, reading: Reading) -> Found:
    """A row for each picture: `image`, `boxes`, `file`."""
    import pyarrow as pa

    whole, boxed, named = Found("coco"), set[str](), set[str]()
    rows: dict[str, list[dict[str, Any]]] = {}
    for path, content in found.items():
        one = _Document(path, content, root, reading)
        rows.setdefault(one.split or "train", []).extend(one.rows())
        boxed |= {box["label"] for boxes_of in one.boxes.values() for box in boxes_of}
        named |= set(one.names.values())
    problems = reading.problems
    for name in sorted(named - boxed):
        problems.add("category_empty", "a category has no box", shown=repr(name), doubt=True)
    if not boxed:
        problems.add("empty", "there is no box in it")
    for split, mine in rows.items():
        if not mine:
            if not problems.errors:
                problems.add("empty", f"the split {split} has no pictures")
            continue
        whole.tables[split] = pa.table(
            {
                "image": pa.array([row["image"] for row in mine], pa.binary()),
                "boxes": pa.array([json.dumps(row["boxes"], ensure_ascii=False) for row in mine], pa.string()),
                "file": pa.array([row["file"] for row in mine], pa.string()),
            }
        )
    whole.kinds = {"image": "image", "boxes": "json", "file": "text"}
    whole.roles = {"image": "image", "boxes": "boxes"}
    return whole


class _Document:
    """One file of annotations."""

    def __init__(self, path: Path, content: dict[str, Any], root: Path, reading: Reading) -> None:
        self.path, self.root, self.reading = path, root, reading
        self.problems: Problems = reading.problems
        self.shown = reading.shown(path, root)
        self.split = _split(path)
        beside = [one for one in sorted(root.iterdir()) if one.is_dir() and self.split and _split(one) == self.split]
        self.places = (path.parent, root, root / "images", *beside)
        self.names = self._categories(content["categories"])
        self.images = self._images(content["images"])
        self.crowds = 0
        self.bad: set[Any] = set()
        self.boxes = self._boxes(content["annotations"])

    def _say(self, code: str, what: str, shown: str) -> None:
        self.problems.add(code, what, file=self.shown, shown=shown[:200])

    def _categories(self, given: list[Any]) -> dict[Any, str]:
        names: dict[Any, str] = {}
        for place, one in enumerate(given):
            ident, name = (one.get("id"), one.get("name")) if isinstance(one, dict) else (None, None)
            if not isinstance(ident, (int, str)) or not isinstance(name, str) or not name.strip():
                self._say("category", "a category has no id or no name", f"categories[{place}]")
            elif ident in names or name.strip() in names.values():
                self._say("category", "a category is there twice", f"categories[{place}]: {ident} {name!r}")
            else:
                names[ident] = name.strip()
        return names

    def _images(self, given: list[Any]) -> dict[Any, dict[str, Any]]:
        images: dict[Any, dict[str, Any]] = {}
        for place, one in enumerate(given):
            ident, name = (one.get("id"), one.get("file_name")) if isinstance(one, dict) else (None, None)
            if not isinstance(ident, (int, str)) or not isinstance(name, str) or not name:
                self._say("picture", "a picture has no id or no file_name", f"images[{place}]")
            elif ident in images:
                self._say("picture", "a picture's id is there twice", f"images[{place}]: {ident}")
            else:
                images[ident] = one
        return images

    def _boxes(self, given: list[Any]) -> dict[Any, list[dict[str, Any]]]:
        """picture -> its boxes as [left, top, right, bottom], not yet held against its size."""
        found: dict[Any, list[dict[str, Any]]] = {}
        for place, one in enumerate(given):
            one = one if isinstance(one, dict) else {}
            picture, where = one.get("image_id"), f"annotations[{place}]"
            if not isinstance(picture, (int, str)) or picture not in self.images:
                self._say("picture", "a box is in a picture that is not listed", f"{where}: image_id {picture!r}")
                continue
            if one.get("iscrowd") == 1:
                self.crowds += 1
                continue
            category, box = one.get("category_id"), _corners(one.get("bbox"))
            known = isinstance(category, (int, str)) and category in self.names
            if not known:
                self._say("category", "a box has a category that is not listed", f"{where}: category_id {category!r}")
            reason = boxes.wrong(box)
            if reason:
                self._say(
                    "box", "a box is not [left, top, width, height] with an area", f"{where}: {one.get('bbox')!r}"
                )
            if reason or not known:
                self.bad.add(picture)
                continue
            found.setdefault(picture, []).append({"label": self.names[category], "box": box, "where": where})
        if self.crowds:
            self.problems.note(f"{self.crowds:,} boxes around crowds (iscrowd) are left out.")
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Every picture that is as the file says, with its boxes."""
        rows = []
        for done, (ident, one) in enumerate(self.images.items()):
            if done % 200 == 0:
                self.reading.progress(done, len(self.images))
            picture = self._picture(one)
            if picture is None:
                continue
            width, height = int.from_bytes(picture[16:20], "big"), int.from_bytes(picture[20:24], "big")
            said = (one.get("width", width), one.get("height", height))
            if said != (width, height):
                told = f"{one['file_name']}: {said[0]} x {said[1]} in the file, {width} x {height} in truth"
                self._say("box", "a picture's size is not as the file says, so its boxes are elsewhere", told)
                continue
            mine = [box for box in self.boxes.get(ident, ()) if self._inside(box, width, height, one["file_name"])]
            if len(mine) == len(self.boxes.get(ident, ())) and ident not in self.bad:
                rows.append({"image": picture, "boxes": mine, "file": one["file_name"]})
        return rows

    def _inside(self, one: dict[str, Any], width: int, height: int, name: str) -> bool:
        """Whether a box is in its picture; one that only touches the edge is cut there."""
        left, top, right, bottom = one["box"]
        if boxes.outside(one["box"], width, height):
            told = (
                f"{one.pop('where')}: {name} is {width} x {height}, the box [{left:g}, {top:g}, {right:g}, {bottom:g}]"
            )
            self._say("box", "a box leaves its picture", told)
            return False
        one.pop("where")
        one["box"] = [max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)]
        return True

    def _picture(self, one: dict[str, Any]) -> bytes | None:
        name = one["file_name"]
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name:
            self._say("picture", "a file_name leads out of the folder", repr(name))
            return None
        path = next((place for folder in self.places if _is_file(place := folder / pure)), None)
        if path is None or not path.resolve().is_relative_to(self.root.resolve()):
            self._say("picture", "a picture is missing", name)
            return None
        if path.stat().st_size > _FILE_MAX:
            self._say("picture", f"a picture has more than {_FILE_MAX:,} bytes", name)
            return None
        try:
            return normal(path.read_bytes())
        except ValueError as error:
            self._say("image", "an image cannot be read", f"{name}: {error}")
            return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for any disk
        return False


def _split(path: Path) -> str:
    """train, validation or test when the name says so; `instances_val2017` too."""
    return split_of(re.sub(r"\d+", "", path.name))


def _corners(box: Any) -> Any:
    """[left, top, width, height] as [left, top, right, bottom]; what is no box as it is."""
    if isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box):
        with contextlib.suppress(OverflowError):
            return [float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3])]
    return box
