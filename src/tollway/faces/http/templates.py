"""Which door a path belongs to when it carries a name: `/v1/files/file-123` is `/v1/files/{file}`.

A model's name may hold slashes and colons, so `/v1/models/{model}` takes all that follows; the others take one segment.
"""

from collections.abc import Iterable
from typing import Final

_GREEDY: Final = "/v1/models/{model}"
_LONGEST: Final = 200


class Templates:
    """The paths with a name in them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_length: dict[int, list[tuple[str, list[str]]]] = {}
        for path in dict.fromkeys(paths):
            if "{" in path and path != _GREEDY:
                parts = path.split("/")
                self._by_length.setdefault(len(parts), []).append((path, parts))

    def find(self, path: str) -> str | None:
        """The template that a path fits; None when there is none."""
        if path.startswith("/v1/models/"):
            return _GREEDY
        if len(path) > _LONGEST:
            return None
        parts = path.split("/")
        for template, wanted in self._by_length.get(len(parts), ()):
            if all(want == part or (part and want.startswith("{")) for want, part in zip(wanted, parts, strict=True)):
                return template
        return None


def name_in(path: str, place: int = 3) -> str:
    """The name in a path: its segment number `place`, counted from the empty one before the first slash."""
    return path.split("/")[place]
