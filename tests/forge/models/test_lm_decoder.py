"""The decoder is Hugging Face's Llama, only faster: same logits, same files; packed documents do not see each other."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from tollway.forge.models import lm, lm_decoder
from tollway.forge.models.lm_decoder import IGNORE, Decoder, Shape
from tollway.forge.models.net import ModelSpec
from tollway.inference import lm_tokenizer
from tollway.inference.language import LanguageFeatures
from tollway.kit.errors import BadRequest

SHAPE = Shape(vocabulary=320, width=32, layers=2, heads=4, kv_heads=2, inner=64, context=64)


@pytest.fixture
def net() -> Decoder:
    made = Decoder(SHAPE)
    made.initialise(3)
    with torch.no_grad():
        for one in made.parameters():
            one.mul_(3)  # a net that has an opinion
    return made.eval()


@pytest.mark.parametrize("tied", [True, False])
def test_huggingface_reads_the_folder_and_says_the_same(tied: bool, tmp_path: Path) -> None:
    net = Decoder(Shape(vocabulary=320, width=32, layers=2, heads=4, kv_heads=2, inner=64, context=64, tied=tied))
    net.initialise(1)
    lm_decoder.save(net, tmp_path, bos=0, eos=0, pad=3)
    hf = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(320, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(net(ids), hf(ids).logits, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(lm_decoder.load(tmp_path)(ids), net(ids))


def test_gradients_are_those_of_huggingface(tmp_path: Path) -> None:
    net = Decoder(SHAPE)
    net.initialise(1)
    lm_decoder.save(net, tmp_path)
    hf = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(320, (2, 21))
    total, count = net.nll(ids[:, :-1], ids[:, 1:])
    (total / count).backward()
    loss = hf(ids, labels=ids).loss
    loss.backward()
    assert float(total / count) == pytest.approx(float(loss), rel=1e-5)
    theirs = dict(hf.named_parameters())
    for name, one in net.named_parameters():
        torch.testing.assert_close(one.grad, theirs[name].grad, atol=1e-5, rtol=1e-3)


def test_documents_of_a_row_do_not_see_each_other(net: Decoder) -> None:
    one, two = torch.randint(320, (1, 9)), torch.randint(320, (1, 14))
    row = torch.cat((one, two), 1)
    segments = torch.tensor([[1] * 9 + [2] * 14])
    with torch.no_grad():
        packed = net(row, segments)
        torch.testing.assert_close(packed[:, :9], net(one), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(packed[:, 9:], net(two), atol=1e-4, rtol=1e-4)


def test_reading_step_by_step_is_reading_at_once(net: Decoder) -> None:
    ids = torch.randint(320, (1, 12))
    past: list[list[torch.Tensor]] = [[] for _ in range(SHAPE.layers)]
    with torch.no_grad():
        parts = [
            net.logits(ids[:, :5], past=past),
            *(net.logits(ids[:, at : at + 1], past=past) for at in range(5, 12)),
        ]
        torch.testing.assert_close(torch.cat(parts, 1), net(ids), atol=1e-4, rtol=1e-4)


def test_a_token_s_likelihood_adds_up_to_the_loss(net: Decoder) -> None:
    ids = torch.randint(320, (2, 13))
    labels = torch.where(torch.rand(2, 12) < 0.5, ids[:, 1:], torch.tensor(IGNORE))
    each, _ = net.token_nll(ids[:, :-1], labels)
    total, count = net.nll(ids[:, :-1], labels)
    assert float(each.sum()) == pytest.approx(float(total.detach()), rel=1e-4)
    assert count == int((labels != IGNORE).sum())


def test_every_problem_of_a_shape_is_named() -> None:
    with pytest.raises(BadRequest, match=r"no even multiple of its 5 heads; 5 heads do not share 2"):
        Shape(vocabulary=320, width=32, heads=5, kv_heads=2)
    config = Shape(vocabulary=320, width=32, heads=4).hf_config() | {
        "hidden_act": "gelu",
        "rope_scaling": {"type": "yarn"},
    }
    with pytest.raises(BadRequest, match=r"hidden_act is 'gelu'.*scaled \(yarn\)"):
        Shape.of_hf(config)


def test_weights_that_do_not_fit_are_named(net: Decoder, tmp_path: Path) -> None:
    lm_decoder.save(net, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 96, "num_hidden_layers": 3}))
    with pytest.raises(BadRequest, match=r"is missing.*and \d+ more"):
        lm_decoder.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(BadRequest, match="damaged"):
        lm_decoder.load(tmp_path)


TEXTS = ["The sea was calm and the ship was slow.", "今天天气很好，我们去海边。", "A whale! A whale!"] * 4


def language_net() -> lm.LanguageNet:
    made = lm_tokenizer.train(TEXTS, vocabulary=300)
    features = LanguageFeatures(
        "language-modeling", {"max_length": 32}, made, lm_tokenizer.config(made, context_tokens=32)
    )
    options = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 0, "inner": 0, "max_length": 32, "tied": True}
    torch.manual_seed(0)
    return lm.create(ModelSpec("llama", "language-modeling", options), features)


def test_scores_do_not_depend_on_the_rows_beside_and_long_texts_are_read_in_windows() -> None:
    net = language_net().eval()
    rows = [{"text": one} for one in (*TEXTS[:3], "whale " * 60, "")]
    together = net.score(rows)
    for row, score in zip(rows, together, strict=True):
        (alone,) = net.score([row])
        assert alone["nll"] == pytest.approx(score["nll"], rel=1e-4)
        assert alone["tokens"] == score["tokens"] == len(net.features.encode([row])[0]["_labels"])


def test_greedy_writing_is_the_features_own_generation_and_chance_needs_a_seed() -> None:
    net = language_net().eval()
    net.features.options["new_tokens"] = 6
    arrays = net.features.collate([{"input_ids": torch.tensor(net.features.ids("The sea")).numpy()}])
    with torch.no_grad():
        slow = net.features.generate(
            lambda given: {
                name: one.numpy() for name, one in net(**{n: torch.from_numpy(a) for n, a in given.items()}).items()
            },
            arrays,
        )
    assert net.features.decode(slow)[0]["text"] == lm.write(net, "The sea", 6)
    warm = [lm.write(net, "The sea", 8, temperature=1.5, top_p=0.9, seed=seed) for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
