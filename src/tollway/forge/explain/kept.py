"""What the step of a recipe leaves in its folder: the explanations, as the report shows them. Read without numpy."""

import json
from pathlib import Path
from typing import Any

FILE_NAME = "explanations.json"


def read(folder: Path) -> dict[str, Any]:
    """What the step wrote; empty when there is none."""
    path = folder / FILE_NAME
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
