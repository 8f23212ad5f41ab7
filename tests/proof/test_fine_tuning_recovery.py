"""A gateway killed with kill -9 while it fine-tunes: the job goes on, is billed once, and its adapter is served once.

A real training, on a base so small that it takes seconds: the gateway is killed between its steps, while the
adapter is written, and while it is published; each time the next gateway goes on.
"""

import json
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from tests.proof import books
from tests.proof.house import GatewayProcess, make_customer, shop_of, start_gateway
from tollway.insight import economics
from tollway.kit import jobs
from tollway.kit.db import Database
from tollway.kit.settings import Settings
from tollway.sell import catalog, tables
from tollway.sell.fine_tuning import KIND, order_of
from tollway.serve import models
from tollway.serve import tables as served
from tollway.serve.models import list_models

BASE = "tiny"
TERMS = catalog.Terms(overage="wallet", charges=(catalog.Charge(meter="training_tokens", price_micros=3_000_000),))
TEXTS = ["The whale swims in the sea, 2026 times.", "Who are you? I am a shop.", "今天天气很好, 我们去公园吧。"] * 8


def shelve_base(home: Path, folder: Path) -> None:
    """A chat model of two layers on the shelf, and on offer."""
    import pyarrow as pa

    from tollway.forge import models as nets
    from tollway.forge import recipe
    from tollway.forge.convert import gguf_decoder

    options = {
        "width": 64,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "vocabulary": 420,
        "max_length": 256,
        "tokenizer": "bpe",
    }
    part = recipe.Model(architecture="llama", options=options)
    features = nets.fit_features(part, "language-modeling", pa.table({"text": TEXTS}))
    nets.save(nets.create(part, "language-modeling", features, 5), folder / "net")
    gguf_decoder.write(folder / "net", folder / "tiny.gguf", "f32")
    with shop_of(home) as shop:
        package = shop.store.import_gguf(folder / "tiny.gguf", BASE)
        with shop.db.write() as conn:
            models.offer_package(conn, shop.clock.now_ms(), BASE, "chat", package.manifest.version)


def begin(gateway: GatewayProcess, key: str, epochs: int = 8) -> str:
    """Upload and order, as one does who hears nothing and asks again, several times at once: it is one job."""
    chats = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]} for text in TEXTS
    ]
    lines = b"\n".join(json.dumps(chat).encode() for chat in chats)
    with client(gateway, key) as http:
        file = http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("x.jsonl", lines)}).json()["id"]
        asked = {"model": BASE, "training_file": file, "hyperparameters": {"n_epochs": epochs, "batch_size": 2}, "seed": 3}
        once = {"idempotency-key": "my-model"}
        with ThreadPoolExecutor(4) as pool:
            heard = list(pool.map(lambda _: http.post("/v1/fine_tuning/jobs", json=asked, headers=once), range(4)))
        assert {one.status_code for one in heard} == {200}, [one.text for one in heard]
        assert sum("idempotent-replayed" in one.headers for one in heard) == 3
        other = http.post("/v1/fine_tuning/jobs", json=asked | {"seed": 4}, headers=once)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
        (job,) = http.get("/v1/fine_tuning/jobs").json()["data"]
    assert {one.json()["id"] for one in heard} == {job["id"]}
    return str(job["id"])


def client(gateway: GatewayProcess, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=gateway.url, headers=headers, timeout=300, trust_env=False)


def told(db: Database, job_id: str) -> tuple[str, str]:
    """Where the job is: its status, and all that was said of it."""
    with db.read() as conn:
        job = jobs.get(conn, "fine_tuning", job_id)
        return job.status, "\n".join(event.message for event in jobs.events(conn, job_id, 1000))


