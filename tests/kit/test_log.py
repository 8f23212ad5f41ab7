"""The log: JSON lines, and a last wall against secrets."""

import json
import subprocess
import sys

from tollway.kit.log import redact

SCRIPT = """
from tollway.kit import log
log.configure("info", json=True)
log.get("room").info("hello", key="Bearer tw_live_abcdefghijklmnopqrstuvwxyz0123456789ABCD", number=7)
log.get("room").debug("unseen")
"""


def test_a_line_is_one_json_object_without_the_key() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    said = json.loads(line)
    assert (said["event"], said["room"], said["number"], said["level"]) == ("hello", "room", 7, "info")
    assert "abcdefghijkl" not in line
    assert done.stdout == ""


def test_what_looks_like_a_key_is_cut() -> None:
    cut = redact(None, "info", {"a": "with sk-123456789 and tw_test_ABCDEFGH", "b": 3})
    assert cut == {"a": "with sk-… and tw_test_…", "b": 3}
