"""A Marian folder (two SentencePiece files, one vocabulary) as a base: cut as SentencePiece cuts, trained, exported, and
used there and back to augment texts."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from tollway import inference
from tollway.forge import models
from tollway.forge.convert import exporting
from tollway.forge.recipe import Convert, Model
from tollway.inference import marian
from tollway.kit.errors import BadRequest

PAIRS = [
    (f"the {a} dog sees {b} houses", f"der {a} hund sieht {b} häuser 你好")
    for a in ("old", "new", "red")
    for b in range(12)
]


def spm(texts, size):
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, vocab_size=size, hard_vocab_limit=False, minloglevel=2
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny Marian model as `save_pretrained` leaves it, with random weights."""
    import sentencepiece
    from transformers import MarianConfig, MarianMTModel

    folder = tmp_path_factory.mktemp("marian")
    pieces = ["</s>", "<unk>"]
    for name, texts in (("source", [one for one, _ in PAIRS]), ("target", [two for _, two in PAIRS])):
        (folder / f"{name}.spm").write_bytes(spm(texts, 60))
        read = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        pieces += [read.id_to_piece(at) for at in range(3, read.get_piece_size())]
    pieces = [*dict.fromkeys(pieces), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: at for at, piece in enumerate(pieces)}))
    torch.manual_seed(0)
    size, pad = len(pieces), len(pieces) - 1
    config = MarianConfig(
        vocab_size=size, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, pad_token_id=pad, decoder_start_token_id=pad,
        eos_token_id=0, forced_eos_token_id=0, decoder_vocab_size=size,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


def test_texts_are_cut_as_sentencepiece_cuts_them(base):
    import sentencepiece

    numbers = json.loads((base / "vocab.json").read_text())
    for made, name, column in zip(marian.read(base), ("source", "target"), (0, 1), strict=True):
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(base / f"{name}.spm"))
        for pair in PAIRS:
            text = pair[column]
            wanted = [numbers[piece] for piece in theirs.encode(text, out_type=str)] + [0]
            assert made.encode(text).ids == wanted
            assert made.decode(made.encode(text).ids) == text


@pytest.mark.parametrize("damage", [b"", b"\x0a\xff\xff", b"not a protobuf at all"])
def test_a_damaged_file_is_a_message(base, tmp_path, damage):
    for name in marian.FILES:
        (tmp_path / name).write_bytes((base / name).read_bytes())
    (tmp_path / "source.spm").write_bytes(damage)
    with pytest.raises(BadRequest, match="cannot be read"):
        marian.read(tmp_path)


@pytest.fixture(scope="module")
def net(base):
    rows = [{"source": one, "target": two} for one, two in PAIRS]
    part = Model(base=str(base), options={"max_length": 48})
    features = models.fit_features(part, "translation", pa.Table.from_pylist(rows))
    net = models.create(part, "translation", features, 0).train()
    batch = {
        name: torch.from_numpy(one)
        for name, one in (features.collate(features.encode(rows)) | features.targets(rows)).items()
    }
    learn = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        learn.zero_grad()
        loss, _figures = net.loss(batch)
        loss.backward()
        learn.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    return net.eval()


def test_it_begins_and_ends_as_its_config_says(net):
    assert net.features.start_id == net.hf.config.pad_token_id and net.features.end_id == 0


def test_the_source_is_read_once_and_the_answers_stay_the_same(net):
    """Held against transformers' own greedy search, and the length of what was read against the tokens written."""
    predictor, rows = models.TorchPredictor(net), [{"source": one} for one, _ in PAIRS[:6]]
    read = []
    seen = net.hf.get_encoder().register_forward_hook(
        lambda *call: read.append(call[2].last_hidden_state.shape[:2].numel())
    )
    answers = predictor.predict(rows)
    seen.remove()
    tokens = sum(predictor.tokens(rows))
    longest = max(predictor.tokens(rows))
    assert (
        max(read) <= longest * len(rows)
        and sum(read) <= longest * len(rows) + max(one["tokens"] for one in answers) * 3
    )
    assert tokens > 0
    encoded = net.features.collate(net.features.encode(rows[:1]))
    theirs = net.hf.generate(
        **{name: torch.from_numpy(one) for name, one in encoded.items()}, do_sample=False, num_beams=1, max_length=48, bad_words_ids=None,
        forced_eos_token_id=None,
    )[0].tolist()[1:]  # fmt: skip
    text = net.features.target_tokenizer.decode([one for one in theirs if one != 0])
    assert answers[0]["text"] == text and answers[0]["tokens"] == len(theirs)


def test_the_folder_and_its_onnx_file_answer_as_the_net(net, tmp_path):
    models.save(net, tmp_path / "model")
    rows = [{"source": one} for one, _ in PAIRS[:5]]
    wanted = models.TorchPredictor(net).predict(rows)
    assert models.TorchPredictor(models.load(tmp_path / "model")).predict(rows) == wanted
    table = pa.Table.from_pylist([{"source": one, "target": two} for one, two in PAIRS[:8]])
    prepared = SimpleNamespace(
        task="translation", splits=("train", "test"), read=lambda split, columns=None: table, folder=tmp_path
    )
    desk = SimpleNamespace(out=tmp_path / "out", work=tmp_path, home=tmp_path, seed=0, threads=1, note=print, warn=print,
                           progress=lambda *_, **__: None)  # fmt: skip
    desk.out.mkdir()
    exporting.export(Convert(formats=["onnx"]), tmp_path / "model", prepared, desk)
    served = inference.load(desk.out).predict(rows)
    assert [one["text"] for one in served] == [one["text"] for one in wanted]
    assert np.allclose([one["score"] for one in served], [one["score"] for one in wanted], atol=1e-4)


def test_texts_go_there_and_back_through_two_translation_models(base, net, tmp_path, clock):
    from tests.forge.made import desk as desk_in
    from tollway.artifacts import store
    from tollway.flows import translating
    from tollway.forge.data import augment
    from tollway.kit.errors import NotFound
    from tollway.kit.settings import Settings
    from tollway.shop import Shop

    models.save(net, tmp_path / "model")
    place = desk_in(tmp_path / "desk")
    table = pa.Table.from_pylist([{"source": one, "target": two} for one, two in PAIRS[:8]])
    prepared = SimpleNamespace(
        task="translation", splits=("train", "test"), read=lambda split, columns=None: table, folder=tmp_path
    )
    exporting.export(Convert(formats=["onnx"]), tmp_path / "model", prepared, place)
    texts = pa.table({"text": [one for one, _ in PAIRS[:9]], "label": ["a"] * 9})
    with Shop.open(Settings(tmp_path / "home", environment={})) as shop:
        shop.store.add_package("en-de", place.out, store.About(kind="translation", task="translation"))
        step = f"back-translation:German,there=en-de,back={base}"
        made, told = augment.augment(texts, [step], "text-classification", 7, translating.opener(shop))
        with pytest.raises(NotFound, match="en-fr"):
            augment.augment(
                texts,
                ["back-translation:French,there=en-fr,back=en-de"],
                "text-classification",
                7,
                translating.opener(shop),
            )
    assert told[0].rows + told[0].same == 9 and made.num_rows == 9 + told[0].rows