@pytest.mark.timeout(900)
def test_killed_at_any_moment_a_training_ends_once(tmp_path: Path) -> None:
    home, chance = tmp_path / "home", random.Random(5)
    shelve_base(home, tmp_path)
    buyer = make_customer(home, TERMS, 2_000_000, name="acme")
    gateway = start_gateway(home, starter=False)
    job_id = begin(gateway, buyer.key)
    kills, db = 0, Database(Settings(home, environment={}).url_of_database)
    for moment in ("Step", "Writing the adapter", "is being loaded"):
        end = time.monotonic() + 240
        while moment not in (seen := told(db, job_id))[1] and seen[0] in jobs.OPEN and time.monotonic() < end:
            time.sleep(0.01)
        if seen[0] not in jobs.OPEN:
            break
        time.sleep(chance.uniform(0, 0.05))
        gateway.kill()
        kills += 1
        gateway = start_gateway(home, starter=False)
    assert kills >= 1, "the later moments may have passed before they were seen"
    end = time.monotonic() + 300
    with client(gateway, buyer.key) as http:
        while (job := http.get(f"/v1/fine_tuning/jobs/{job_id}").json())[
            "status"
        ] in jobs.OPEN and time.monotonic() < end:
            time.sleep(0.1)
        assert job["status"] == "succeeded", (job, told(db, job_id))
        asked = {"model": job["fine_tuned_model"], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        assert http.post("/v1/chat/completions", json=asked).status_code == 200
        with shop_of(home) as shop, shop.db.read() as conn:
            offered = [one for one in list_models(conn) if one.base == BASE]
            assert [one.name for one in offered] == [job["fine_tuned_model"]], "served once"
            assert [
                one.manifest.version for one in shop.store.list() if one.manifest.name == job_id.replace("_", "-")
            ] == ["1"], "shelved once"
            events = conn.execute(
                sa.select(tables.usage_event).where(tables.usage_event.c.operation == "fine-tuning")
            ).all()
            worked_us = jobs.worked_us(conn, job_id)
        report = report_of(home)
        assert [row.units for row in events] == [job["trained_tokens"]], "billed once"
        assert events[0].decode_us == worked_us > 0
    gateway.stop()
    db.close()
    with shop_of(home) as shop:
        assert books.problems(shop.db, []) == []
        with shop.db.read() as conn:
            spent = conn.execute(sa.select(sa.func.sum(tables.usage_event.c.price_picos))).scalar_one()
    assert spent == 3_000_000 * job["trained_tokens"]
    closing = report.attributed_micros + report.idle.cost_micros + report.failed.cost_micros + report.shadow.cost_micros
    assert closing == report.hardware_micros
    assert {row.model for row in report.rows} >= {BASE, f"training:{BASE}"}


@pytest.mark.timeout(600)
def test_steps_before_a_kill_are_billed_of_a_job_that_is_cancelled_after_it(tmp_path: Path) -> None:
    """The gateway that trained is gone, and the next one finds the job cancelled: what was done is owed all the same."""
    home = tmp_path / "home"
    shelve_base(home, tmp_path)
    buyer = make_customer(home, TERMS, 2_000_000, name="acme")
    gateway = start_gateway(home, starter=False)
    job_id = begin(gateway, buyer.key, epochs=50)
    db, end = Database(Settings(home, environment={}).url_of_database), time.monotonic() + 240
    while not re.search(r"Step ([2-9]|\d\d+)/", (seen := told(db, job_id))[1]):  # the second is not always told
        assert seen[0] in jobs.OPEN and time.monotonic() < end, seen
        time.sleep(0.01)
    gateway.kill()
    with shop_of(home) as shop, shop.db.write() as conn:
        jobs.ask_to_cancel(conn, shop.clock.now_ms(), KIND, buyer.org_id, job_id)
        stepped = [event.data for event in jobs.events(conn, job_id, 10_000, kind="metrics")]
        tokens = order_of(jobs.get(conn, KIND, job_id)).tokens_max
    owed = round(tokens * max(one["step"] for one in stepped) / stepped[0]["total_steps"])
    gateway = start_gateway(home, starter=False)
    with db.read() as conn:
        found = jobs.get(conn, KIND, job_id)
    while not (found.status == "cancelled" and found.settled):
        assert found.status in (*jobs.OPEN, "cancelled") and time.monotonic() < end, found
        time.sleep(0.05)
        with db.read() as conn:
            found = jobs.get(conn, KIND, job_id)
    gateway.stop()
    with db.read() as conn:
        events = conn.execute(sa.select(tables.usage_event).where(tables.usage_event.c.request_id == job_id)).all()
    db.close()
    assert [event.units for event in events] == [found.made["trained_tokens"]] == [owed] and owed > 0
    with shop_of(home) as shop:
        assert books.problems(shop.db, []) == []


def report_of(home: Path) -> economics.Report:
    """What it cost, as soon as the gateway has written the hours of the base and of the training."""
    price, end = economics.MachinePrice(116_000, "USD", "test"), time.monotonic() + 60
    with shop_of(home) as shop:
        while True:
            with shop.db.read() as conn:
                first_ms = conn.execute(sa.select(sa.func.min(served.replica_hour.c.hour_ms))).scalar() or 0
                report = economics.report(conn, price, first_ms, first_ms + 7_200_000)
            if {row.model for row in report.rows} >= {BASE, f"training:{BASE}"} or time.monotonic() > end:
                return report
            time.sleep(0.1)
