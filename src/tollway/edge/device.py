"""A device: the model in its folder, and what it was told when it was exported (`device.json`)."""

import hashlib
import json
import re
import threading
import tomllib
from pathlib import Path
from typing import Any, Final

from tollway import inference
from tollway.edge.log import UsageLog
from tollway.inference import answers
from tollway.kit.errors import BadRequest, Conflict
from tollway.kit.formats import ROLES_OF_A_FORMAT

FILE_NAME: Final = "device.json"
MODEL: Final = "model"
STATE: Final = "state"
_TOLD: Final = (
    "device",
    "organization",
    "model",
    "version",
    "digest",
    "manifest",
    "kind",
    "input",
    "format",
    "url",
    "key",
)


class Device:
    """The model of a folder, ready to answer. Every answer is counted first."""

    def __init__(self, folder: Path, state: Path | None = None, threads: int = 1) -> None:
        self.folder = folder
        self.about = _told(folder / FILE_NAME)
        self.log = UsageLog(state or folder / STATE, self.about["key"], self.about["device"], self.about["digest"])
        self._threads = threads
        self._loading = threading.Lock()
        self._predictor: inference.Predictor | None = None

    @property
    def model(self) -> str:
        """What it is called in the shop."""
        return str(self.about["model"])

    def verify(self) -> dict[str, Any]:
        """What was checked. Raises Conflict unless the model's files are those of the signed package, and the log is whole."""
        anew = f"Export it anew and copy the folder's model/ over: tollway export edge {self.model}@{self.about['version']}"
        signed = self.folder / MODEL / "manifest.toml"
        written = signed.read_bytes() if signed.is_file() else b""
        if hashlib.sha256(written).hexdigest() != self.about["manifest"]:
            raise Conflict("The manifest is not the one of this device.", code="package_damaged", hint=anew)
        same = 0
        for file in tomllib.loads(written.decode("utf-8"))["files"]:
            path = self.folder / MODEL / file["path"]
            if file["role"] == "report" or (
                file["role"] in ROLES_OF_A_FORMAT and file["format"] != self.about["format"]
            ):
                continue  # did not come along: nothing here reads it
            same += 1
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
                raise Conflict(f"{file['path']} is not the file that was signed.", code="package_damaged", hint=anew)
        return {"model": {"files": same, "digest": self.about["digest"]}, "log": self.log.verified()}

    def classify(self, given: Any, top_k: int | None = None) -> dict[str, Any]:
        """Classes, numbers, spans, items or objects for inputs, as the shop answers `/v1/classify` (`/v1/detect`). Raises
        BadRequest."""
        found, usage = self._answered(given, "classification")
        if self.about["kind"] == "object-detection":
            features = self._loaded().features
            data = [answers.detected(index, one, features, top_k=top_k) for index, one in enumerate(found)]
        else:
            data = [answers.classified(index, one, top_k) for index, one in enumerate(found)]
        return {"object": "list", "data": data, "model": self.model, "usage": usage}

    def embed(self, given: Any, form: str = "float") -> dict[str, Any]:
        """Vectors for texts, as the shop answers `/v1/embeddings`. Raises BadRequest."""
        found, usage = self._answered(given, "embedding")
        data = [answers.embedded(index, one, form) for index, one in enumerate(found)]
        return {"object": "list", "data": data, "model": self.model, "usage": usage}

    def _answered(self, given: Any, operation: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
        if (self.about["kind"] == "embedding") != (operation == "embedding"):
            door = "embed" if self.about["kind"] == "embedding" else "classify"
            raise BadRequest(f"This model does not do that; use {door}.", code="unsupported_operation", param="model")
        predictor = self._loaded()
        features, kind = predictor.features, self.about["input"]
        rows = answers.rows_of(given, features, kind)
        features.check(rows)
        encoded = features.encode(rows)
        found = predictor.predict(rows)
        usage = answers.usage_of(features, encoded, kind)
        meter = next((name for name in ("images", "rows") if name in usage), "input_tokens")
        self.log.count(operation, meter, usage[meter] if meter in usage else usage["prompt_tokens"])
        return found, usage

    def _loaded(self) -> inference.Predictor:
        with self._loading:
            if self._predictor is None:
                self._predictor = inference.load(self.folder / MODEL, self.about["format"], self._threads)
            return self._predictor


def _told(path: Path) -> dict[str, Any]:
    """What the device was told when it was exported. Raises BadRequest for a file that does not say it."""
    anew = "Restore it from the folder that was exported, or export the model anew."
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRequest(f"{FILE_NAME} cannot be read ({error}).", hint=anew) from error
    missing = [name for name in _TOLD if not isinstance(about, dict) or not isinstance(about.get(name), str)]
    if missing or not re.fullmatch("[0-9a-f]{64}", about["key"]):
        raise BadRequest(f"{FILE_NAME} does not say what it should: {', '.join(missing) or 'key'}.", hint=anew)
    return dict(about)
