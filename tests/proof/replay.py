"""What a disk may hold after the power fails: rebuilt from a recording of a program's file operations.

`kill -9` proves nothing about durability: the kernel keeps what was written. A power failure keeps only what was synced,
and of the rest anything: nothing, all, some of the writes, some of their sectors, the last one torn. `record` runs a
program under strace; `crashes` replays the recording and yields folders as a crash at some moment could leave them,
each with what the program had acknowledged (lines `ACK something` on its stdout) before that moment.

The model: a write is volatile until fsync or fdatasync of its file returns; a created, removed or renamed name until the
folder is synced; 512-byte sectors are written whole. Not in it: bit rot, a disk that lies about syncing, writes through
mmap (SQLite's -shm file, which it rebuilds).
"""

import random
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

SECTOR = 512
MODES = ("nothing", "everything", "some writes", "some sectors", "torn last write")
_CALLS = (
    "openat,close,write,pwrite64,pwritev,fsync,fdatasync,ftruncate,fallocate,unlink,unlinkat,rename,renameat,renameat2"
)
_LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*?)(?: <unfinished \.\.\.>|\) += (-?\d+).*)$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


@dataclass(frozen=True)
class Op:
    """One step of the recording. `file` is an inode of ours: a name that is created again is another file."""

    kind: str  # write | truncate | sync | create | unlink | rename | sync_folder | ack
    file: int = 0
    name: str = ""
    to: str = ""
    at: int = 0
    data: bytes = b""


@dataclass(frozen=True)
class Crash:
    """One state after a power failure: files by name, and the acknowledgements given before it."""

    step: int
    mode: str
    files: Mapping[str, bytes]
    acks: Sequence[str]


def record(command: Sequence[str], trace: Path, env: Mapping[str, str], timeout_s: float = 120) -> None:
    """Run a program and record what it does to files."""
    strace = shutil.which("strace")
    if strace is None:
        raise RuntimeError("the power-loss proof needs strace: apt-get install strace")
    watch = [
        strace,
        "-f",
        "--seccomp-bpf",
        "-xx",
        "-s",
        "1000000",
        "-e",
        f"trace={_CALLS}",
        "-e",
        "signal=none",
        "-o",
        str(trace),
    ]
    done = subprocess.run([*watch, *command], env=dict(env), capture_output=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"the recorded program ended with {done.returncode}:\n{done.stderr.decode()[-3000:]}")


def parse(trace: Path, folder: Path, start: Mapping[str, bytes]) -> list[Op]:
    """The recorded operations on files in `folder` (which held `start`), and the acknowledgements, as they completed."""
    names = _numbered(start)
    ops: list[Op] = []
    open_files: dict[int, int | None] = {}  # descriptor -> file; None: the folder itself
    begun: dict[tuple[str, str], str] = {}
    fresh = 1000
    for line in trace.read_text().splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        pid, call, text, result = found.groups()
        if result is None:
            begun[pid, call] = text
            continue
        text, value = begun.pop((pid, call), "") + text, int(result)
        texts = [(bytes.fromhex(t.replace("\\x", "")), cut) for t, cut in _TEXT.findall(text)]
        assert not any(cut for _, cut in texts), f"strace cut {call}"
        if value < 0:
            continue
        if call == "openat":
            path = Path(texts[0][0].decode())
            if path == folder:
                open_files[value] = None
            elif path.parent == folder and not path.name.endswith("-shm"):
                if path.name not in names:
                    fresh += 1
                    names[path.name] = fresh
                    ops.append(Op("create", fresh, path.name))
                open_files[value] = names[path.name]
                if "O_TRUNC" in text:
                    ops.append(Op("truncate", names[path.name], at=0))
            else:
                open_files.pop(value, None)
        elif call in ("unlink", "unlinkat", "rename", "renameat", "renameat2"):
            paths = [Path(t.decode()) for t, _ in texts]
            if paths[0].parent == folder and paths[0].name in names:
                number = names.pop(paths[0].name)
                if call.startswith("rename"):
                    names[paths[1].name] = number
                ops.append(Op(call[:6], number, paths[0].name, paths[-1].name))
        else:
            _on_descriptor(ops, open_files, call, text, texts[0][0] if texts else b"", value)
    return ops


