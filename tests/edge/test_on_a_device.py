"""A model on a device: in a process that sees nothing but the few libraries a device has, against the very model in service.

What the device counted is sent to a real gateway and is in the books once, whatever is sent again, and never when it was
changed.
"""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.proof.house import GatewayProcess, make_customer, start_gateway
from tests.serve import tiny_models
from tollway.edge import chain
from tollway.edge.log import UsageLog
from tollway.flows import export_edge, release
from tollway.flows.export_edge import Exported
from tollway.kit.errors import BadRequest, Conflict
from tollway.kit.settings import Settings
from tollway.sell import catalog, edge_devices, ledger, tables, usage
from tollway.shop import Shop

METERS = ("input_tokens", "images", "rows")
TERMS = catalog.Terms(
    overage="wallet",
    charges=tuple(catalog.Charge(meter=meter, price_micros=1_000_000) for meter in METERS),
)
TEXTS = [
    "a lovely film with a warm heart",
    "a boring film",
    "",
    "难看 的 电影",
    "great fun, the worst film of the year",
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("home")
    with Shop.open(Settings(home, environment={})) as shop:
        for name in tiny_models.MAKERS:
            tiny_models.shelve(shop.store, name, tmp_path_factory.mktemp(name))
            release.deploy(shop, name)
    made = start_gateway(home, starter=False)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with only what a device must have."""
    import numpy

    there = Path(numpy.__file__).parents[1]
    place = tmp_path_factory.mktemp("libraries")
    for name in ("numpy", "numpy.libs", "onnxruntime", "tokenizers", "PIL", "pillow.libs"):
        if (there / name).exists():
            (place / name).symlink_to(there / name)
    return place


class Owner:
    """An organization with a device."""

    def __init__(self, gateway: GatewayProcess, libraries: Path, folder: Path) -> None:
        self.gateway, self._libraries, self.folder = gateway, libraries, folder
        made = make_customer(gateway.home, TERMS, 1_000_000, name=f"o-{uuid.uuid4().hex[:8]}")
        self.org_id, self.key = made.org_id, made.key
        self.http = httpx.Client(
            base_url=gateway.url, headers={"authorization": f"Bearer {self.key}"}, timeout=300, trust_env=False
        )
        while self.http.get("/v1/key").status_code == 401:
            time.sleep(0.02)

    def shop(self) -> Shop:
        return Shop.open(Settings(self.gateway.home, environment={"TOLLWAY_PUBLIC_URL": self.gateway.url}))

    def export(self, model: str = "mood") -> Exported:
        with self.shop() as shop:
            return export_edge.export(shop, model, self.org_id, self.folder)

    def command(self, *words: str, key: str = "") -> list[str]:
        start = f"import runpy,sys; sys.path.append({str(self._libraries)!r}); sys.argv[0] = 'edge.py'; "
        return [
            sys.executable,
            "-I",
            "-S",
            "-c",
            start + f"runpy.run_path({str(self.folder / 'edge.py')!r}, run_name='__main__')",
            *words,
        ]

    def run(self, *words: str, key: str = "", expect: int = 0) -> Any:
        environment = {"PATH": os.environ["PATH"], "TOLLWAY_KEY": key or self.key}
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == expect, done.stderr
        return json.loads(done.stdout) if expect == 0 else done.stderr

    def totals(self) -> usage.Totals:
        with self.shop() as shop, shop.db.read() as conn:
            return usage.totals(conn, self.org_id, 0)

    def wallet(self) -> int:
        with self.shop() as shop, shop.db.read() as conn:
            return ledger.wallet_micros(conn, self.org_id, "USD")

    def send(self, device: str, entries: list[dict[str, Any]], sent_at_ms: int | None = None) -> httpx.Response:
        sent = time.time_ns() // 1_000_000 if sent_at_ms is None else sent_at_ms
        return self.http.post("/v1/edge/usage", json={"device": device, "sent_at_ms": sent, "entries": entries})

    @property
    def log(self) -> Path:
        return self.folder / "state" / "usage.jsonl"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def usage_log(self) -> UsageLog:
        about = json.loads((self.folder / "device.json").read_text())
        return UsageLog(self.folder / "state", about["key"], about["device"], about["digest"])


@pytest.fixture
def owner(gateway: GatewayProcess, libraries: Path, tmp_path: Path) -> Iterator[Owner]:
    one = Owner(gateway, libraries, tmp_path / "device")
    yield one
    one.http.close()


def test_a_device_answers_what_the_shop_answers_and_its_use_is_billed_once(owner: Owner) -> None:
    made = owner.export()
    assert made.needs == ("numpy", "onnxruntime", "tokenizers")
    there = owner.http.post("/v1/classify", json={"model": "mood", "input": TEXTS}).json()
    served = owner.totals()
    here = owner.run("classify", *TEXTS)
    assert here == there
    owner.run("classify", "a joy", "--top-k", "1")
    assert owner.totals().requests == served.requests  # the shop knows of nothing yet
    tokens = here["usage"]["prompt_tokens"] + 2
    assert owner.run("status")["entries"] == 2
    assert owner.run("sync") == {"sent": 2, "head": 2}
    after = owner.totals()
    assert (after.requests - served.requests, after.input_tokens - served.input_tokens) == (2, tokens)
    assert owner.wallet() == 1_000_000 - after.input_tokens
    assert owner.run("sync") == {"sent": 0, "head": 2}
    again = owner.send(made.device, owner.lines())  # a device that forgot
    assert (again.status_code, again.json()["accepted"], again.json()["duplicates"]) == (200, 0, 2)
    assert owner.totals() == after
    assert owner.run("status")["synced"] == 2


@pytest.mark.parametrize("model", ["digits", "rent", "words"])
def test_pictures_rows_and_vectors_are_answered_too(owner: Owner, model: str, tmp_path: Path) -> None:
    owner.export(model)
    if model == "digits":
        picture = tmp_path / "a.png"
        picture.write_bytes(tiny_models.digits(1)[0][0])
        data = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
        there = owner.http.post("/v1/classify", json={"model": model, "input": [data]}).json()
        assert owner.run("classify", f"@{picture}") == there
    elif model == "rent":
        row = {"size": 60.0, "rooms": 3.0}
        there = owner.http.post("/v1/classify", json={"model": model, "input": [row]}).json()
        assert owner.run("classify", json.dumps(row)) == there
    else:
        there = owner.http.post("/v1/embeddings", json={"model": model, "input": ["a lovely film"]}).json()
        assert owner.run("embed", "a lovely film") == there
    before = owner.totals()
    owner.run("sync")
    after = owner.totals()
    for meter in METERS:
        assert getattr(after, meter) == 2 * getattr(before, meter)  # the same call, here and there
    assert after.price_picos == 2 * before.price_picos > 0


def test_a_device_answers_over_http_and_counts_every_call(owner: Owner) -> None:
    owner.export()
    server = subprocess.Popen(owner.command("serve", "--port", "0"), stderr=subprocess.PIPE, text=True, env={})
    try:
        assert server.stderr is not None
        url = server.stderr.readline().split()[-1].removesuffix("/v1")
        with httpx.Client(base_url=url, trust_env=False, timeout=300) as http:
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda _: http.post("/v1/classify", json={"input": "a joy"}).json(), range(12)))
            assert {answer["data"][0]["label"] for answer in answers} == {"good"}
            assert http.get("/v1/usage").json() == {"object": "usage", "entries": 12, "synced": 0}
            assert http.post("/v1/classify", json={"input": {"colour": 1}}).status_code == 400
            assert http.post("/v1/classify", content=b"{").json()["error"]["code"] == "invalid_json"
            assert http.post("/v1/embeddings", json={"input": "x"}).status_code == 400
            assert http.post("/v1/classify", json={"input": "x", "encoding_format": "no"}).status_code == 400
            with socket.create_connection(("127.0.0.1", http.base_url.port or 0), timeout=60) as odd:
                odd.sendall(b"POST /v1/classify HTTP/1.1\r\ncontent-length: \xb2\r\n\r\n")
                assert odd.recv(100).startswith(b"HTTP/1.1 413"), "no digit of a length"
            assert http.get("/v1/models").status_code == 404
            assert http.get("/v1/usage").json()["entries"] == 12  # what was refused is not counted
            whole = owner.log.read_bytes()
            owner.log.write_bytes(whole + b"{\n")
            for answer in (http.get("/v1/usage"), http.post("/v1/classify", json={"input": "a joy"})):
                assert (answer.status_code, answer.json()["error"]["code"]) == (409, "log_tampered")
            owner.log.write_bytes(whole)
            assert "in use" in owner.run("serve", "--port", str(http.base_url.port), expect=1)
    finally:
        server.kill()
        server.wait()
    assert owner.usage_log().verify() == 12


@pytest.mark.parametrize("how", ["less", "left out", "swapped", "repeated", "another's", "from the front", "no number"])
def test_a_log_that_was_changed_is_refused_as_a_whole(owner: Owner, how: str) -> None:
    made = owner.export()
    log = owner.usage_log()
    for units in (5, 900, 7, 8):
        log.count("classification", "input_tokens", units)
    entries = owner.lines()
    if how == "less":
        entries[1]["units"] = 1
    elif how == "left out":
        del entries[1]
    elif how == "swapped":
        entries[1], entries[2] = entries[2], entries[1]
    elif how == "repeated":
        entries.insert(2, entries[1])
    elif how == "another's":
        other = UsageLog(owner.folder / "other", "ab" * 32, made.device, made.version)
        entries = [other.count("classification", "input_tokens", 1)]
    elif how == "from the front":
        entries = entries[2:]
    else:
        entries[0]["n"] = True
    owner.log.write_text("".join(json.dumps(one) + "\n" for one in entries))
    answer = owner.send(made.device, entries)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "log_tampered"), answer.text
    assert owner.totals().requests == 0
    owner.run("status", expect=7)
    assert "cannot be believed" in owner.run("verify", expect=7)


def test_verifying_says_what_was_verified(owner: Owner) -> None:
    made = owner.export()
    told = owner.run("verify")
    assert told["verified"] is True and told["device"] == made.device
    assert told["checked"]["model"]["files"] >= 3 and told["checked"]["model"]["digest"].startswith("sha256:")
    empty = told["checked"]["log"]
    assert empty["entries"] == 0 and empty["from"] is None and empty["chain"] == "intact"
    log = owner.usage_log()
    for units in (5, 6):
        log.count("classification", "input_tokens", units)
    seen = owner.run("verify")["checked"]["log"]
    assert (seen["entries"], seen["counted"]) == (2, {"input_tokens": 11})
    assert seen["from"] <= seen["to"] and seen["from"].endswith("+00:00")
    key = json.loads((owner.folder / "device.json").read_text())["key"]
    assert len(seen["key"]) == 16 and seen["key"] not in key, "a fingerprint, not the key"
    assert owner.run("status")["entries"] == 2 and "checked" not in owner.run("status")


def test_a_log_whose_end_was_cut_off_is_told_with_the_way_back(owner: Owner) -> None:
    owner.export()
    log = owner.usage_log()
    log.count("classification", "input_tokens", 5)
    old = owner.log.read_bytes()
    log.count("classification", "input_tokens", 900)
    owner.run("sync")
    owner.log.write_bytes(old)
    told = owner.run("verify", expect=7)
    assert "ends at entry 1, but 2 were sent" in told and "Do this: Restore it" in told
    assert "it is an older copy" in owner.run("sync", expect=7)


def test_a_model_that_is_not_the_exported_one_is_found(owner: Owner) -> None:
    owner.export()
    model = owner.folder / "model"
    manifest, weights = model / "manifest.toml", next(model.glob("*.onnx"))
    said, bytes_ = manifest.read_text(), weights.read_bytes()
    weights.write_bytes(bytes_ + b"\0")
    old, new = (hashlib.sha256(one).hexdigest() for one in (bytes_, bytes_ + b"\0"))
    manifest.write_text(said.replace(old, new))
    assert new in manifest.read_text()
    assert "The manifest is not the one of this device" in owner.run("verify", expect=7)
    manifest.write_text(said)
    weights.unlink()
    assert f"{weights.name} is not the file that was signed" in owner.run("verify", expect=7)


def test_the_key_goes_to_the_shop_alone(owner: Owner) -> None:
    """A server in between that sends callers elsewhere gets the question, not their company."""
    owner.export()
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("location", "/taken")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *words: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told = owner.run("sync", "--url", f"http://127.0.0.1:{server.server_address[1]}", expect=1)
        server.shutdown()
    assert "answered 302" in told and "elsewhere" in told
    assert len(asked) == 1 and "/taken" not in asked


def test_an_old_copy_of_a_device_cannot_go_on_from_the_past(owner: Owner) -> None:
    made = owner.export()
    log = owner.usage_log()
    log.count("classification", "input_tokens", 5)
    old = owner.log.read_bytes()
    log.count("classification", "input_tokens", 900)
    owner.run("sync")
    owner.log.write_bytes(old)
    entry = log.count("classification", "input_tokens", 1)  # number 2 again, with another story
    answer = owner.send(made.device, [entry])
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "log_forked")
    assert owner.totals().input_tokens == 905


def test_a_line_cut_off_by_a_loss_of_power_was_never_answered(owner: Owner) -> None:
    owner.export()
    log = owner.usage_log()
    log.count("classification", "input_tokens", 5)
    with owner.log.open("ab") as file:
        file.write(b'{"n":2,"at_ms":17')
    assert log.verify() == 1
    log.count("classification", "input_tokens", 6)
    assert [one["units"] for one in owner.lines()] == [5, 6]
    assert owner.run("sync") == {"sent": 2, "head": 2}


def test_two_senders_at_once_and_a_crash_in_between_bill_once(owner: Owner) -> None:
    made = owner.export()
    log = owner.usage_log()
    for _ in range(40):
        log.count("classification", "input_tokens", 3)
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: owner.send(made.device, owner.lines()).status_code, range(4)))
    assert set(told) <= {200, 409} and 200 in told
    assert owner.totals().input_tokens == 120
    with owner.shop() as shop, shop.db.write() as conn:  # as if the head had not been moved any more
        device = edge_devices.get(conn, made.device)
        about = json.loads((owner.folder / "device.json").read_text())
        seal = chain.beginning(about["key"], made.device, about["digest"])
        conn.execute(
            tables.edge_device.update().where(tables.edge_device.c.id == made.device).values(head_n=0, head_seal=seal)
        )
        assert device.head_n == 40
    assert owner.send(made.device, owner.lines()).json()["head"] == 40
    assert owner.totals().input_tokens == 120
    assert owner.wallet() == 1_000_000 - 120


@pytest.mark.parametrize("off_ms", [-56 * 365 * 86_400_000, 0, 400 * 86_400_000])
def test_a_clock_that_is_wrong_is_put_right(owner: Owner, off_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = owner.export()
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: max(0, now_ns() + off_ms * 1_000_000))
    log = owner.usage_log()
    for _ in range(3):
        log.count("classification", "input_tokens", 2)
    entries, sent = log.after(0, 10), time.time_ns() // 1_000_000
    monkeypatch.undo()
    assert owner.send(made.device, entries, sent).status_code == 200
    with owner.shop() as shop, shop.db.read() as conn:
        event = tables.usage_event.c
        times = list(conn.execute(sa.select(event.at_ms).where(event.org_id == owner.org_id)).scalars())
    now = time.time_ns() // 1_000_000
    assert len(times) == 3 and all(now - 60_000 < one <= now for one in times)


def test_only_its_own_organization_sends_a_devices_log(
    owner: Owner, gateway: GatewayProcess, libraries: Path, tmp_path: Path
) -> None:
    made = owner.export()
    owner.usage_log().count("classification", "input_tokens", 2)
    other = Owner(gateway, libraries, tmp_path / "other")
    assert other.send(made.device, owner.lines()).status_code == 404
    assert other.http.get("/v1/edge/usage", params={"device": made.device}).status_code == 404
    assert "no device" in owner.run("sync", key=other.key, expect=1)
    with owner.shop() as shop, shop.db.write() as conn:
        edge_devices.revoke(conn, shop.clock.now_ms(), made.device)
    refused = owner.send(made.device, owner.lines())
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "device_revoked")
    assert owner.totals().requests == other.totals().requests == 0
    other.http.close()


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(owner: Owner, tmp_path: Path) -> None:
    with owner.shop() as shop:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "a").touch()
        with pytest.raises(Conflict, match="not an empty folder"):
            export_edge.export(shop, "mood", owner.org_id, tmp_path / "full")
        with pytest.raises(BadRequest, match="litert"):
            export_edge.export(shop, "mood", owner.org_id, tmp_path / "none", form="litert")
        assert not (tmp_path / "none").exists()
        with shop.db.read() as conn:
            assert edge_devices.list_devices(conn, owner.org_id) == []
    made = owner.export()
    (owner.folder / "model" / "model.onnx").write_bytes(b"another model")
    told = owner.run("verify", expect=7)
    assert "not the file that was signed" in told and "tollway export edge mood" in told
    assert (owner.folder / "device.json").stat().st_mode & 0o077 == 0
    assert made.size_bytes < 2_000_000


def test_the_operator_exports_lists_and_revokes_by_command(owner: Owner) -> None:
    def cli(*words: str) -> Any:
        command = [sys.executable, "-m", "tollway", *words, "--home", str(owner.gateway.home), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    made = cli("export", "edge", "mood", "--org", owner.org_id, "--out", str(owner.folder))
    example = owner.folder / "model" / "example.json"
    example.write_text(json.dumps({"input": {"text": "a joy"}}))
    assert owner.run("classify", f"@{example}")["data"][0]["label"] == "good"
    owner.log.unlink()
    owner.run("classify", "a joy")
    owner.run("sync", "--url", owner.gateway.url)
    listed = cli("device", "list", "--org", owner.org_id)
    assert [(one["id"], one["model"], one["head_n"], one["revoked_ms"]) for one in listed] == [
        (made["device"], "mood", 1, None)
    ]
    assert cli("device", "revoke", made["device"], "--yes")["revoked_ms"]
    assert owner.send(made["device"], owner.lines()).json()["error"]["code"] == "device_revoked"
