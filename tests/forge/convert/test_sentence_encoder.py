"""Conversion of the packaged sentence encoder: the same tokens, the same vectors, and no file when they differ."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from tollway.artifacts import gguf
from tollway.forge import convert
from tollway.forge.convert import sentence_encoder, starter
from tollway.forge.convert.bert_reference import Reference
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest
from tollway.serve.engines import LlamaCpp
from tollway.serve.replica import Replica
from tollway.serve.wire import Pool

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def folder() -> Path:
    found = starter.locate_minilm()
    assert found is not None, "the starter model is not installed: make setup"
    return found


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> convert.Converted:
    return convert.sentence_encoder_to_gguf(folder, tmp_path_factory.mktemp("gguf") / "minilm.gguf")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    source = sentence_encoder.Source.read(folder)
    return Reference(source.config, source.vocabulary, source.tensors)


def test_it_agrees_with_its_source_on_every_text(made: convert.Converted) -> None:
    assert made.parity["texts"] == 16
    assert 0.9999 < float(made.parity["cosine_min"]) <= float(made.parity["cosine_mean"]) <= 1.000001


def test_the_file_says_what_it_is(made: convert.Converted) -> None:
    header = gguf.inspect(made.path)
    assert (header.architecture, header.quantisation, header.tokenizer) == ("bert", "F16", "bert")
    assert (header.context_tokens, header.embedding_length, header.block_count) == (512, 384, 6)
    assert (header.vocabulary, header.pooling, header.chat_template) == (30522, 1, "")
    assert 22_000_000 < header.parameters < 23_000_000


def test_converting_again_gives_the_same_bytes(made: convert.Converted, folder: Path, tmp_path: Path) -> None:
    again = convert.sentence_encoder_to_gguf(folder, tmp_path / "again.gguf")
    assert again.path.read_bytes() == made.path.read_bytes()


def test_the_engine_cuts_texts_into_the_same_tokens(made: convert.Converted, reference: Reference) -> None:
    texts = [*sentence_encoder.PARITY_TEXTS, "##ing un##break [x]", "a\tb\u00a0c\u3000d", "🙂 emoji", "İstanbul ﬁ ½ №5"]

    async def tokenized() -> list[list[int]]:
        replica = Replica(LlamaCpp(made.path, "m", kind="embedding", model_context_tokens=512), SystemClock())
        await replica.start()
        pool = Pool(replica.address.url)
        try:
            replies = [
                await pool.post("/tokenize", json.dumps({"content": t, "add_special": True}).encode()) for t in texts
            ]
            return [json.loads(reply.body)["tokens"] for reply in replies]
        finally:
            pool.close()
            await replica.stop()

    for text, tokens in zip(texts, asyncio.run(tokenized()), strict=True):
        assert tokens == reference.tokens(text), text


def test_the_reference_knows_likeness(reference: Reference) -> None:
    texts = ("How do I cancel my subscription?", "I want to end my plan", "Bananas are yellow")
    a, b, c = (reference.embed(text) for text in texts)
    assert float(a @ b) > 0.3 > 0.1 > float(a @ c)


def test_a_conversion_that_changes_the_model_is_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted fault: the vocabulary is written with another sign for word starts, so the engine finds no word."""
    monkeypatch.setattr(sentence_encoder, "_WORD_START", "_")
    with pytest.raises(BadRequest, match="disagrees with its source: cosine"):
        convert.sentence_encoder_to_gguf(folder, tmp_path / "wrong.gguf")
    assert not list(tmp_path.iterdir())


def test_what_is_no_encoder_is_refused_with_all_reasons(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot be read"):
        convert.sentence_encoder_to_gguf(tmp_path / "none", tmp_path / "x.gguf")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    (copy / "model.safetensors").symlink_to(folder / "model.safetensors")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"hidden_act": "relu", "vocab_size": 7}))
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(BadRequest) as refused:
        convert.sentence_encoder_to_gguf(copy, tmp_path / "x.gguf")
    for reason in ("hidden_act", "mean", "vocabulary"):
        assert reason in refused.value.message
    (copy / "config.json").write_text("[")
    with pytest.raises(BadRequest):
        convert.sentence_encoder_to_gguf(copy, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_a_truncated_weight_file_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1_000_000])
    with pytest.raises(BadRequest, match="cannot be read"):
        convert.sentence_encoder_to_gguf(copy, tmp_path / "x.gguf")
