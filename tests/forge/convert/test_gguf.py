"""GGUF for the engine: what llama.cpp makes of the file is what torch makes of the net; what it would not be is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.forge.train.nets import desk
from tollway.artifacts import gguf as artifact
from tollway.forge import convert, models, recipe
from tollway.forge.convert import gguf_decoder, gguf_export, gguf_lora, gguf_parity
from tollway.forge.models import adapters, gguf_base, lm, lm_base, lm_gguf_import
from tollway.forge.models.lm_decoder import Shape
from tollway.kit.errors import BadRequest, Conflict

TEXTS = ["The whale swims in the sea, 2026 times.", "def add(a, b):\n    return a + b", "今天天气很好, 我们去公园吧。", "don't stop; it's fine"] * 6


def net_of(kind: str, width: int = 64, **more: object) -> models.Net:
    """A decoder from scratch that has opinions: its weights are larger than training begins with."""
    options = {"width": width, "layers": 2, "heads": 4, "kv_heads": 2, "vocabulary": 420, "max_length": 64, "tokenizer": kind}
    part = recipe.Model(architecture="llama", options=options | more)
    features = models.fit_features(part, "language-modeling", pa.table({"text": TEXTS}))
    net = models.create(part, "language-modeling", features, 5)
    with torch.no_grad():
        for name, one in net.named_parameters():
            one.mul_(1 if "norm" in name else 4)
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("net")
    models.save(net_of("bpe"), made)
    return made


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_engine_reads_cuts_and_writes_like_the_net(kind: str, tmp_path: Path) -> None:
    net = net_of(kind)
    models.save(net, tmp_path)
    place = desk(tmp_path / "desk")
    figures = gguf_export.export(SimpleNamespace(quantise="none", tolerance=None), tmp_path, None, place)
    assert figures["agreement"] >= 0.97 and figures["mean_difference"] < 0.01 and figures["steps"] > 20
    header = artifact.inspect(place.out / "model.gguf")
    assert (header.architecture, header.context_tokens, header.quantisation) == ("llama", 64, "F32")
    assert header.chat_template == net.features.chat_template and header.parameters == net.count()


@pytest.mark.parametrize("precision", ["f16", "bf16", "q8_0", "q5_1", "q4_1", "q4_0", "q4_k_m"])
def test_every_precision_is_what_the_engine_reads(precision: str, tmp_path: Path) -> None:
    """Held against the very numbers that are in the file, read back: what is left is the engine's rounding of activations."""
    net = net_of("bpe", width=256, heads=8)
    models.save(net, tmp_path)
    gguf_decoder.write(tmp_path, tmp_path / "m.gguf", precision)
    assert artifact.inspect(tmp_path / "m.gguf").quantisation.lower() == precision
    back = lm.create_from(net.spec, net.features, gguf_base.import_gguf(tmp_path / "m.gguf", tmp_path / "back")).eval()
    parity = gguf_parity.compare(back, tmp_path / "m.gguf", gguf_export.prompts(net, None))
    assert parity.steps == 96 and parity.agreement > 0.85 and parity.mean_difference < 0.15


def test_a_wrong_conversion_is_caught(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_decoder, "reordered", lambda array, key, shape: array)  # queries and keys left as they are
    place = desk(tmp_path)
    with pytest.raises(Conflict, match="differs from its source"):
        gguf_export.export(SimpleNamespace(quantise="none", tolerance=None), folder, None, place)
    assert not list(place.out.iterdir())


def test_reordering_and_back_is_nothing() -> None:
    weight = np.arange(24 * 5).reshape(24, 5)
    there = gguf_decoder.permute(weight, 3)
    assert not np.array_equal(there, weight) and np.array_equal(lm_gguf_import.unpermute(there, 3), weight)


def test_there_and_back_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    gguf_decoder.write(folder, tmp_path / "m.gguf", "f32")
    back = gguf_base.import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    net = models.load(folder)
    features = type(net.features)("language-modeling", net.features.options, *_read(back))
    again = lm.create_from(net.spec, features, back)
    for name, one in net.state_dict().items():
        assert torch.equal(one, again.state_dict()[name]), name
    for text in TEXTS:
        assert features.ids(text) == net.features.ids(text)


