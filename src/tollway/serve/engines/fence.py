"""What an engine's process must not open: the shop's home, but for the packages in it. By the kernel's Landlock.

A model file is read by large libraries in C++. Should one of them be taken over, the database, the keys, backups and the
uploads of buyers are still closed to it, and so are the gateway's memory and environment: who is fenced may look into no
process outside its fence, nor send it a signal. Landlock only knows what is allowed, so everything beside the way to the home
is. Where a kernel does not have it (before Linux 5.13, other systems) nothing is hidden, and `tollway doctor` says so.
"""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

VARIABLE: Final = "FENCED_HOME"
"""Names the home to the process that is to be fenced."""
_OPEN: Final = ("packages",)
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_PR_SET_NO_NEW_PRIVS: Final = 38
_WRITE, _READ, _LIST, _MOVE, _CUT = 1 << 1, 1 << 2, 1 << 3, 1 << 13, 1 << 14
_NAMES: Final = 0x1FF0  # what makes or removes names
_SIGNALS: Final = 1 << 1
_OVER_IT: Final = 1 << 19 | 1 << 21, 1 << (38 - 32)
"""CAP_SYS_PTRACE, CAP_SYS_ADMIN and CAP_PERFMON, in two words: with the last, root reads environments over any fence."""


def version() -> int:
    """Of the kernel's Landlock; 0: it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE, None, ctypes.c_size_t(0), 1)))


def put_up(home: Path, own: Path) -> bool:
    """From here on this thread and all that it starts can open nothing below `home` but its packages and `own`, the folder of
    its socket. Call it before there are other threads. False when the kernel cannot see to it."""
    known, home = version(), home.resolve()
    if not known:
        return False
    of_files = _WRITE | _READ | (_CUT if known >= 3 else 0)
    handled = of_files | _LIST | _NAMES | (_MOVE if known >= 2 else 0)
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = struct.pack("=QQQ", handled, 0, _SIGNALS if known >= 6 else 0)
    size = 24 if known >= 6 else 8
    ruleset = libc.syscall(_CREATE, ctypes.c_char_p(attributes), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        for path in (own, *_beside(home)):
            _allow(libc, ruleset, path, handled, of_files)
        return _restrict(libc, ruleset)
    finally:
        os.close(ruleset)


def _beside(home: Path) -> Iterator[Path]:
    """What stays open: all that lies beside the way to the home, and in the home what an engine needs."""
    for at in (home, *home.parents):
        if at != home:
            yield from (one for one in at.iterdir() if one not in (home, *home.parents))
    yield from (home / name for name in _OPEN)
    code = {Path(one).resolve() for one in (sys.prefix, sys.base_prefix, *sys.path) if one}
    yield from (one for one in code if home in one.parents)  # a shop that lives around its own environment


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, all_of_it: int, of_files: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return  # gone, or nothing for us
    try:
        mode = os.fstat(place).st_mode
        if not stat.S_ISLNK(mode):  # what it leads to is asked for itself
            rights = all_of_it if stat.S_ISDIR(mode) else of_files
            libc.syscall(_ADD, ruleset, 1, ctypes.c_char_p(struct.pack("=Qi", rights, place)), 0)
    finally:
        os.close(place)


def _restrict(libc: ctypes.CDLL, ruleset: int) -> bool:
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    ours, held = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    if libc.capget(ours, held) == 0:
        words = struct.unpack("=6I", held.raw)  # effective, permitted, inheritable; twice
        left = [word & ~_OVER_IT[place // 3] for place, word in enumerate(words)]
        libc.capset(ours, struct.pack("=6I", *left))
    return int(libc.syscall(_RESTRICT, ruleset, 0)) == 0
