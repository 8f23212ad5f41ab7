"""What language models learn from: packed documents, the assistant's words, hidden words, pairs of sentences, preferences."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.forge.train.nets import desk
from tollway.forge import models, recipe
from tollway.forge import train as trainer
from tollway.forge.models import lm_masked
from tollway.forge.train import objectives
from tollway.forge.train.batches import IGNORED, Batches
from tollway.forge.train.objectives.packing import pack, row_length
from tollway.kit.errors import BadRequest, Conflict

SENTENCES = [f"The {size} {animal} {verb} over the {place}. 大海很安静。" for size in ("big", "small") for animal in ("fox", "cat", "whale")
             for verb in ("jumps", "looks") for place in ("hill", "sea")]  # fmt: skip
TINY = {"width": 32, "layers": 2, "heads": 2, "vocabulary": 320, "max_length": 64}


class Rows:
    """Prepared rows in memory."""

    def __init__(self, task: str, rows: list[dict], held: list[dict] = ()) -> None:
        self.task, self.labels, self.tables = task, [], {"train": rows, "validation": list(held), "test": list(held)}

    def rows(self, split: str) -> int:
        return len(self.tables[split])

    def read(self, split: str) -> pa.Table:
        return pa.Table.from_pylist(self.tables[split])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(16, 64))
def test_packing_keeps_every_token_once_and_short_documents_whole(lengths: list[int], room: int) -> None:
    documents = [(np.arange(size) + 1000 * at, np.arange(size) + 1000 * at + 1) for at, size in enumerate(lengths)]
    packed = pack(documents, room, pad_id=-7)
    seen = []
    for row, labels in zip(packed.rows, packed.labels, strict=True):
        assert len(row["input_ids"]) == len(labels) == room
        used = row["segments"] > 0
        assert (labels[~used] == IGNORED).all() and (row["input_ids"][~used] == -7).all()
        assert np.array_equal(labels[used], row["input_ids"][used] + 1)
        for number in range(1, row["segments"].max() + 1):
            piece = row["input_ids"][row["segments"] == number]
            assert len(set(piece // 1000)) == 1 and np.array_equal(np.diff(piece), np.ones(len(piece) - 1))
            assert len(piece) == min(room, lengths[piece[0] // 1000]) or lengths[piece[0] // 1000] > room
        seen += row["input_ids"][used].tolist()
    assert sorted(seen) == sorted(np.concatenate([ids for ids, _ in documents]).tolist())
    assert packed.fill == pytest.approx(len(seen) / (room * len(packed.rows)))
    again = pack(documents, room, pad_id=-7)
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(packed.rows, again.rows, strict=True))


def test_rows_are_no_longer_than_the_longest_document_needs() -> None:
    assert row_length([(np.arange(10), np.arange(10))], 512) == 64
    assert row_length([(np.arange(700), np.arange(700))], 512) == 512


@pytest.mark.slow
def test_pre_training_learns_the_texts_and_leaves_a_folder_that_scores_the_same(tmp_path: Path) -> None:
    rows = Rows("language-modeling", [{"text": one} for one in SENTENCES], [{"text": one} for one in SENTENCES[:4]])
    part = recipe.Model(architecture="llama", options=TINY)
    made = trainer.fit(recipe.Train(steps=25, learning_rate=1e-2, precision="fp32"), part, rows.task, rows, desk(tmp_path))
    net = models.load(made.folder)
    scores = models.TorchPredictor(net).score(rows.tables["test"])
    nll = sum(one["nll"] for one in scores) / sum(one["tokens"] for one in scores)
    assert nll < 3.0  # of ln(320) = 5.8 untrained
    assert made.figures["validation"]["loss"] == pytest.approx(nll, rel=0.02)
    samples = made.figures["samples"]
    assert len(samples) == 4 and all(one["prompt"].strip() and one["text"].strip() for one in samples)
    assert {one["temperature"] for one in samples} == {0.0, 0.8}


def test_rows_that_teach_nothing_stop_the_run(tmp_path: Path) -> None:
    chat = Rows("chat", [{"messages": [{"role": "user", "content": "hello"}]}] * 3)
    part = recipe.Model(architecture="llama", options=TINY)
    with pytest.raises(BadRequest, match="no assistant's turn"):
        trainer.fit(recipe.Train(steps=1), part, "chat", chat, desk(tmp_path))


def preference_net() -> tuple[models.Net, Rows]:
    rows = Rows("preference", [{"prompt": f"Say {n}.", "chosen": f"{n} is fine, 很好.", "rejected": f"No {n}"} for n in ("one", "two", "three", "four")])
    part = recipe.Model(architecture="llama", options=TINY)
    features = models.fit_features(part, "preference", rows.read("train"))
    return models.create(part, "preference", features, 3), rows


def disturbed(net: torch.nn.Module) -> torch.nn.Module:
    """The same net, a little further on."""
    chance, moved = torch.Generator().manual_seed(5), copy.deepcopy(net)
    with torch.no_grad():
        for one in moved.parameters():
            one.add_(torch.randn(one.shape, generator=chance), alpha=0.02)
    return moved


def test_preferences_begin_at_even_and_the_reference_is_the_net_as_it_was() -> None:
    net, rows = preference_net()
    objective = objectives.get("dpo", "preference", beta=0.3)
    batches = Batches(*_material(objective, rows, net), rows=4)
    with pytest.raises(Conflict, match="reference"):
        objective.loss(net, batches.batch([0, 1]))
    objective.begin(net, [batches, None])
    loss, figures = objective.loss(net, batches.batch([0, 1, 2, 3]))
    assert float(loss.detach()) == pytest.approx(np.log(2), abs=1e-5)
    assert figures["margin"] == pytest.approx(0, abs=1e-5)
    margins = [one["margin"] for one in net.score(rows.tables["train"])]
    moved = disturbed(net)
    after = [one["margin"] for one in moved.score(rows.tables["train"])]
    _, figures = objective.loss(moved, batches.batch([0, 1, 2, 3]))
    assert figures["margin"] == pytest.approx(0.3 * np.mean(np.subtract(after, margins)), rel=1e-3)


def _material(objective: object, rows: Rows, net: models.Net) -> tuple[object, object]:
    made = objective.prepare(rows, net.features, "train")
    return made.encoded, made.targets


@pytest.mark.slow
def test_the_preference_loss_is_that_of_trl(tmp_path: Path) -> None:
    """TRL's DPOTrainer on Hugging Face's Llama with the same weights, reference and pairs."""
    import datasets
    import transformers
    from trl import DPOConfig, DPOTrainer

    net, rows = preference_net()
    moved = disturbed(net)
    for place, one in (("reference", net), ("policy", moved)):
        models.save(one, tmp_path / place)
    objective = objectives.get("dpo", "preference", beta=0.3)
    batches = Batches(*_material(objective, rows, net), rows=4)
    objective.begin(net, [batches])
    ours, figures = objective.loss(moved, batches.batch([0, 1, 2, 3]))

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "policy")
    # our rule: nothing is learned after the end of the turn, and a text begins with the first token
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'user' %}<|endoftext|>{% endif %}"
        + tokenizer.chat_template.replace("'<|im_end|>' + '\n'", "'<|im_end|>' + ('\n' if message['role'] == 'user' else '')")
    )
    pairs = [
        {"prompt": [{"role": "user", "content": one["prompt"]}]}
        | {side: [{"role": "assistant", "content": one[side]}] for side in ("chosen", "rejected")}
        for one in rows.tables["train"]
    ]
    hf = [transformers.AutoModelForCausalLM.from_pretrained(tmp_path / place) for place in ("policy", "reference")]
    arguments = DPOConfig(output_dir=str(tmp_path / "trl"), beta=0.3, per_device_train_batch_size=4, use_cpu=True, report_to=[],
                          max_length=None, bf16=False, gradient_checkpointing=False)  # fmt: skip
    peer = DPOTrainer(hf[0], hf[1], args=arguments, train_dataset=datasets.Dataset.from_list(pairs), processing_class=tokenizer)
    batch = next(iter(peer.get_train_dataloader()))
    with torch.no_grad():
        theirs = peer.compute_loss(peer.model.eval(), batch)
    assert float(ours.detach()) == pytest.approx(float(theirs), rel=2e-4)
    assert abs(float(ours.detach()) - np.log(2)) > 1e-3  # the nets differ, so the agreement says something
    assert figures["margin"] != 0


def test_hidden_words_are_a_share_never_special_and_mostly_masks() -> None:
    from tollway.inference import lm_tokenizer
    from tollway.inference.language import LanguageFeatures

    made = lm_tokenizer.train(SENTENCES, vocabulary=320, role="encoder")
    features = LanguageFeatures("language-modeling", {"max_length": 64}, made, lm_tokenizer.config(made, context_tokens=64))
    ids = torch.from_numpy(lm_masked.as_text(features, {"text": " ".join(SENTENCES)})["input_ids"]).repeat(200, 1)
    hidden, labels = lm_masked.hide(ids, features, torch.Generator().manual_seed(1), 0.15)
    asked = labels != IGNORED
    assert not asked[:, [0, -1]].any() and torch.equal(labels[asked], ids[asked]) and torch.equal(hidden[~asked], ids[~asked])
    assert float(asked[:, 1:-1].float().mean()) == pytest.approx(0.15, abs=0.01)
    masks = hidden[asked] == made.token_to_id("[MASK]")
    assert float(masks.float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((hidden[asked] == ids[asked]).float().mean()) == pytest.approx(0.1, abs=0.03)


def test_pairs_follow_each_other_or_come_from_elsewhere() -> None:
    from tollway.inference import lm_tokenizer
    from tollway.inference.language import LanguageFeatures

    texts = [f"Number {n} begins. Number {n} goes on. Number {n} ends." for n in ("one", "two", "three", "four", "five", "six")] * 6
    made = lm_tokenizer.train(texts, vocabulary=320, role="encoder")
    features = LanguageFeatures("language-modeling", {"max_length": 48}, made, lm_tokenizer.config(made, context_tokens=48))
    rows = Rows("language-modeling", [{"text": one} for one in [*texts, "One sentence only"]])
    objective = objectives.get("next-sentence", "language-modeling")
    material = objective.prepare(rows, features, "train")
    assert len(material) == len(texts)  # the last one cannot be cut
    assert 0 < sum(material.targets["next"]) < len(texts)
    for row, foreign in zip(material.encoded, material.targets["next"], strict=True):
        ids, kinds = row["input_ids"], row["token_type_ids"]
        first, second = (features.tokenizer.decode(ids[kinds == kind].tolist()) for kind in (0, 1))
        assert len(ids) <= 48 and first.split()[1] == first.split()[-2 if first.endswith("ends.") else 1]
        if not foreign:
            assert first.split()[1] == second.split()[1]
    with pytest.raises(BadRequest, match="several sentences"):
        objective.prepare(Rows("language-modeling", [{"text": "Only one"}]), features, "train")


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["masked", "next-sentence"])
def test_an_encoder_pre_trained_here_is_a_base(objective: str, tmp_path: Path) -> None:
    import transformers

    texts = [{"text": " ".join(SENTENCES[at : at + 3])} for at in range(len(SENTENCES) - 2)] * 3
    rows = Rows("language-modeling", texts, texts[:6])
    part = recipe.Model(architecture="bert", options=TINY | {"max_length": 128})
    made = trainer.fit(recipe.Train(steps=50, learning_rate=5e-3, objective=objective, precision="fp32"), part, rows.task, rows, desk(tmp_path))
    scores = models.load(made.folder).score(rows.tables["test"])
    assert sum(one["nll"] for one in scores) / sum(one["tokens"] for one in scores) < 4.5  # of 5.8 untrained
    shares = [one["share"] for one in scores]  # of the words, so that bits are those of the bytes asked for
    assert all(0 <= one < 0.5 for one in shares) and 0.05 < sum(shares) / len(shares) < 0.3
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(made.folder, num_labels=2)
    name = "bert.encoder.layer.0.output.dense.weight"
    saved = models.load(made.folder).state_dict()[name]
    torch.testing.assert_close(classifier.state_dict()[name], saved)
    kinds = Rows("text-classification", [{"text": one, "label": str("fox" in one)} for one in SENTENCES])
    part = recipe.Model(base=str(made.folder), options={"max_length": 48})
    fitted = trainer.fit(recipe.Train(steps=1, learning_rate=1e-9, precision="fp32"), part, kinds.task, kinds, desk(tmp_path / "after"))
    below = {key.split("bert.", 1)[-1]: one for key, one in models.load(fitted.folder).state_dict().items()}
    torch.testing.assert_close(below[name.removeprefix("bert.")], saved, atol=1e-6, rtol=0)


def test_smoothing_of_preferences_and_wrong_strengths() -> None:
    with pytest.raises(BadRequest, match="beta"):
        objectives.get("dpo", "preference", beta=0.0)
    with pytest.raises(BadRequest, match="share"):
        objectives.get("masked", "language-modeling", share=1.5)
    assert SimpleNamespace(**vars(objectives.get("dpo", "preference"))).beta == 0.1
