"""The limited process: it has none of our secrets, writes in one folder only, and every limit is an error that says which."""

import subprocess
import sys

import pytest

from tollway.kit import sandbox
from tollway.kit.errors import BadRequest, TooLarge

READ = "tollway.forge.data.readers:read_into"


def confined(code: str, writable, limits: str = "") -> subprocess.CompletedProcess[str]:
    script = f"from tollway.kit.sandbox import ResourceLimits, confine\nconfine(ResourceLimits({limits}), {str(writable)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)


def test_a_confined_process_reads_but_does_not_write_elsewhere(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    ran = confined(f"open({str(inside / 'a')!r}, 'w').write('x'); print(open('/etc/hostname').read())", inside)
    assert ran.returncode == 0, ran.stderr
    ran = confined(f"open({str(outside / 'a')!r}, 'w').write('x')", inside)
    if ran.returncode == 0:
        pytest.skip("this kernel has no Landlock: only the limits hold")
    assert "Permission denied" in ran.stderr and not (outside / "a").exists()
    ran = confined(f"import os; os.rename({str(inside / 'a')!r}, {str(outside / 'a')!r})", inside)
    assert ran.returncode != 0 and (inside / "a").exists()


def test_it_has_no_network_where_the_system_lets_it_give_that_up(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2); print('connected')"
        ran = confined(code, tmp_path)
    may = subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0
    assert ("connected" not in ran.stdout) or not may


@pytest.mark.parametrize(
    ("code", "limits"),
    [("bytearray(1 << 30)", "memory_bytes=1 << 29"), ("[open('/dev/null') for _ in range(99)]", "files=64"), ("while True: pass", "cpu_s=1")],
)
def test_every_limit_holds(tmp_path, code, limits):
    assert confined("pass", tmp_path, limits).returncode == 0
    assert confined(code, tmp_path, limits).returncode != 0


def test_our_settings_and_secrets_stay_here(monkeypatch):
    """`samples.folders` reads one of our variables: here it sees it, in the limited process it does not."""
    from tollway.forge.data import samples

    monkeypatch.setenv("TOLLWAY_SAMPLES", "/secret-word")
    assert "/secret-word" in map(str, samples.folders())
    assert not [one for one in sandbox.call("tollway.forge.data.samples:folders", {}) if "secret-word" in one]


def test_progress_and_errors_come_across(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("a,b\n" + "1,2\n" * 30_000)
    seen = []
    told = sandbox.call(READ, {"source": str(source), "out": str(tmp_path), "options": {}}, writable=tmp_path,
                        progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert told["rows"] == {"train": 30_000} and seen and all(0 <= done <= total for done, total in seen)
    with pytest.raises(BadRequest, match="cannot be read"):
        sandbox.call(READ, {"source": str(tmp_path / "none"), "out": str(tmp_path / "gone"), "options": {}}, writable=tmp_path)


def test_time_is_limited(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("a,b\n" + "1,2\n" * 3_000_000)
    arguments = {"source": str(source), "out": str(tmp_path), "options": {}}
    with pytest.raises(TooLarge, match="takes longer than allowed"):
        sandbox.call(READ, arguments, writable=tmp_path, limits=sandbox.ResourceLimits(cpu_s=1))
    (tmp_path / "scratch").rmdir()
    with pytest.raises(TooLarge, match="takes longer than allowed"):
        sandbox.call(READ, arguments, writable=tmp_path, limits=sandbox.ResourceLimits(wall_s=0.3))


def test_only_our_own_functions_run():
    with pytest.raises(BadRequest):
        sandbox.call("os:system", {"command": "true"})
