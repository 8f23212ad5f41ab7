"""Versions changed under load, with a real gateway and real replicas: the good one is promoted, the bad ones are taken back,
every bill names the version that answered, and no caller meets a change of version as an error.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.proof.house import Answer, Customer, GatewayProcess, make_customer, run_cli, shop_of, start_gateway
from tests.proof.test_several_gateways import several
from tests.serve import tiny_models, tiny_versions
from tollway.flows import release, versions
from tollway.flows.rollout_verdict import RolloutPolicy
from tollway.insight import economics
from tollway.sell import catalog, tables
from tollway.serve.deployments import Record

KINDS = {"1": "equal", "2": "equal", "3": "failing", "4": "slow", "5": "contrary", "6": "unloadable"}
TERMS = catalog.Terms(overage="wallet", charges=(catalog.Charge(meter="requests", price_micros=2_000_000),))


@dataclass
class Stage:
    """A gateway that serves `mood`, and who calls it."""

    home: Path
    customer: Customer
    gateway: GatewayProcess
    word: str  # that version 3 fails on
    answers: list[Answer] = field(default_factory=list)

    async def call(self) -> Answer:
        body = {"model": "mood", "input": f"{self.word} a lovely film"}
        answer = await self.gateway.ask(self.customer.key, body, "/v1/classify")
        self.answers.append(answer)
        return answer

    async def load(self, until: Callable[[], bool], clients: int = 4, within_s: float = 300) -> list[Answer]:
        """Calls until something is so."""
        self.answers, over = [], asyncio.Event()

        async def client() -> None:
            while not over.is_set():
                await self.call()
                await asyncio.sleep(0.004)

        tasks = [asyncio.create_task(client()) for _ in range(clients)]
        try:
            async with asyncio.timeout(within_s):
                while not await asyncio.to_thread(until):
                    await asyncio.sleep(0.1)
        finally:
            over.set()
            await asyncio.gather(*tasks)
        return self.answers

    def start(self, version: str, role: Any = "canary", share: int = 30, **policy: Any) -> Record:
        with shop_of(self.home) as shop:
            return versions.start(
                shop, "mood", version, role, share, RolloutPolicy(**({"promote_after_s": 0} | policy))
            )

    def act(self, work: Callable[..., Any], *given: Any) -> Any:
        with shop_of(self.home) as shop:
            return work(shop, "mood", *given)

    def record(self, id_: str) -> Record:
        return next(one for one in self.act(versions.status).history if one.id == id_)

    def decided(self, made: Record) -> Callable[[], bool]:
        return lambda: not self.record(made.id).running

    def billed(self, since_ms: int = 0) -> dict[str, str]:
        """Request -> the version in its usage event."""
        with shop_of(self.home) as shop, shop.db.read() as conn:
            event = tables.usage_event.c
            found = conn.execute(sa.select(event.request_id, event.model_version).where(event.at_ms >= since_ms))
            return {row.request_id: row.model_version for row in found}

    def replicas(self) -> set[int]:
        """The processes of the engine, found from outside."""
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError):
                if entry.name.isdigit() and b"engines.rows" in (entry / "cmdline").read_bytes():
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    found |= {int(entry.name)} if int(parent) == self.gateway.process.pid else set()
        return found

    def require_honest_bills(self) -> None:
        """What was answered is billed with the version its header named; what was not, is not."""
        billed = self.billed()
        for answer in self.answers:
            if answer.status == 200:
                assert billed[answer.request_id] == answer.headers["x-tollway-model-version"]
            else:
                assert answer.request_id not in billed


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    home = tmp_path_factory.mktemp("home")
    with shop_of(home) as shop:
        made = [
            tiny_versions.shelve(shop.store, tmp_path_factory.mktemp(f"v{number}"), kind)
            for number, kind in KINDS.items()
        ]
        release.deploy(shop, "mood", "1")
    customer = make_customer(home, TERMS, 1_000_000_000)
    one = Stage(home, customer, start_gateway(home, starter=False), tiny_versions.last_word(made[0]))
    yield one
    one.gateway.stop()


@pytest.fixture(autouse=True)
async def back_to_the_first(stage: Stage) -> None:
    """Every test begins with version 1 alone in service, and a gateway that knows it."""
    with shop_of(stage.home) as shop:
        release.deploy(shop, "mood", "1")
        if len(versions.status(shop, "mood").in_service) > 1:
            versions.stop(shop, "mood")
    await _until_all_say(stage, "1")


async def test_a_version_that_fails_is_taken_back_within_seconds(stage: Stage) -> None:
    made = stage.start("3")
    answers = await stage.load(stage.decided(made))
    ended = stage.record(made.id)
    assert (ended.state, stage.act(versions.status).stable) == ("rolled_back", "1")
    assert "calls failed (100 %) against 0 %" in ended.why
    assert ended.ended_ms is not None and ended.ready_ms is not None and ended.ended_ms - ended.ready_ms < 60_000
    stage.require_honest_bills()
    failed = sum(answer.status != 200 for answer in answers)
    metrics = (await stage.gateway.get("/metrics")).body.decode()
    assert 'maas_rollouts_total{model="mood",outcome="roll back"}' in metrics
    assert 0 < failed <= ended.figures["canary"]["stats"]["errors"] + 20  # nobody failed but on the canary
    await _until_all_say(stage, "1")


async def test_a_slow_version_is_taken_back_without_a_failed_call(stage: Stage) -> None:
    made = stage.start("4")
    answers = await stage.load(stage.decided(made))
    assert stage.record(made.id).state == "rolled_back"
    assert "answers within" in stage.record(made.id).why
    assert {answer.status for answer in answers} == {200}


async def test_a_version_of_another_opinion_is_taken_back_by_copies_that_nobody_pays(stage: Stage) -> None:
    made = stage.start("5", share=1, mirror=100, min_agreement=0.9)
    answers = await stage.load(stage.decided(made))
    ended = stage.record(made.id)
    assert ended.state == "rolled_back" and "answers as the stable version's (0 %)" in ended.why
    assert {answer.status for answer in answers} == {200}
    stage.require_honest_bills()
    assert len(stage.billed()) == len(set(stage.billed()) | {answer.request_id for answer in answers})
    with shop_of(stage.home) as shop:

        def shown() -> economics.Report:
            with shop.db.read() as conn:
                now = shop.clock.now_ms()
                return economics.report(conn, economics.machine_price(shop.settings), now - 3_600_000, now)

        await _until(lambda: shown().shadow.shadow_us > 0)  # the machine's hours are written a second after a call
        books = shown()
    parts = books.attributed_micros + books.idle.cost_micros + books.failed.cost_micros + books.shadow.cost_micros
    assert parts == books.hardware_micros


async def test_a_shadow_answers_nobody_and_ends_by_itself(stage: Stage) -> None:
    made = stage.start("2", "shadow", 100, min_calls=20)
    answers = await stage.load(stage.decided(made))
    ended = stage.record(made.id)
    assert ended.state == "ended" and "answers as the stable version's (100 %)" in ended.why
    assert {answer.headers["x-tollway-model-version"] for answer in answers} == {"1"}
    assert ended.figures["agreement"]["compared"] >= 10


async def test_a_version_that_does_not_come_up_is_taken_back_before_it_got_a_call(stage: Stage) -> None:
    made = stage.start("6")
    answers = await stage.load(stage.decided(made), clients=1)
    assert "does not come up" in stage.record(made.id).why
    outright = asyncio.to_thread(run_cli, stage.home, "deploy", "mood", "--version", "6")
    told = asyncio.create_task(outright)
    answers += await stage.load(told.done, clients=1)
    with pytest.raises(RuntimeError, match="mood@6 was taken back: its replica does not come up"):
        await told
    assert stage.act(versions.status).stable == "1"
    assert {(answer.status, answer.headers["x-tollway-model-version"]) for answer in answers} == {(200, "1")}
    assert stage.act(versions.status).history[1].state == "rolled_back"


async def test_an_engine_that_does_not_come_up_is_taken_back(stage: Stage, tmp_path: Path) -> None:
    about = tiny_models.text_classifier(tmp_path / "half")
    (tmp_path / "half" / "model.pt2").write_bytes(b"cut off")
    with shop_of(stage.home) as shop:
        shop.store.add_package("half", tmp_path / "half", about)
    run_cli(stage.home, "deploy", "half", "--plan", "halves", "--price", "requests=1")
    with pytest.raises(RuntimeError, match="half@1 on torch was taken back: its replica does not come up") as told:
        changed = ("--plan", "halves", "--price", "requests=7")
        await asyncio.to_thread(run_cli, stage.home, "deploy", "half", "--engine", "torch", *changed)
    assert "half is answered by version 1 as before" in str(told.value)
    with shop_of(stage.home) as shop:
        found = versions.status(shop, "half")
        (stable,) = found.in_service
        assert not stable.chosen_engine and stable.ready_ms
        assert [one.state for one in found.history] == ["running", "rolled_back", "ended"]
        with shop.db.read() as conn:
            prices = catalog.get_plan(conn, "halves").terms.charges
    assert [one.price_micros for one in prices] == [1_000_000], "what did not come up changes no price"
    answer = await stage.gateway.ask(stage.customer.key, {"model": "half", "input": "lovely"}, "/v1/classify")
    assert answer.status == 200
    run_cli(stage.home, "model", "retire", "half", "--yes")


async def test_a_version_whose_replica_keeps_dying_is_taken_back_at_once(stage: Stage) -> None:
    known = stage.replicas()
    made = stage.start("2", min_calls=10**6)
    await _until(lambda: stage.record(made.id).ready_ms is not None)
    killed: set[int] = set()
    async with asyncio.timeout(300):
        while stage.record(made.id).running:
            for pid in stage.replicas() - known - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            await asyncio.sleep(0.05)
    assert "dying" in stage.record(made.id).why or "does not come up" in stage.record(made.id).why
    assert len(killed) <= 6, "three are enough; one or two more may have come while it was written down"
    assert (await stage.call()).headers["x-tollway-model-version"] == "1"


async def test_a_good_version_gets_its_share_is_promoted_and_taken_back_without_a_failed_call(stage: Stage) -> None:
    """Promotion, and the way back while the version before is warm, both under load."""
    made = stage.start("2", share=25, min_calls=60, grace_s=60)
    share = Counter[str]()

    def promoted() -> bool:
        return stage.act(versions.status).stable == "2"

    await stage.load(promoted)
    record = stage.record(made.id)
    assert record.state == "promoted" and "would have shown" in record.why
    stage.require_honest_bills()
    for request, version in stage.billed(record.ready_ms or 0).items():
        answer = next((one for one in stage.answers if one.request_id == request), None)
        share[version] += answer is not None
    tried = share["1"] + share["2"]
    assert tried > 100
    spread = 4.5 * (0.25 * 0.75 * tried) ** 0.5 + 12  # and those of the moment between decision and change
    assert abs(share["2"] - 0.25 * tried) <= spread
    assert {answer.status for answer in stage.answers} == {200}
    assert {one.role: one.version for one in stage.act(versions.status).in_service} == {"stable": "2", "warm": "1"}

    await stage.load(lambda: stage.answers[-1:] != [] and _answered_by(stage, "2"))
    assert {answer.status for answer in stage.answers} == {200}
    warm = stage.replicas()
    stage.act(versions.back)
    await stage.load(lambda: _answered_by(stage, "1"))
    assert stage.replicas() <= warm, "nothing had to be loaded"
    assert {answer.status for answer in stage.answers} == {200}


async def test_a_restart_in_the_middle_goes_on_with_what_was_measured(stage: Stage) -> None:
    made = stage.start("2", share=50, min_calls=10**6)

    def noted() -> bool:
        figures = stage.record(made.id).figures
        return bool(figures) and figures["canary"]["stats"]["calls"] >= 30

    await stage.load(noted)
    before = stage.record(made.id).figures["canary"]["stats"]["calls"]
    stage.gateway.kill()
    stage.gateway = start_gateway(stage.home, starter=False)
    stage.act(versions.start, "2", "canary", 50, RolloutPolicy(promote_after_s=0, min_calls=before + 30))
    await stage.load(stage.decided(made))
    ended = stage.record(made.id)
    assert ended.state == "promoted"
    assert before + 30 <= ended.figures["canary"]["stats"]["calls"]
    with shop_of(stage.home) as shop, shop.db.read() as conn:
        event = tables.usage_event.c
        since = [event.model_version == "2", event.at_ms >= made.began_ms]
        billed = conn.execute(sa.select(sa.func.count()).where(*since)).scalar_one()
    assert ended.figures["canary"]["stats"]["calls"] <= billed + 5


async def test_the_command_line_says_how_it_goes_and_the_way_back(stage: Stage) -> None:
    said = run_cli(stage.home, "deploy", "mood@2", "--canary", "20%", "--manual", "--min-calls", "10")
    assert [(one["role"], one["version"], one["share"]) for one in said["in_service"]] == [
        ("stable", "1", 0),
        ("canary", "2", 20),
    ]
    assert said["in_service"][1]["ready_ms"]
    said = run_cli(stage.home, "deploy", "promote", "mood")
    assert (said["stable"], said["way_back"]) == ("2", "1")
    said = run_cli(stage.home, "deploy", "mood", "--back")
    assert said["stable"] == "1"
    words = ("deploy", "mood@2", "--blue-green", "--grace", "20s")
    deploying = asyncio.create_task(asyncio.to_thread(run_cli, stage.home, *words))
    await _until(lambda: {one.role for one in stage.act(versions.status).in_service} == {"stable", "warm"})
    said = await deploying
    assert said["version"] == "2" and said["way_back"] == "1"
    await _until(lambda: {one.role for one in stage.act(versions.status).in_service} == {"stable"})
    with pytest.raises(RuntimeError, match="was taken back: its replica"):
        await asyncio.to_thread(run_cli, stage.home, "deploy", "mood@6", "--canary", "5%")
    with shop_of(stage.home) as shop:
        tiny_versions.shelve(shop.store, stage.home / "broken", "unloadable", "gloom")
    with pytest.raises(RuntimeError, match="gloom@1 does not come up"):  # and that in time for the command
        await asyncio.to_thread(run_cli, stage.home, "deploy", "gloom")
    answer = await stage.gateway.ask(stage.customer.key, {"model": "gloom", "input": "a film"}, "/v1/classify")
    assert (answer.status, answer.error["code"]) == (503, "model_failed") and int(answer.headers["retry-after"]) >= 1
    with shop_of(stage.home) as shop:
        ((down, why),) = versions.not_up(shop)
    assert down == "gloom@1" and "does not come up" in why
    run_cli(stage.home, "model", "retire", "gloom", "--yes")


def _answered_by(stage: Stage, version: str) -> bool:
    last = stage.answers[-5:]
    return len(last) == 5 and all(one.headers.get("x-tollway-model-version") == version for one in last)


async def _until_all_say(stage: Stage, version: str) -> None:
    """Ten calls in a row are answered by this version: the gateway has noticed."""
    in_row = 0
    async with asyncio.timeout(180):
        while in_row < 10:
            said = (await stage.call()).headers.get("x-tollway-model-version")
            in_row = in_row + 1 if said == version else 0


async def _until(so: Callable[[], bool], within_s: float = 300) -> None:
    async with asyncio.timeout(within_s):
        while not so():
            await asyncio.sleep(0.1)


async def test_the_same_steps_by_the_operators_api(stage: Stage) -> None:
    boss = make_customer(stage.home, TERMS, name="boss", scopes=("admin",))
    async with asyncio.timeout(180):
        while (await stage.gateway.get("/v1/key", boss.key)).status == 401:
            await asyncio.sleep(0.02)

    async def act(step: str, body: dict[str, Any] | None, status: int = 200) -> Any:
        answer = await stage.gateway.ask(boss.key, body, f"/admin/models/mood/{step}")
        assert answer.status == status, answer.body
        return answer.json

    listed = await stage.gateway.get("/admin/models", boss.key)
    (replica,) = next(one["replicas"] for one in listed.json if one["name"] == "mood")
    assert (replica["role"], replica["state"]) == ("stable", "ready") and replica["cost_micros_per_s"] > 0
    canary = {"version": "2", "role": "canary", "share": 10, "policy": {"min_calls": 10**6, "max_error": 0.02}}
    told = await act("deployments", canary)
    assert [(one["role"], one["version"], one["share"]) for one in told["in_service"]][1:] == [("canary", "2", 10)]
    assert told["in_service"][1]["policy"]["max_error"] == 0.02
    assert (await act("promote", {}))["stable"] == "2"
    assert (await act("back", {}))["stable"] == "1"
    assert (await act("deployments", {"version": "2", "role": "shadow", "share": 5}))["in_service"][1][
        "role"
    ] == "shadow"
    assert len((await act("stop", {}))["in_service"]) == 1
    assert (await act("deployments", None))["history"][0]["state"] == "ended"
    canary = {"version": "2", "role": "canary", "share": 10, "engine": "onnx"}
    assert (await act("deployments", canary))["in_service"][1]["chosen_engine"] == "onnx"
    await act("back", {})
    assert (await act("deployments", {"version": "1", "engine": "onnx"}))["in_service"][0]["chosen_engine"] == "onnx"
    back = await act("back", {})
    assert (back["stable"], back["in_service"][0]["chosen_engine"]) == ("1", "")
    refused = (await act("deployments", canary | {"engine": "torch"}, 400))["error"]
    assert (refused["code"], refused["param"]) == ("unsupported_engine", "engine")
    assert "mood@2 cannot be served on 'torch': its formats are for onnx." in refused["message"]
    with pytest.raises(RuntimeError, match=re.escape(refused["message"].split(". ")[0])):
        run_cli(stage.home, "deploy", "mood@2", "--canary", "10%", "--engine", "torch")
    for wrong, status in (
        ({"version": "9", "role": "canary"}, 404),
        ({"version": "2", "role": "king"}, 400),
        ({"version": "2", "role": "canary", "share": 0}, 400),
        ({"version": "2", "role": "canary", "policy": {"max_error": 7}}, 400),
        ({"version": "2", "role": "canary", "policy": {"nonsense": 1}}, 400),
        ({"version": "1", "role": "canary"}, 409),
    ):
        assert (await act("deployments", wrong, status))["error"]["message"]
    await act("promote", {}, 404)
    assert (await stage.gateway.ask(stage.customer.key, {}, "/admin/models/mood/back")).status == 403


async def test_two_gateways_judge_one_rollout_by_what_both_saw(tmp_path: Path, postgres_url: str) -> None:
    """Each counts its own calls; the figures are the sum, and what is decided holds for both."""
    with shop_of(tmp_path, postgres_url) as shop:
        for number in range(2):
            tiny_versions.shelve(shop.store, tmp_path / f"v{number}", "equal")
        release.deploy(shop, "mood", "1")
    buyer = make_customer(tmp_path, TERMS, 1_000_000_000, database_url=postgres_url)
    body = {"model": "mood", "input": "a lovely film"}
    async with several(tmp_path, postgres_url, 2) as gateways:
        with shop_of(tmp_path, postgres_url) as shop:
            made = versions.start(shop, "mood", "2", "canary", 50, RolloutPolicy(promote_after_s=3600, min_calls=80))

            def now() -> versions.Status:
                return versions.status(shop, "mood")

            def counted() -> list[int]:
                record = next(one for one in now().history if one.id == made.id)
                return [part["canary"]["calls"] for part in record.figures.get("parts", {}).values()]

            answers: list[Answer] = []
            asked = False
            async with asyncio.timeout(300):
                while now().stable != "2":
                    answers += await asyncio.gather(*(one.ask(buyer.key, body, "/v1/classify") for one in gateways * 2))
                    if not asked and len(counted()) == 2 and min(counted()) >= 10:  # one may have the canary long before the other
                        versions.start(shop, "mood", "2", "canary", 50, RolloutPolicy(promote_after_s=0, min_calls=80))
                        asked = True
            record, parts = next(one for one in now().history if one.id == made.id), counted()
            assert (
                len(parts) == 2 and min(parts) >= 10 and sum(parts) == record.figures["canary"]["stats"]["calls"] >= 80
            )
            last = [Answer()] * 2
            async with asyncio.timeout(180):
                while {one.headers.get("x-tollway-model-version") for one in last} != {"2"}:
                    last = [await one.ask(buyer.key, body, "/v1/classify") for one in gateways]
    assert {answer.status for answer in answers + last} == {200}