def _read(folder: Path) -> tuple[object, dict]:
    from tollway.inference import vocabulary
    from tollway.inference.language import read_config

    return vocabulary.read(folder), read_config(folder)


def test_a_file_or_a_package_that_was_imported_as_one_is_a_base(folder: Path, tmp_path: Path) -> None:
    file, shelved = tmp_path / "m.gguf", tmp_path / "packages" / "theirs" / "1" / "weights.gguf"
    shelved.parent.mkdir(parents=True)
    gguf_decoder.write(folder, file, "f32")
    shelved.write_bytes(file.read_bytes())
    net = models.load(folder)
    for base in (str(file), "theirs", "theirs@1"):
        part = recipe.Model(base=base)
        models.check(part, "chat", tmp_path)
        features = models.fit_features(part, "language-modeling", pa.table({"text": TEXTS}), tmp_path)
        again = models.create(part, "language-modeling", features, 5, tmp_path)
        assert all(torch.equal(one, again.state_dict()[name]) for name, one in net.state_dict().items())
        with pytest.raises(BadRequest, match="not for text-classification"):
            models.check(part, "text-classification", tmp_path)
    assert len(list((tmp_path / "bases").glob("*"))) == 2, "the same bytes under two names, each read once"
    file.write_bytes(b"junk")
    with pytest.raises(BadRequest, match="does not start with GGUF"):
        models.check(recipe.Model(base=str(file)), "chat", tmp_path)


@pytest.mark.parametrize("cut", [10, 400, -1000])
def test_a_damaged_file_is_no_base_and_leaves_nothing(cut: int, folder: Path, tmp_path: Path) -> None:
    gguf_decoder.write(folder, tmp_path / "m.gguf", "f32")
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "bad.gguf").write_bytes(whole[:cut])
    with pytest.raises(BadRequest):
        gguf_base.import_gguf(tmp_path / "bad.gguf", tmp_path / "back")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bad.gguf", "m.gguf"]


