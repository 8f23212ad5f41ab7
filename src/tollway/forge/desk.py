"""A step's place of work: where it writes, what it may use, and how it tells how far it is.

Every room that does a step's work gets a `Desk`; what becomes of what it leaves there is `steps.py`'s.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from tollway.kit.errors import TollwayError
from tollway.kit.said import coded

Event: TypeAlias = dict[str, Any]
Sink: TypeAlias = Callable[[Event], None]
_EVERY_S: Final = 0.2


class Stopped(TollwayError):
    """The run was stopped before its end."""

    status = 409
    exit_code = 130
    code = "run_stopped"


@dataclass
class Desk:
    """A step's place of work."""

    out: Path
    work: Path
    home: Path
    seed: int
    threads: int
    emit: Sink
    step: str
    shelf: Any = None  # datasets
    store: Any = None  # model packages
    translators: Any = None  # of back-translation: a step's options -> its translator
    board: Path | None = None  # TensorBoard's folder
    stop_asked: Callable[[], bool] = lambda: False
    _last: float = 0.0
    _writer: Any = field(default=None, repr=False)

    def progress(self, done: float, total: float, unit: str = "steps", **figures: float) -> None:
        """So much of so much; at most five times a second, and always the last one."""
        now = time.monotonic()
        if now - self._last >= _EVERY_S or done >= total:
            self._last = now
            self.emit({"kind": "progress", "done": done, "total": total, "unit": unit, **figures})

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """A figure over time: a curve in the report and in TensorBoard."""
        self.emit({"kind": "metric", "name": name, "value": value, "at": step})
        if self.board is not None and step is not None:
            self._tensorboard().add_scalar(f"{self.step}/{name}", value, step)

    def note(self, text: str) -> None:
        """A sentence for whoever follows the run."""
        self._tell("note", text)

    def warn(self, text: str) -> None:
        """Something that is probably not wanted."""
        self._tell("warning", text)

    def _tell(self, kind: str, text: str) -> None:
        said = coded(text)
        self.emit({"kind": kind, "text": str(text)} | ({"said": said} if said else {}))

    def stopped(self) -> bool:
        """Somebody asked for an end: save what there is and raise Stopped."""
        return self.stop_asked()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _tensorboard(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.board))
        return self._writer
