"""Tuning: what answers like the float model and is cheapest is kept, sealed, served from then on, and can be undone."""

import asyncio
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
import torch
from rich.console import Console

from tests.serve import tiny_models, tiny_versions
from tollway.artifacts import store, tuning
from tollway.faces.cli import model_tune
from tollway.flows import release, tune, tune_candidates, versions
from tollway.flows.tune import Row
from tollway.forge import models as nets
from tollway.forge import recipe
from tollway.forge.convert import gguf_decoder, openvino_lm
from tollway.kit.errors import BadRequest, Conflict
from tollway.kit.settings import Settings
from tollway.serve import assembly, models
from tollway.serve.engines import LlamaCpp
from tollway.serve.fleet import Fleet
from tollway.serve.packages import Packages
from tollway.shop import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    settings = {"replica_slots": 8, "replica_context_tokens": 1024}
    with Shop.open(Settings(tmp_path / "home", settings, environment={})) as shop:
        yield shop


def mood_in_three_formats(shop: Shop, folder: Path) -> store.ModelPackage:
    """The float model, the same as if it were rounded, and one of another opinion."""
    contrary = tiny_versions.shelve(shop.store, folder / "contrary", "contrary", "contrary")
    about = tiny_models.text_classifier(folder / "mood")
    (folder / "mood" / "model.int8.onnx").write_bytes((folder / "mood" / "model.onnx").read_bytes())
    (folder / "mood" / "model.int4.onnx").write_bytes((contrary.folder / "model.onnx").read_bytes())
    return shop.store.add_package("mood", folder / "mood", msgspec.structs.replace(about, serves="onnx-int4"))


def test_a_classifier_moves_to_the_fastest_format_that_answers_like_the_float_one(shop: Shop, tmp_path: Path) -> None:
    package = mood_in_three_formats(shop, tmp_path)
    release.deploy(shop, "mood")
    said: list[str] = []
    made = tune.tune(shop, "mood", quick=True, tell=lambda what, done, total: said.append(what))
    verdicts = {row.format: row.verdict for row in made.rows}
    assert verdicts["onnx-int4"] == "answers too differently"
    assert sorted(verdicts[one] for one in ("onnx", "onnx-int8")) == ["chosen", "passes"]
    chosen = made.rows[0]
    assert chosen.verdict == "chosen" and chosen.agreement == 1.0
    assert chosen.per_second > 0 and chosen.first_ms > 0 and chosen.memory_bytes > 1e6 and chosen.cost_micros > 0
    assert made.choice is not None and made.choice.format == chosen.format
    assert len(said) == 3

    stored = tune.measured(shop, "mood")
    assert [row["format"] for row in stored["tried"]] == [row.format for row in made.rows]
    assert stored["tuned"]["unit"] == "calls"
    shop.store.verify(package, deep=True).require()  # the signed package is as it was
    assert tune.undo(shop, "mood") and not tune.undo(shop, "mood")
    assert tune.measured(shop, "mood") == {}


def test_what_does_not_start_is_out_with_its_reason(shop: Shop, tmp_path: Path) -> None:
    about = tiny_models.text_classifier(tmp_path / "mood")
    (tmp_path / "mood" / "model.int8.onnx").write_bytes((tmp_path / "mood" / "model.onnx").read_bytes())
    (tmp_path / "mood" / "model.int4.onnx").write_bytes(b"no graph at all")
    shop.store.add_package("mood", tmp_path / "mood", about)
    release.deploy(shop, "mood")
    made = tune.tune(shop, "mood", quick=True)
    out = next(one for one in made.rows if one.format == "onnx-int4")
    assert out.verdict == "failed" and out.said["code"] == "replica.did_not_start"
    reason = out.said["figures"]["failure"]
    assert reason["code"] == "replica.engine_words" and reason["figures"]["words"] in out.why
    assert sorted(one.verdict for one in made.rows if one is not out) in (["as it was", "passes"], ["chosen", "passes"])
    assert f"onnx onnx-int4 with {out.threads} threads failed. {out.why}" in printed(made) or out.threads == 1
    stored = next(one for one in tune.measured(shop, "mood")["tried"] if one["format"] == "onnx-int4")
    assert stored["why"] == out.why and json.loads(stored["said"]) == out.said


def printed(made: tune.Tuned) -> str:
    """As the command prints it, on a wide terminal."""
    held = io.StringIO()
    Console(file=held, width=500).print(model_tune.shown(made))
    return held.getvalue()


def test_looking_changes_nothing(shop: Shop, tmp_path: Path) -> None:
    mood_in_three_formats(shop, tmp_path)
    made = tune.tune(shop, "mood", keep=False, quick=True)
    assert made.rows[0].verdict == "chosen" and made.choice is None
    assert tune.measured(shop, "mood") == {}