def _on_descriptor(
    ops: list[Op], open_files: dict[int, int | None], call: str, text: str, data: bytes, value: int
) -> None:
    number = int(text.split(",")[0].strip())
    if call == "write" and number == 1:
        ops += [Op("ack", name=line[4:]) for line in data.decode().splitlines() if line.startswith("ACK ")]
    if number not in open_files:
        return
    file = open_files[number]
    if call == "close":
        del open_files[number]
    elif call in ("fsync", "fdatasync"):
        ops.append(Op("sync_folder") if file is None else Op("sync", file))
    elif file is not None and call == "pwrite64":
        ops.append(Op("write", file, at=int(text.rsplit(",", 1)[1]), data=data[:value]))
    elif file is not None and call == "ftruncate":
        ops.append(Op("truncate", file, at=int(text.split(",")[1])))
    else:
        raise RuntimeError(f"the model does not know {call} on a database file: {text[:80]}")


class Disk:
    """What is safe and what is not, at one moment of the replay."""

    def __init__(self, start: Mapping[str, bytes]) -> None:
        self.names = _numbered(start)
        self.safe = defaultdict(bytearray, {self.names[name]: bytearray(data) for name, data in start.items()})
        self.waiting: list[Op] = []  # writes and truncations not synced, of all files
        self.folder: list[Op] = []  # creations and removals not synced
        self.acks: list[str] = []

    def do(self, op: Op) -> None:
        """The next operation completes."""
        if op.kind == "ack":
            self.acks.append(op.name)
        elif op.kind == "sync":
            for each in [each for each in self.waiting if each.file == op.file]:
                _apply(self.safe[op.file], each)
            self.waiting = [each for each in self.waiting if each.file != op.file]
        elif op.kind == "sync_folder":
            _rename(self.names, self.folder)
            self.folder = []
        else:
            (self.waiting if op.kind in ("write", "truncate") else self.folder).append(op)

    def after_power_loss(self, mode: str, dice: random.Random) -> dict[str, bytes]:
        """The files as found afterwards."""
        kept, folder = _survivors(self.waiting, mode, dice), len(self.folder)
        seen = 0 if mode == "nothing" else folder if mode == "everything" else dice.randint(0, folder)
        names = dict(self.names)
        _rename(names, self.folder[:seen])
        images = {number: bytearray(self.safe[number]) for number in names.values()}
        for op in kept:
            if op.file in images:
                _apply(images[op.file], op)
        return {name: bytes(images[number]) for name, number in names.items()}


def _numbered(start: Mapping[str, bytes]) -> dict[str, int]:
    return {name: number for number, name in enumerate(sorted(start), start=1)}


def _survivors(waiting: Sequence[Op], mode: str, dice: random.Random) -> list[Op]:
    if mode == "nothing" or not waiting:
        return []
    if mode == "some writes":
        return [op for op in waiting if dice.random() < 0.5]
    if mode == "some sectors":
        return [piece for op in waiting for piece in _sectors(op) if dice.random() < 0.5]
    if mode == "torn last write":
        pieces = _sectors(waiting[-1])
        return [*waiting[:-1], *pieces[: dice.randint(0, len(pieces) - 1)]]
    return list(waiting)


def _sectors(op: Op) -> list[Op]:
    if op.kind != "write":
        return [op]
    edges = [op.at, *range(op.at - op.at % SECTOR + SECTOR, op.at + len(op.data), SECTOR), op.at + len(op.data)]
    return [Op("write", op.file, at=a, data=op.data[a - op.at : b - op.at]) for a, b in pairwise(edges)]


def _apply(image: bytearray, op: Op) -> None:
    end = op.at + len(op.data)
    if len(image) < end:
        image.extend(bytes(end - len(image)))
    if op.kind == "truncate":
        del image[op.at :]
    else:
        image[op.at : end] = op.data


def _rename(names: dict[str, int], ops: Sequence[Op]) -> None:
    for op in ops:
        if op.kind == "create":
            names[op.name] = op.file
        else:
            names.pop(op.name, None)
            if op.kind == "rename":
                names[op.to] = op.file


def crashes(ops: Sequence[Op], start: Mapping[str, bytes], count: int, seed: int) -> Iterator[Crash]:
    """`count` states spread over the whole recording, every mode at every place that is looked at."""
    dice, disk = random.Random(seed), Disk(start)
    steps = max(1, -(-count // len(MODES)))
    chosen = set(dice.sample(range(len(ops)), min(steps, len(ops))))
    for step, op in enumerate(ops):
        disk.do(op)
        if step in chosen:
            for mode in MODES:
                yield Crash(step, mode, disk.after_power_loss(mode, dice), tuple(disk.acks))
