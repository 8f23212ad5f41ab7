"""A gateway with two replicas of a model at steady load: one is killed, then the version is swapped; nobody notices, and
the books say what every caller was told."""

import asyncio
import os
import signal
import time
from pathlib import Path

import onnx

from tests.proof import books
from tests.proof.house import Answer, GatewayProcess, make_customer, shop_of, start_gateway
from tests.serve import tiny_models
from tollway.artifacts.store import About
from tollway.flows import release
from tollway.sell.catalog import Charge, Terms

TERMS = Terms(charges=(Charge(meter="input_tokens", price_micros=700_000),))
CALL = {"model": "mood", "input": ["a lovely film", "terrible and boring"]}
CLIENTS = 4
FAILED_MOST = 0.001


def another(folder: Path) -> About:
    """The classifier, with another name inside: another version."""
    about = tiny_models.text_classifier(folder)
    made = onnx.load(str(folder / "model.onnx"))
    made.graph.name = "m2"
    onnx.save(made, str(folder / "model.onnx"))
    return about


def replicas_of(gateway: GatewayProcess) -> set[int]:
    """The processes of the replicas, found from outside."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == gateway.process.pid and b"engines.rows" in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except (OSError, IndexError):
                continue
    return found


async def until(found: object, within_s: float) -> float:
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not found():  # type: ignore[operator]
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_replica_is_killed_and_a_version_swapped_under_load(tmp_path: Path) -> None:
    with shop_of(tmp_path) as shop:
        tiny_models.shelve(shop.store, "mood", tmp_path / "made")
        release.deploy(shop, "mood")
    customer = make_customer(tmp_path, TERMS, 1_000_000_000)
    gateway = start_gateway(
        tmp_path, starter=False, wait=False, env={"TOLLWAY_REPLICAS_MIN": "2", "TOLLWAY_REPLICAS_MAX": "2"}
    )
    answers: list[Answer] = []
    stop = asyncio.Event()

    async def client() -> None:
        while not stop.is_set():
            answers.append(await gateway.ask(customer.key, CALL, "/v1/classify"))
            await asyncio.sleep(0.01)

    try:
        await asyncio.to_thread(gateway.wait_ready)
        await until(lambda: len(replicas_of(gateway)) == 2, 300)
        load = [asyncio.create_task(client()) for _ in range(CLIENTS)]
        await until(lambda: len(answers) >= 100, 300)
        victim = min(replicas_of(gateway))
        os.kill(victim, signal.SIGKILL)
        back_s = await until(lambda: len(replicas_of(gateway) - {victim}) == 2, 300)
        around = len(answers)
        await until(lambda: len(answers) >= around + 100, 300)
        killed, before = len(answers), replicas_of(gateway)
        with shop_of(tmp_path) as shop:
            tiny_models.shelve(shop.store, "mood", tmp_path / "next", another)
            release.deploy(shop, "mood")
        await until(lambda: len(replicas_of(gateway)) == 2 and not replicas_of(gateway) & before, 300)
        swapped_at = len(answers)
        await until(lambda: len(answers) >= swapped_at + 50, 300)
        stop.set()
        await asyncio.gather(*load)
    finally:
        stop.set()
        await asyncio.to_thread(gateway.stop)
    lost = [answer for answer in answers[:killed] if not answer.answered]
    swapped = [answer for answer in answers[killed:] if not answer.answered]
    print(f"{killed} calls around the kill, {len(lost)} failed, its process back in {back_s:.2f} s; "
          f"{len(answers) - killed} around the swap, {len(swapped)} failed")  # fmt: skip
    assert len(answers) > 200
    assert len(lost) <= killed * FAILED_MOST
    assert swapped == []
    noted = books.Noted({a.request_id: books.tokens_stated(a) for a in answers if a.answered})
    with shop_of(tmp_path) as shop:
        found, extra = noted.against(shop.db)
        assert found + books.problems(shop.db, [customer]) == []
        versions = {str(row.model_version) for row in books.events(shop.db).values()}
    assert extra == 0
    assert len(versions) == 2, "every event names the version that answered"
