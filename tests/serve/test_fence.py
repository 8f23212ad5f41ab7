"""The fence around an engine's process: the shop's home is closed to it but for the packages, and so is the gateway."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tollway.serve.engines import fence
from tollway.serve.engines.port import Launch
from tollway.serve.runtimes import Confinement, local

pytestmark = pytest.mark.skipif(not fence.version(), reason="this kernel has no Landlock")

TRIES = """
import json, os, subprocess, sys, threading
from pathlib import Path
from tollway.serve.engines import fence

home, beside, gateway = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
assert fence.put_up(home, home / "own")

def tried(what):
    try:
        what()
    except PermissionError:
        return "closed"
    except OSError as error:
        return f"closed ({error.errno})" if error.errno == 18 else repr(error)
    return "open"

def of_another_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(tried((home / "tollway.db").read_bytes)))
    thread.start(); thread.join()
    if found == ["closed"]:
        raise PermissionError

def of_a_child():
    done = subprocess.run(["cat", str(home / "tollway.db")], capture_output=True)
    if done.returncode:
        raise PermissionError

print(json.dumps({
    "database": tried((home / "tollway.db").read_bytes),
    "keys": tried(lambda: os.listdir(home / "keys")),
    "home": tried(lambda: os.listdir(home)),
    "by link": tried((beside / "link").read_bytes),
    "settings": tried(lambda: (home / "tollway.toml").write_text("host = '0.0.0.0'")),
    "removed": tried((home / "tollway.db").unlink),
    "moved out": tried(lambda: (home / "tollway.db").rename(beside / "stolen")),
    "linked out": tried(lambda: os.link(home / "tollway.db", beside / "stolen")),
    "cut": tried(lambda: os.truncate(home / "tollway.db", 0)),
    "another thread": tried(of_another_thread),
    "a child": tried(of_a_child),
    "environment": tried(Path(f"/proc/{gateway}/environ").read_bytes),
    "memory": tried(Path(f"/proc/{gateway}/mem").open),
    "files of the gateway": tried(lambda: os.readlink(f"/proc/{gateway}/fd/1")),
    "signal": tried(lambda: os.kill(gateway, 0)),
    "package": tried((home / "packages/mood/1/model.onnx").read_bytes),
    "plan beside it": tried(lambda: (home / "packages/mood/1.rows.json").write_text("{}")),
    "own": tried(lambda: (home / "own/socket").write_text("x")),
    "beside": tried((beside / "file").read_bytes),
    "written beside": tried(lambda: (beside / "new").write_text("x")),
    "machine": tried(Path("/proc/self/status").read_bytes),
    "library": tried(lambda: __import__("decimal")),
}))
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a fenced process could open."""
    root = tmp_path_factory.mktemp("fence")
    home, beside = root / "home", root / "beside"
    for folder in (home / "keys", home / "own", home / "packages/mood/1", beside):
        folder.mkdir(parents=True)
    for path in (home / "tollway.db", home / "keys/pepper", home / "packages/mood/1/model.onnx", beside / "file"):
        path.write_text("x")
    (beside / "link").symlink_to(home / "tollway.db")
    command = [sys.executable, "-c", TRIES, str(home), str(beside), str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (home / "tollway.db").read_text() == "x" and not (home / "tollway.toml").exists()
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "what",
    [
        "database", "keys", "home", "by link", "settings", "removed", "moved out", "linked out", "cut", "another thread",
        "a child", "environment", "memory", "files of the gateway",
    ],
)  # fmt: skip
def test_what_is_the_shops_is_closed(tried: dict[str, str], what: str) -> None:
    if what == "cut" and fence.version() < 3:
        pytest.skip("an older Landlock")
    assert tried[what].startswith("closed")


def test_the_gateway_gets_no_signal(tried: dict[str, str]) -> None:
    if fence.version() < 6:
        pytest.skip("an older Landlock")
    assert tried["signal"] == "closed"


@pytest.mark.parametrize("what", ["package", "plan beside it", "own", "beside", "written beside", "machine", "library"])
def test_all_else_is_as_before(tried: dict[str, str], what: str) -> None:
    assert tried[what] == "open"


SPY = """
import json, sys
from pathlib import Path
import msgspec
from tollway.serve.engines import child

class Spec(child.Spec, frozen=True, kw_only=True):
    home: str

def work(spec, ready):
    Path(spec.home, "tollway.db").read_bytes()

sys.exit(child.main(Spec, work))
"""


async def test_a_replica_of_the_shop_is_fenced(tmp_path: Path) -> None:
    """As the gateway starts it: what it says when it opens the database is why it did not start."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "tollway.db").write_text("x")
    socket = tmp_path / "own/s"
    socket.parent.mkdir()
    orders: dict[str, Any] = {"socket": str(socket), "model": "m", "parent": os.getpid(), "home": str(tmp_path)}
    launch = Launch(argv=(sys.executable, "-c", SPY), first_line=json.dumps(orders).encode() + b"\n")
    with pytest.raises(local.Failed, match="PermissionError"):
        await local.started(launch, socket, Confinement(home=str(tmp_path)))
