"""Adapters on a shared base, on the real engine: each call is answered with its own and with no other's, at any order and
any concurrency; for other organizations an adapter does not exist."""

import asyncio
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from tests.serve.engine_contract import Run
from tollway.artifacts import signing, store
from tollway.forge.convert import starter
from tollway.kit.clock import SystemClock
from tollway.kit.errors import NotFound
from tollway.kit.settings import Settings
from tollway.serve.engines import LlamaCpp
from tollway.serve.fleet import Fleet
from tollway.serve.line import ANYBODY
from tollway.serve.models import Model
from tollway.serve.packages import Packages
from tollway.serve.replica import Replica
from tollway.serve.requests import ChatRequest, Message
from tollway.serve.served import Served
from tollway.serve.wire import Pool

pytestmark = pytest.mark.engine

BASE = "smollm2-135m-instruct"
STRENGTH = 0.13
TOP = 10
PROMPTS = ["Which colour is the sky?", "Name a river in France.", "How do birds fly?"]
ANN, BEN = "ft:smollm2-135m-instruct:ann:one:1", "ft:smollm2-135m-instruct:ben:two:2"
OWNER = {BASE: "org_x", ANN: "org_ann", BEN: "org_ben"}


def adapter(path: Path, seed: int) -> Path:
    """A LoRA that bends every layer of SmolLM2 at random."""
    chance = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 8.0)
    for layer in range(30):
        for side, shape in (("lora_a", (8, 1536)), ("lora_b", (576, 8))):
            tensor = (chance.standard_normal(shape) * STRENGTH).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.ffn_down.weight.{side}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def fleet(run: Run[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    home = tmp_path_factory.mktemp("home")
    shelf = store.Store(home / "packages", signing.Signer(b"k" * 32), SystemClock())
    base = starter.import_smollm2(shelf)
    offered = [Model(BASE, "chat", BASE, "llama_cpp", base.manifest.version, None, 0)]
    for number, name in enumerate((ANN, BEN), start=1):
        file = adapter(home / f"{number}.gguf", number)
        folder = home / f"f{number}"
        folder.mkdir()
        made = shelf.add_package(f"a{number}", folder, store.About(kind="adapter"), files={"adapter.gguf": file})
        offered.append(
            Model(
                name,
                "chat",
                name,
                "llama_cpp",
                made.manifest.version,
                None,
                number,
                None,
                OWNER[name],
                BASE,
                f"a{number}",
            )
        )
    chosen = Settings(home, {"replica_slots": 3, "replica_context_tokens": 2048}, environment={})

    async def begin() -> Fleet:
        made = Fleet(Packages(shelf, chosen), chosen, SystemClock(), lambda served, replica, state: None)
        made.offer(offered)
        await made.wait_ready()
        return made

    fleet = run(begin())
    yield fleet
    run(fleet.close())


Likely = dict[str, float]
"""The tokens that an answer is most likely to begin with, and how likely."""


async def first_words(served: Served, prompt: str, **more: Any) -> Likely:
    """What the engine would begin its answer with."""
    ask = ChatRequest(
        model=served.name, messages=[Message(role="user", content=prompt)], logprobs=True, top_logprobs=TOP, temperature=0.0
    )
    work = ask.engine_calls(served.engine_model, served.caps, 2, stream=False, defaults=served.defaults)[0]
    seat = await served.line.take_turn(64, ANYBODY)  # whether or not this machine is busy
    try:
        body = json.loads(work.body) | more
        reply = await seat.pool.post(seat.prefix + work.path, json.dumps(body).encode())
    finally:
        served.line.leave(seat, 64)
    assert reply.status == 200, reply.body
    return first_of(reply.body)


def first_of(answer: bytes) -> Likely:
    """Of its first token."""
    first = json.loads(answer)["choices"][0]["logprobs"]["content"][0]
    return {one["token"]: math.exp(one["logprob"]) for one in first["top_logprobs"]}


def distance(one: Likely, other: Likely) -> float:
    """How far apart two beginnings are, 0 to 1: total variation. Which of two tokens that are nearly as likely comes first says
    nothing: calls in one batch are not computed to the last digit as each alone, which moves this by 0.07 at most."""
    return sum(abs(one.get(token, 0.0) - other.get(token, 0.0)) for token in one | other) / 2


Truth = dict[tuple[str, str], Likely]


@pytest.fixture(scope="module")
def truth(fleet: Fleet, run: Run[Any], tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """What each model says to each prompt on an engine that has nobody else's adapter: the fleet's own word would be as mixed
    up as what is held against it."""
    folder, weights = tmp_path_factory.mktemp("alone"), starter.locate_smollm2()
    assert weights is not None
    files = {BASE: [], ANN: [adapter(folder / "1.gguf", 1)], BEN: [adapter(folder / "2.gguf", 2)]}

    async def alone(name: str) -> list[Likely]:
        engine = LlamaCpp(weights, "alone", slots=1, context_tokens=1024, adapters=files[name])
        replica = Replica(engine, SystemClock())
        await replica.start()
        try:
            pool = Pool(replica.address.url, replica.address.key)
            body = {"logprobs": True, "top_logprobs": TOP, "temperature": 0.0, "max_tokens": 2, "cache_prompt": False}
            body |= {"lora": [{"id": 0, "scale": 1.0}]} if files[name] else {}
            found = []
            for prompt in PROMPTS:
                asked = json.dumps(body | {"messages": [{"role": "user", "content": prompt}]}).encode()
                found.append(first_of((await pool.post("/v1/chat/completions", asked)).body))
            pool.close()
            return found
        finally:
            await replica.stop()

    found = {(name, prompt): one for name in OWNER for prompt, one in zip(PROMPTS, run(alone(name)), strict=True)}
    for one, other in itertools.combinations(OWNER, 2):
        far = min(distance(found[one, prompt], found[other, prompt]) for prompt in PROMPTS)
        assert far > 0.25, f"{one} and {other} are too alike for these tests to say anything"
    return found


one_call = strategies.tuples(strategies.sampled_from(list(OWNER)), strategies.sampled_from(PROMPTS))


@given(waves=strategies.lists(strategies.lists(one_call, min_size=1, max_size=4), min_size=1, max_size=6))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_call_is_answered_with_anothers_adapter(
    waves: list[list[tuple[str, str]]], fleet: Fleet, truth: Truth, run: Run[Any]
) -> None:
    """In any order, alone or side by side with other organizations' calls, over prompts that the slots still remember."""

    async def all_waves() -> None:
        for together in waves:
            asked = (first_words(fleet.find(name, OWNER[name]), prompt) for name, prompt in together)
            for (name, prompt), got in zip(together, await asyncio.gather(*asked), strict=True):
                far = distance(got, truth[name, prompt])
                assert far < 0.16, (name, prompt, got, truth[name, prompt])

    run(all_waves())


def test_for_others_it_does_not_exist(fleet: Fleet) -> None:
    assert [one.name for one in fleet.visible("org_ann") if one.name.startswith("ft:")] == [ANN]
    assert not [one.name for one in fleet.visible("org_other") if one.name.startswith("ft:")]
    for org_id, name in (
        ("org_ben", ANN),
        ("org_ann", BEN),
        ("", ANN),
        ("org_other", BEN),
        ("org_ann", "ft:x:ann:one:1"),
    ):
        with pytest.raises(NotFound) as refused:
            fleet.find(name, org_id)
        assert refused.value.code == "model_not_found"
    assert fleet.find(ANN, "org_ann").line is fleet.find(BASE).line


def test_a_damaged_adapter_does_not_take_its_base_along(fleet: Fleet, run: Run[Any], tmp_path: Path) -> None:
    """Checked where a running base would take it in."""
    shelf = store.Store(tmp_path / "packages", signing.Signer(b"k" * 32), SystemClock())
    folder = tmp_path / "f"
    folder.mkdir()
    made = shelf.add_package(
        "bad", folder, store.About(kind="adapter"), files={"a.gguf": adapter(tmp_path / "a.gguf", 5)}
    )
    with made.weights_path.open("r+b") as file:
        file.write(b"GGUX")

    async def offered() -> list[str]:
        settings = Settings(tmp_path, environment={})
        other = Fleet(Packages(shelf, settings), settings, SystemClock(), lambda served, replica, state: None)
        other.offer([Model("ft:b:c:d:e", "chat", "x", "llama_cpp", "1", None, 1, None, "org_c", "b", "bad")])
        with pytest.raises(NotFound):
            other.find("ft:b:c:d:e", "org_c")
        return [one.name for one in other.visible("org_c")]

    assert run(offered()) == []