def test_torch_is_what_the_others_are_held_against_where_it_can_be(shop: Shop, tmp_path: Path) -> None:
    about = tiny_models.text_classifier(tmp_path / "mood")
    tiny_models.in_torch(tmp_path / "mood")
    shop.store.add_package("mood", tmp_path / "mood", about)
    release.deploy(shop, "mood")
    said: list[str] = []
    made = tune.tune(shop, "mood", keep=False, quick=True, tell=lambda what, done, total: said.append(what))
    assert [what.split(" ")[0] for what in said] == ["torch", "onnx"]
    assert {row.engine: row.agreement for row in made.rows} == {"torch": 1.0, "onnx": 1.0}


def test_an_engine_is_chosen_by_its_name_and_the_choice_taken_back(shop: Shop, tmp_path: Path) -> None:
    about = tiny_models.text_classifier(tmp_path / "mood")
    tiny_models.in_torch(tmp_path / "mood")
    shop.store.add_package("mood", tmp_path / "mood", about)
    package = shop.store.get("mood")

    def engine() -> str:
        with shop.db.read() as conn:
            return assembly.engine(models.get_model(conn, "mood"), package, shop.settings).name

    release.deploy(shop, "mood")
    assert engine() == "onnx", "the reference is not served unless asked for"
    release.deploy(shop, "mood", engine="torch")
    assert engine() == "torch"
    with pytest.raises(BadRequest, match="cannot be served on 'openvino': its formats are for onnx, torch"):
        release.deploy(shop, "mood", engine="openvino")
    (stable,) = versions.status(shop, "mood").in_service
    assert stable.chosen_engine == "torch"
    assert tune.undo(shop, "mood") and engine() == "onnx"
    (stable,) = versions.status(shop, "mood").in_service
    assert stable.chosen_engine == "", "nobody is told of an engine that serves it no more"


@pytest.mark.parametrize("form", ["safetensors", "torchscript"])
def test_a_package_of_what_only_the_factory_may_read_is_not_served(form: str, shop: Shop, tmp_path: Path) -> None:
    about = tiny_models.text_classifier(tmp_path / "mood")
    (tmp_path / "mood" / "model.onnx").rename(tmp_path / "mood" / f"model.{form}")
    shop.store.add_package("mood", tmp_path / "mood", about)
    with pytest.raises(Conflict, match=f"has only {form}"):
        release.deploy(shop, "mood")


def test_where_there_is_one_way_only_it_says_so(shop: Shop, tmp_path: Path) -> None:
    tiny_models.shelve(shop.store, "rent", tmp_path / "rent")
    with pytest.raises(Conflict, match="nothing to choose"):
        tune.tune(shop, "rent")
    with shop.db.write() as conn:
        models.offer_upstream(conn, 0, "far", "chat", models.Upstream("http://host/v1", "far"))
    with pytest.raises(Conflict, match="another server"):
        tune.tune(shop, "far")


def row(per_second: float, verdict: str = "", *, own: bool = False) -> Row:
    return Row(engine="e", format=str(per_second), threads=1, per_second=per_second, verdict=verdict, own=own)


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row(10, own=True), row(20), row(90, "answers too differently")], 20),
        ([row(10, own=True), row(10.2)], 10),
        ([row(10, "begins too late", own=True), row(5)], 5),
        ([row(10, "failed"), row(9, "answers too differently")], None),
    ],
    ids=["the fastest that passes", "a little more is noise", "the promise counts for what is served too", "none"],
)
def test_the_cheapest_that_passes_is_chosen(rows: list[Row], best: float | None) -> None:
    shown, found = tune._judged(rows)
    assert (found.per_second if found else None) == best
    if best is not None:
        assert shown[0].per_second == best and shown[0].verdict in ("chosen", "as it was")


def tiny_chat(shop: Shop, folder: Path) -> store.ModelPackage:
    """A small net from scratch that has opinions, as a GGUF package."""
    texts = ["The whale swims in the sea, 2026 times.", "don't stop; it's fine"] * 12
    options = {
        "width": 64,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "vocabulary": 420,
        "max_length": 512,
        "tokenizer": "bpe",
    }
    part = recipe.Model(architecture="llama", options=options)
    net = nets.create(
        part, "language-modeling", nets.fit_features(part, "language-modeling", pa.table({"text": texts})), 5
    )
    with torch.no_grad():
        for name, one in net.named_parameters():
            one.mul_(1 if "norm" in name else 4)
    nets.save(net.eval(), folder)
    gguf_decoder.write(folder, folder / "tiny.gguf", "f16")
    return shop.store.import_gguf(folder / "tiny.gguf", "tiny")


@pytest.mark.parametrize("lose_nothing", [False, True])
def test_what_calls_lose_on_another_engine_is_known_and_can_be_kept(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lose_nothing: bool
) -> None:
    """An engine says what it takes without its weights: they are not written here."""
    monkeypatch.setattr(openvino_lm, "missing", list)
    written: list[str] = []
    monkeypatch.setattr(openvino_lm, "write_all", lambda weights, outs: written.extend(outs))
    package = tiny_chat(shop, tmp_path / "net")
    found, left_out = tune_candidates.of(
        shop.settings, package, tmp_path, quick=True, lose_nothing=lose_nothing, tell=lambda what: None
    )
    lost = {one.choice.engine: one.lost for one in found}
    assert lost["llama_cpp"] == ()
    if lose_nothing:
        assert (lost.keys(), written) == ({"llama_cpp"}, [])
        assert left_out == "OpenVINO was not tried: calls would lose logprobs, logit_bias."
    else:
        assert lost["openvino_genai"] == ("logprobs", "logit_bias") and not left_out
    with_tools = msgspec.structs.replace(package.manifest, template_has_tools=True)
    found, _ = tune_candidates.of(
        shop.settings, dataclasses.replace(package, manifest=with_tools), tmp_path / "net",
        quick=True, lose_nothing=False, tell=lambda what: None,
    )  # fmt: skip
    assert found[-1].lost == ("tools", "logprobs", "logit_bias")


