"""Structured logs on stderr: one JSON object a line (or coloured text on a terminal). No prompts, no keys, ever.

`redact` is a last wall, not the first: code never passes secrets to the log, and what looks like a key is cut anyway.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

import structlog

from tollway.kit.errors import BadRequest

_LEVELS = ("debug", "info", "warning", "error")
_SECRET = re.compile(r"(tw_(?:live|test)_|sk-|Bearer\s+)[A-Za-z0-9_\-]{4,}")


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut anything that looks like an API key or bearer token out of the event's strings."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _SECRET.sub(r"\1…", value)
    return event


def configure(level: str = "info", *, json: bool | None = None) -> None:
    """Set up logging once per process. `json=None` means: JSON unless stderr is a terminal. Raises BadRequest."""
    if level.lower() not in _LEVELS:
        raise BadRequest(f"log_level {level!r} is none of {', '.join(_LEVELS)}.", hint="See `tollway config show`.")
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )


class _Stderr:
    """stderr, but a log that cannot be written (its disk is full, its reader went away) stops nothing."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def get(room: str) -> Any:
    """A logger that names the room it speaks for."""
    return structlog.get_logger(room=room)