def test_a_tokenizer_without_a_name_in_the_engine_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for change, why in (
        ({"normalizer": {"type": "Lowercase"}}, "rewrites texts"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "no name for"),
        ({"model": {**tokenizer["model"], "type": "WordPiece"}}, "is WordPiece"),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer | change))
        with pytest.raises(BadRequest, match=why):
            gguf_decoder.write(tmp_path, tmp_path / "m.gguf", "f16")
        assert not (tmp_path / "m.gguf").exists()
    with pytest.raises(BadRequest, match="'q3_k' is none of"):
        gguf_decoder.write(folder, tmp_path / "m.gguf", "q3_k")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA on every layer, far enough from nothing to change what is written."""
    base = net_of("bpe")
    torch.manual_seed(2)  # peft draws its half; now and then a draw stands so near a tie that any rounding tips it
    net = adapters.adapt(base, "lora", {"rank": 4, "targets": ["all"], "dropout": 0.0})
    chance = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, one in net.named_parameters():
            if "lora_B" in name:
                one.copy_(torch.randn(one.shape, generator=chance) * 0.05)
    made = tmp_path_factory.mktemp("lora")
    models.save(net, made)
    return made


def test_an_adapter_switched_on_is_the_merged_net_and_switched_off_the_base(lora: Path, folder: Path, tmp_path: Path) -> None:
    gguf_decoder.write(folder, tmp_path / "base.gguf", "f32")
    figures = gguf_export.adapter(lora, tmp_path / "a.gguf", tmp_path / "base.gguf")
    assert figures["agreement"] >= 0.97 and figures["mean_difference"] < 0.02
    base, merged = models.load(folder), models.load(lora)
    prompts = gguf_export.prompts(base, None)
    orders = {"path": str(tmp_path / "base.gguf"), "tokens": 8, "adapters": [str(tmp_path / "a.gguf")]}
    off, on = (
        gguf_parity.run(orders | {"prompts": [{"ids": one, "scales": [scale]} for one in prompts]})["prompts"]
        for scale in (0.0, 1.0)
    )
    for net, other, made in ((base, merged, off), (merged, base, on)):
        near, far = (gguf_parity._differences(one, prompts, made) for one in (net, other))
        assert near.mean_difference < 0.02 < far.mean_difference  # per request: on is one model, off the other


def test_a_recipes_lora_is_a_file_of_its_own_beside_the_merged_model(folder: Path, tmp_path: Path) -> None:
    part = recipe.Model(base=str(folder))
    features = models.fit_features(part, "language-modeling", pa.table({"text": TEXTS}))
    base = models.create(part, "language-modeling", features, 5)
    torch.manual_seed(2)  # as above
    net = adapters.adapt(base, "lora", {"rank": 4, "targets": ["all"], "dropout": 0.0})
    with torch.no_grad():
        for name, one in net.named_parameters():
            if "lora_B" in name:
                one.fill_(0.02)
    models.save(net, tmp_path / "trained")
    place = desk(tmp_path / "desk")
    prepared = SimpleNamespace(task="language-modeling", read=lambda split: pa.table({"text": TEXTS}))
    order = recipe.Convert(formats=["gguf"], quantise="f16", options={"adapter": True})
    found = convert.export(order, tmp_path / "trained", prepared, place)
    assert found["gguf-lora.agreement"] >= 0.97 and found["serve"] == "gguf" and found["gguf-lora.bytes"] < found["gguf.bytes"]
    assert {one.name for one in place.out.glob("*.gguf")} == {"model.gguf", "adapter.gguf"} and not list(place.work.glob("*.gguf"))
    with pytest.raises(Conflict, match="no LoRA to write"):
        convert.export(order, folder, prepared, desk(tmp_path / "other"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "trained biases"),
        ({"modules_to_save": ["lm_head"]}, "replaces lm_head"),
        ({"peft_type": "PREFIX_TUNING"}, "not a LoRA"),
        ({"alpha_pattern": {"q_proj": 3}}, "different strengths"),
    ],
)
def test_what_an_adapter_file_cannot_say_is_refused(change: dict, why: str, lora: Path, tmp_path: Path) -> None:
    config = json.loads((lora / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
    (tmp_path / "adapter_model.safetensors").write_bytes((lora / "adapter_model.safetensors").read_bytes())
    shape = Shape(vocabulary=420, width=64, layers=2, heads=4, kv_heads=2)
    with pytest.raises(BadRequest, match=why):
        gguf_lora.write(tmp_path, tmp_path / "a.gguf", shape)
    with pytest.raises(BadRequest, match="another base"):
        gguf_lora.write(lora, tmp_path / "a.gguf", Shape(vocabulary=420, width=128, layers=2, heads=4))
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.slow
@pytest.mark.skipif(lm_base.importlib.util.find_spec(lm_base.MODULE) is None, reason="SmolLM2 is not installed")
def test_smollm2_in_torch_is_smollm2_in_the_engine(tmp_path: Path) -> None:
    """The packaged 4-bit file, dequantised, against the engine on that very file and on our float16 of it."""
    base = models.base("smollm2", tmp_path)
    assert models.base("smollm2", tmp_path) == base
    part = recipe.Model(base="smollm2")
    asked = [{"messages": [{"role": "user", "content": text}]} for text in ("What is the capital of France?", "Write a poem about the sea.")]
    features = models.fit_features(part, "chat", pa.Table.from_pylist(asked))
    net = lm.create_from(models.ModelSpec("transformers", "chat"), features, base).eval()
    assert lm.write(net, features.write(asked[0]["messages"], ask=True), 20) == "The capital of France is Paris."
    prompts = [one["input_ids"].tolist() for one in features.encode(asked)]
    packaged = Path(lm_base.importlib.util.find_spec(lm_base.MODULE).submodule_search_locations[0]) / lm_base.FILE
    gguf_decoder.write(base, tmp_path / "f16.gguf", "f16")
    for path, most in ((packaged, 0.25), (tmp_path / "f16.gguf", 0.02)):
        parity = gguf_parity.compare(net, path, prompts)
        assert parity.agreement >= 0.9 and parity.mean_difference < most
