"""The doctor finds what is wrong, says why it matters and how to fix it, and changes nothing."""

import contextlib
import hashlib
import http.server
import json
import os
import socket
import threading

import pytest

from tests.ports import free_port
from tollway.guard.secrets import Secrets
from tollway.kit.settings import Settings
from tollway.watch import doctor


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def settings(home, **flags):
    return Settings(home, {"port": free_port()} | flags, environment={})


def finding(home, name, **flags):
    found = {check.name: check for check in doctor.examine(settings(home, **flags))}
    return found[name]


def test_a_sound_machine_has_no_failures_and_nothing_is_made(home):
    checks = doctor.examine(settings(home))
    assert [check for check in checks if check.state == "fail"] == []
    assert {"python", "packages", "engine", "more engines", "home", "keys", "database", "disk", "port", "open files", "clock"} == {
        check.name for check in checks
    }
    assert not home.exists()


def test_every_library_that_can_serve_is_named_with_its_version(home):
    shown = finding(home, "more engines").found
    assert all(name in shown for name in ("onnxruntime", "openvino-genai", "ai-edge-litert", "torch 2.", "ctranslate2"))


def test_a_taken_port_fails_with_another_to_use(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = finding(home, "port", port=port)
    assert found.state == "fail" and found.fix == f"tollway up --port {port + 1}"


def test_an_address_open_to_the_network_is_a_warning(home):
    assert finding(home, "port", host="0.0.0.0").state == "warn"


def test_secrets_others_can_read_fail_with_the_chmod(home):
    Secrets.load(home / "keys")
    assert finding(home, "keys").state == "ok"
    (home / "keys" / "pepper").chmod(0o640)
    found = finding(home, "keys")
    assert found.state == "fail" and found.fix == f"chmod 600 {home / 'keys' / 'pepper'}"


def test_a_damaged_database_fails(home):
    home.mkdir()
    (home / "tollway.db").write_bytes(b"not a database " * 1000)
    assert finding(home, "database").state == "fail"


def test_a_database_server_that_is_away_fails_without_its_password(home):
    found = finding(home, "database", database_url="postgresql://user:secret@127.0.0.1:9/db")
    assert found.state == "fail" and "secret" not in str(found)


def test_a_real_postgres_is_named_with_its_version(home, postgres_url):
    found = finding(home, "database", database_url=postgres_url)
    assert found.state == "ok" and found.found.startswith("PostgreSQL ")


def test_a_home_that_is_a_file_fails(home):
    home.write_text("")
    assert finding(home, "home").state == "fail"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_fails(home):
    home.mkdir(mode=0o500)
    assert finding(home, "home").state == "fail"


def test_a_clock_behind_the_data_fails(home):
    home.mkdir()
    file = home / "tollway.db"
    file.write_bytes(b"")
    os.utime(file, (4e9, 4e9))
    assert doctor.clock(settings(home)).state == "fail"


def test_weights_are_held_against_their_hash(home, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()

    def state(path, sha256):
        return doctor.weights("m", lambda: path, sha256)(settings(home)).state

    assert state(file, right) == "ok"
    assert state(file, "0" * 64) == "fail"
    assert state(None, right) == "warn"


def test_a_gateway_is_seen_by_its_lock_not_by_a_number_in_a_file(home):
    import fcntl

    home.mkdir()
    lock = home / "gateway.lock"
    lock.write_text(f"{os.getpid()}\n")
    assert doctor.running_pid(home) is None  # left behind by a process that died
    with lock.open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert doctor.running_pid(home) == os.getpid()


def test_what_a_check_stumbles_over_is_a_finding(home):
    def stumbles(_settings):
        raise OSError("the disk is on fire")

    last = doctor.examine(settings(home), [stumbles])[-1]
    assert (last.name, last.state, last.found) == ("stumbles", "fail", "the disk is on fire")


def test_a_kernel_without_a_fence_is_a_warning(home):
    assert doctor.fence(7)(settings(home)).state == "ok"
    assert doctor.fence(0)(settings(home)).state == "warn"


@pytest.mark.parametrize("status", [200, 503])
def test_replicas_without_room_are_a_warning_with_what_they_ask_for(home, status):
    told = {"ready": status == 200, "waiting_for": [], "no_room": {"mini": "the cluster has no room for it"}}
    with gateway_that_says(status, told) as url:
        check = doctor.room(url)(settings(home))
    assert (check.state, check.found) == ("warn", "mini: the cluster has no room for it")
    assert "tollway model serving mini --replicas" in check.fix
    with gateway_that_says(200, told | {"no_room": {}}) as url:
        assert doctor.room(url)(settings(home)).state == "ok"
    assert doctor.room(url)(settings(home)).found == f"no answer at {url} (URLError)"


@contextlib.contextmanager
def gateway_that_says(status, told):
    """The address of something that answers every GET with this."""

    class Says(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Says) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_model_that_does_not_come_up_fails_with_the_reason_and_a_way_out(home):
    assert doctor.models([])(settings(home)).state == "ok"
    check = doctor.models([("gloom@1", "its replica does not come up: bad weights")])(settings(home))
    assert (check.state, check.fix) == ("fail", "tollway deploy gloom@VERSION")
    assert check.found == "gloom@1: its replica does not come up: bad weights"
