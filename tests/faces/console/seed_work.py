"""Jobs, batches, files, feedback and a fleet for the seeded shop: what the pages about work show."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from tests.faces.console import seed
from tollway.flows.engine_steps import Fill
from tollway.flows.fine_tuning import step_words
from tollway.kit import jobs
from tollway.kit.ids import new_id
from tollway.kit.said import say
from tollway.sell import accounts, api_keys, batches, feedback, files, fine_tuning, usage
from tollway.serve.posts import ReplicaView

MINUTE = 60_000
_ENDED = say("replica.ended", "its process ended with code {status}", status=-9)
_NO_ROOM = say("replica.no_room", "the cluster has no room for it: it asks for {cpus} free CPU on one node", cpus=1)
CHATS = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


def fill(shop: Any) -> dict[str, str]:
    """Put them in; the ids by name."""
    found: dict[str, str] = {}
    with shop.db.write() as conn:
        org = next(one for one in accounts.list_organizations(conn) if one.name.startswith("Northwind"))
        other = next(one for one in accounts.list_organizations(conn) if one.name.startswith("Lotus"))
        key = api_keys.list_keys(conn, org.id)[0].id
        for name, purpose in (("chats.jsonl", "fine-tune"), ("对话 calls.jsonl", "batch")):
            made = files.StoredFile(
                new_id("file", seed.NOW_MS), org.id, key, name, purpose, len(CHATS), 1,
                hashlib.sha256(CHATS).hexdigest(), seed.NOW_MS - 90 * MINUTE,
            )  # fmt: skip
            path = files.path_of(files.root_in(Path(shop.settings.home)), made)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(CHATS)
            conn.execute(usage.tables.stored_file.insert().values(**msgspec.structs.asdict(made)))
            found[purpose] = made.id
        found["done"] = _training(conn, org.id, key, found["fine-tune"], "succeeded", 40)
        found["running"] = _training(conn, org.id, key, found["fine-tune"], "running", 17)
        found["failed"] = _training(conn, other.id, key, "file_x", "failed", 0)
        calls = found["batch"]
        found["batch"] = _batch(conn, org.id, key, calls, "running", 310)
        found["whole"] = _batch(conn, org.id, key, calls, "succeeded", 499)
        events = usage.recent_events(conn, org.id, 40)
        for number, event in enumerate(events):
            feedback.give(
                conn, seed.NOW_MS - number * MINUTE, org.id, key, event.request_id, (1, -1, 0, 1)[number % 4],
                input="a text" if number % 4 == 1 else None, correction="better" if number % 4 == 1 else None, comment="",
            )  # fmt: skip
    return found


def fleet(busy: int = 3) -> list[ReplicaView]:
    """Two replicas of the chat model, one of them ejected; one of the encoder, without room; one version at rest."""
    common: dict[str, Any] = {"node": "local", "restarts": 0}
    chat = common | {"model": seed.CHAT, "version": seed.CHAT_VERSION, "slots": 8, "load_seconds": 1.2}
    return [
        ReplicaView(
            **chat, number=1, role="stable", state="ready", pid=4121, running=busy, busy_share=0.82,
            fill_share=0.44, calls_per_s=1.5, tokens_per_s=61.3, cost_micros_per_s=16.1, rss_bytes=412_000_000,
        ),
        ReplicaView(
            **chat, number=2, role="stable", state="ejected", pid=4122, running=0, ejections=1,
            why=str(_ENDED), said=_ENDED.coded(), cost_micros_per_s=16.1, rss_bytes=398_000_000,
        ),
        ReplicaView(
            **common | {"node": ""}, model=seed.EMBEDDING, version=seed.EMBEDDING_VERSION, number=1, role="canary",
            state="waiting", pid=None, slots=64, running=0, why=str(_NO_ROOM), said=_NO_ROOM.coded(),
        ),
        ReplicaView(**chat | {"version": "0"}, number=0, role="warm", state="resting", pid=None, running=0),
    ]  # fmt: skip


async def steps() -> dict[tuple[str, str, int], Fill]:
    """The chat model's first replica has a few conversations in a step; nobody asked the second."""
    return {(seed.CHAT, seed.CHAT_VERSION, 1): Fill("sequences", 3.5, 8)}


def queues() -> dict[tuple[str, str], int]:
    """How many wait for the chat model."""
    return {(seed.CHAT, seed.CHAT_VERSION): 2}


def _training(conn: Any, org_id: str, key: str, file_id: str, status: str, steps: int) -> str:
    order = fine_tuning.Order(
        key_id=key, base=seed.CHAT, base_version=seed.CHAT_VERSION, training_file=file_id, validation_file=None,
        suffix="support", hyperparameters={"n_epochs": 4, "batch_size": 8, "learning_rate_multiplier": 1.0}, seed=7,
        metadata={}, tokens_max=182_400, subscription_id="s", plan_version_id="p",
    )  # fmt: skip
    begun = seed.NOW_MS - 50 * MINUTE
    job = jobs.Job(
        id=new_id("ftjob", begun),
        kind=fine_tuning.KIND,
        org_id=org_id,
        asked=msgspec.structs.asdict(order),
        created_ms=begun,
    )
    jobs.create(conn, job, 100)
    for step in range(1, steps + 1):
        data = {"step": step, "total_steps": 40, "train_loss": round(3.2 / (1 + step / 9), 4)}
        jobs.tell(conn, begun + step * 20_000, job.id, step_words(step, 40, data["train_loss"]), data=data)
    made: dict[str, Any] = {}
    if status == "succeeded":
        made = {"model": f"ft:{seed.CHAT}:northwind:support:4f7a1c20", "trained_tokens": 182_400}
        made["event_id"] = usage.recent_events(conn, org_id, 1)[0].id
    if status == "running":
        jobs.change(conn, job.id, status="running", started_ms=begun)
    else:
        error = (
            {"code": "training_failed", "message": "The training failed (FloatingPointError)."}
            if status == "failed"
            else None
        )
        why = say("tuning.failed", "The training failed ({name}).", name="FloatingPointError")
        words = say("job.failed_free", "{why} It costs nothing.", why=why)
        if error is None:
            words = say("job.done", "The job is done.")
        jobs.end(conn, begun + 20 * MINUTE, job.id, status, words, error=error, **made)
    return job.id


def _batch(conn: Any, org_id: str, key: str, file_id: str, status: str, answered: int) -> str:
    begun = seed.NOW_MS - 30 * MINUTE
    order = batches.Order(
        key_id=key, endpoint="/v1/embeddings", input_file_id=file_id, metadata={}, lines=500,
        expires_ms=begun + batches.WINDOW_MS,
    )  # fmt: skip
    asked = msgspec.structs.asdict(order)
    job = jobs.Job(id=new_id("batch", begun), kind=batches.KIND, org_id=org_id, asked=asked, created_ms=begun)
    jobs.create(conn, job, 100)
    jobs.change(conn, job.id, status="running", started_ms=begun)
    jobs.further(conn, job.id, completed=answered, failed=1)
    if status == "succeeded":
        files_of = {"output_file_id": file_id, "error_file_id": file_id}
        done = say("batch.done", "The batch is done.")
        jobs.end(conn, seed.NOW_MS, job.id, status, done, price_picos=61_200_000_000, **files_of)
    return job.id