def test_what_is_lost_is_noted_until_the_choice_is_taken_back(shop: Shop, tmp_path: Path) -> None:
    package = mood_in_three_formats(shop, tmp_path)
    rows = [msgspec.structs.replace(row(20, "chosen"), lost=("tools", "logprobs")), row(10, "passes", own=True)]
    made = tune.Tuned(name="mood", version="1", unit="calls", currency="USD", agreement=0.98, first_token_ms=0, rows=rows,
                      choice=None, gain=2)  # fmt: skip
    tune._note(shop, package, made)
    assert tuning.lost(package) == [], "nothing was chosen"
    tuning.keep(shop.store, package, tuning.Choice(engine="onnx", format="onnx-int8", threads=1))
    assert tuning.lost(package) == ["tools", "logprobs"]
    assert tune.undo(shop, "mood") and tuning.lost(package) == []


@pytest.mark.engine
def test_a_language_model_without_openvino_and_what_the_gateway_makes_of_the_choice(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a running fleet takes the choice over, and does not serve weights that somebody changed since."""
    monkeypatch.setattr(openvino_lm, "missing", lambda: ["openvino_genai"])
    package = tiny_chat(shop, tmp_path / "net")
    offered = release.deploy(shop, "tiny")
    made = tune.tune(shop, "tiny", agreement=0.0, quick=True)
    assert {(one.engine, one.format) for one in made.rows} == {("llama_cpp", "gguf-f16"), ("llama_cpp", "gguf-q8_0")}
    assert all(one.per_second > 0 and one.first_ms > 0 for one in made.rows if one.verdict != "failed")
    assert next(one for one in made.rows if one.own).agreement > 0.8
    assert "openvino_genai not installed" in made.left_out and "tollway[openvino]" in made.left_out

    async def served() -> None:
        fleet = Fleet(
            Packages(shop.store, shop.settings), shop.settings, shop.clock, lambda served, replica, state: None
        )
        tuning.forget(package)
        fleet.offer([offered])
        await fleet.wait_ready()
        before = fleet.find("tiny")
        folder = tuning.tuned_folder(package) / "gguf-q8_0"
        folder.mkdir(parents=True)
        gguf_decoder.write(tmp_path / "net", folder / "weights.gguf", "q8_0")
        choice = tuning.Choice(engine="llama_cpp", format="gguf-q8_0", folder="gguf-q8_0", threads=1)
        tuning.keep(shop.store, package, choice)
        fleet.offer([offered])
        await fleet.wait_ready()
        after = fleet.find("tiny")
        assert after is not before and after.tuned and not before.tuned
        engine = after.replica.engine
        assert isinstance(engine, LlamaCpp) and b"gguf-q8_0" in (engine.launch(Path("/tmp/x")).first_line)
        await fleet.close()
        with (folder / "weights.gguf").open("ab") as file:
            file.write(b"!")
        other = Fleet(
            Packages(shop.store, shop.settings), shop.settings, shop.clock, lambda served, replica, state: None
        )
        other.offer([offered])
        async with asyncio.timeout(60):
            while "tiny" not in other.broken:
                await asyncio.sleep(0.02)
        assert "not what was measured" in other.broken["tiny"].message
        await other.close()

    asyncio.run(served())


def test_a_choice_of_another_machine_is_not_followed(shop: Shop, tmp_path: Path) -> None:
    package = mood_in_three_formats(shop, tmp_path)
    kept = tuning.keep(shop.store, package, tuning.Choice(engine="onnx", format="onnx", threads=1))
    assert tuning.choice(package) == kept and tuning.stamp(package)
    tuning.write(package, {"choice": msgspec.to_builtins(msgspec.structs.replace(kept, machine="another"))})
    assert tuning.choice(package) is None
    tuning.require_sound(shop.store, package)
    tuning.write(package, {"choice": msgspec.to_builtins(msgspec.structs.replace(kept, format="onnx-int8"))})
    with pytest.raises(Conflict, match="not what was measured"):
        tuning.require_sound(shop.store, package)


def test_parts_of_the_table_do_not_touch_each_other(shop: Shop, tmp_path: Path) -> None:
    package = mood_in_three_formats(shop, tmp_path)
    tuning.write(package, {"rows": {"lanes": 2}, "tried": [{"format": "onnx", "threads": 2, "options": "a=b"}]})
    tuning.write(package, {"tried": None})
    assert tuning.read(package) == {"rows": {"lanes": 2}}
