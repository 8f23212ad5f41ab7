"""The engines a predictor may run on, by format: where the file lies and which module opens it.

An engine is one module with `open_model(path, threads, spinning) -> Runner`; formats are listed in `kit/formats.py`.
"""

import importlib
from pathlib import Path
from typing import Final, Protocol

from tollway.inference.encoding import Arrays
from tollway.kit import formats
from tollway.kit.errors import BadRequest, NotFound


class Runner(Protocol):
    """A loaded model: arrays in, arrays out. Thread-safe."""

    inputs: tuple[str, ...]
    shared: bool  # whether threads run it at the same time; else they take turns

    def run(self, arrays: Arrays) -> Arrays: ...


# format -> (module of this package, file below the folder)
FORMATS: Final[dict[str, tuple[str, str]]] = {
    name: (one.engine, one.file) for name, one in formats.FORMATS.items() if one.served and one.engine in formats.ROWS
}


def find(folder: Path, format: str) -> tuple[str, Path]:
    """The module and the file for a format: in the folder itself, or in its subfolder named after the format."""
    if format not in FORMATS:
        raise BadRequest(f"{format!r} is no format that can be run.", hint=f"Choose one of {', '.join(FORMATS)}.")
    module, name = FORMATS[format]
    for path in (folder / name, folder / format / name, folder / module / name):
        if path.is_file():
            return module, path
    raise NotFound(f"{folder.name} holds no {name}.", hint=f'Add "{format}" to [convert] formats of its recipe.')


def open_model(folder: Path, format: str, threads: int, spinning: bool = False) -> Runner:
    """Load the model of `folder`."""
    module, path = find(folder, format)
    try:
        engine = importlib.import_module(f"tollway.inference.{module}")
    except ImportError as error:
        raise BadRequest(f"The engine for {format} is not installed ({error.name}).") from error
    runner: Runner = engine.open_model(path, threads, spinning)
    return runner
