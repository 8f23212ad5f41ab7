"""Bytes that are the same for everybody, ready before anybody asks: with a digest to ask again by, and packed.

page = Shown(body, "text/html; charset=utf-8")
status, headers, body = page.answer(if_none_match, accept_encoding)      # 304 for who has it
"""

import gzip
import hashlib
import re
from collections.abc import Mapping
from typing import Final

Headers = list[tuple[bytes, bytes]]

_FOREVER: Final = "public, max-age=31536000, immutable"
_SMALL: Final = 500  # below, packing gains nothing
_GZIP: Final = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q=(?P<q>[\d.]+)\s*)?(?=,|$)", re.IGNORECASE)


class Shown:
    """A document of ours. Whoever names its digest in the address (`?v=`) may keep it for ever."""

    def __init__(self, body: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        self.body = body
        self.packed = gzip.compress(body, 9, mtime=0) if len(body) > _SMALL else body
        self.digest = hashlib.sha256(body).hexdigest()[:12]
        self._tag = f'"{self.digest}"'
        self._heads = {
            (kind, forever): self._head(kind, forever, media_type, headers or {})
            for kind in ("none", "whole", "packed")
            for forever in (False, True)
        }

    def answer(
        self, if_none_match: str = "", accept_encoding: str = "", version: str = ""
    ) -> tuple[int, Headers, bytes]:
        """Status, headers and body for who has `if_none_match` and reads `accept_encoding`."""
        forever = version == self.digest
        if if_none_match and self._has(if_none_match):
            return 304, self._heads["none", forever], b""
        if self.packed is not self.body and accept_encoding and packs(accept_encoding):
            return 200, self._heads["packed", forever], self.packed
        return 200, self._heads["whole", forever], self.body

    def _has(self, if_none_match: str) -> bool:
        if if_none_match == self._tag:
            return True
        return any(tag.strip().removeprefix("W/") in (self._tag, "*") for tag in if_none_match[:1000].split(","))

    def _head(self, kind: str, forever: bool, media_type: str, more: Mapping[str, str]) -> Headers:
        given = {"etag": self._tag, "vary": "accept-encoding", "cache-control": _FOREVER if forever else "no-cache"}
        given |= more
        if kind != "none":
            given["content-type"] = media_type
            given["content-length"] = str(len(self.packed if kind == "packed" else self.body))
        if kind == "packed":
            given["content-encoding"] = "gzip"
        return [(name.encode(), value.encode()) for name, value in given.items()]


def packs(accept_encoding: str) -> bool:
    """Whether a client reads gzip."""
    found = _GZIP.search(accept_encoding[:200])
    return found is not None and found["q"] not in ("0", "0.0", "0.00", "0.000")
