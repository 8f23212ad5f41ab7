"""The shelf: imports are whole and happen once, every tampering is refused before use, no name leads off the shelf."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import gguf as official
import msgspec
import numpy
import pytest

from tollway.artifacts import manifest as manifests
from tollway.artifacts import store
from tollway.artifacts.manifest import Lineage, Source
from tollway.artifacts.signing import Signer
from tollway.kit.clock import ManualClock
from tollway.kit.errors import BadRequest, Conflict, NotFound

SIGNER = Signer(b"k" * 32)


def tiny(path: Path, value: float = 1.0, arch: str = "llama", template: str = "{{ tools }}") -> Path:
    writer = official.GGUFWriter(path, arch)
    writer.add_name("Tiny Model")
    writer.add_license("mit")
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    if arch == "bert":
        writer.add_pooling_type(official.PoolingType.MEAN)
    else:
        writer.add_chat_template(template)
    writer.add_token_list([f"token {number}" for number in range(40)])
    writer.add_tensor("token_embd.weight", numpy.full((40, 32), value, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def shelf(tmp_path: Path) -> store.Store:
    return store.Store(tmp_path / "packages", SIGNER, ManualClock())


@pytest.fixture
def package(shelf: store.Store, tmp_path: Path) -> store.ModelPackage:
    return shelf.import_gguf(tiny(tmp_path / "tiny.gguf"), "tiny")


def test_an_import_describes_signs_and_keeps_the_weights(
    shelf: store.Store, package: store.ModelPackage, tmp_path: Path
) -> None:
    found = shelf.get("tiny").manifest
    assert found == package.manifest
    assert (found.name, found.version, found.kind, found.title) == ("tiny", "1", "chat", "Tiny Model")
    assert (found.architecture, found.parameters, found.context_tokens, found.licence) == ("llama", 1280, 256, "mit")
    assert (found.has_chat_template, found.template_has_tools, found.vocabulary) == (True, True, 40)
    assert (found.created, found.signed_by) == ("2026-01-01T00:00:00Z", SIGNER.key_id)
    assert found.source.file == "tiny.gguf"
    assert package.weights_path.read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    assert "Tiny Model" in (package.folder / "card.md").read_text()
    assert shelf.verify(package, deep=True).ok


def test_an_encoder_is_known_by_its_pooling(shelf: store.Store, tmp_path: Path) -> None:
    found = shelf.import_gguf(tiny(tmp_path / "e.gguf", arch="bert"), "e").manifest
    assert (found.kind, found.embedding_dimensions, found.has_chat_template) == ("embedding", 32, False)


def test_the_same_weights_are_the_same_version_and_others_the_next(shelf: store.Store, tmp_path: Path) -> None:
    first = shelf.import_gguf(tiny(tmp_path / "a.gguf", 1.0), "m")
    assert shelf.import_gguf(tiny(tmp_path / "renamed.gguf", 1.0), "m") == first
    second = shelf.import_gguf(tiny(tmp_path / "b.gguf", 2.0), "m")
    assert (first.ref, second.ref, shelf.get("m").ref, shelf.get("m", "1").ref) == ("m@1", "m@2", "m@2", "m@1")
    assert shelf.import_gguf(tmp_path / "a.gguf", "other").ref == "other@1"
    assert [p.ref for p in shelf.list()] == ["m@1", "m@2", "other@1"]


def test_a_damaged_copy_does_not_pass_for_the_same_version(
    shelf: store.Store, package: store.ModelPackage, tmp_path: Path
) -> None:
    with package.weights_path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    again = shelf.import_gguf(tmp_path / "tiny.gguf", "tiny")
    assert again.ref == "tiny@2"
    assert shelf.verify(again, deep=True).ok


def test_a_removed_number_is_never_given_again(shelf: store.Store, tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        shelf.import_gguf(tiny(tmp_path / "a.gguf", value), "m")
    shelf.remove("m", "2")
    assert shelf.get("m").ref == "m@1"
    assert shelf.import_gguf(tiny(tmp_path / "a.gguf", 3.0), "m").ref == "m@3"
    shelf.remove("m", "1")
    shelf.remove("m", "3")
    assert not shelf.list()
    assert shelf.import_gguf(tiny(tmp_path / "a.gguf", 3.0), "m").ref == "m@4"
    with pytest.raises(NotFound):
        shelf.remove("m", "3")


def test_versions_are_counted_not_spelled(shelf: store.Store, tmp_path: Path) -> None:
    for value in range(11):
        shelf.import_gguf(tiny(tmp_path / "a.gguf", float(value)), "m")
    assert shelf.get("m").ref == "m@11"


def test_progress_is_told_to_the_end(shelf: store.Store, tmp_path: Path) -> None:
    path = tiny(tmp_path / "a.gguf")
    seen: list[tuple[int, int]] = []
    shelf.import_gguf(path, "m", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_an_import_that_fails_leaves_nothing(shelf: store.Store, tmp_path: Path) -> None:
    path = tiny(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(BadRequest, match="cut short"):
        shelf.import_gguf(path, "m")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shelf.import_gguf(tiny(tmp_path / "b.gguf"), "m", progress=stop)
    assert not [entry for entry in shelf.root.iterdir() if entry.name != ".lock"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"GGUF"])
def test_what_is_no_model_is_a_bad_request(content: bytes, shelf: store.Store, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(BadRequest):
        shelf.import_gguf(tmp_path / "x.gguf", "m")
    with pytest.raises(BadRequest):
        shelf.import_gguf(tmp_path / "none.gguf", "m")
    with pytest.raises(BadRequest):
        shelf.import_gguf(tmp_path, "m")


def test_weights_that_are_not_the_announced_ones_are_refused(shelf: store.Store, tmp_path: Path) -> None:
    about = store.About(source=Source(package="p 1", file="a.gguf", sha256="0" * 64))
    with pytest.raises(BadRequest, match="not the file it should be"):
        shelf.import_gguf(tiny(tmp_path / "a.gguf"), "m", about)
    assert not shelf.list()


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", ".hidden", "-x", "a\0", "x" * 101, "é", "a b"])
def test_names_that_are_no_names_reach_no_file(name: str, shelf: store.Store, tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        shelf.import_gguf(tiny(tmp_path / "a.gguf"), name)
    with pytest.raises(BadRequest):
        shelf.get(name)
    with pytest.raises(BadRequest):
        shelf.remove(name, "1")


@pytest.mark.parametrize("version", ["..", "../tiny/1", "1/..", "01", "0", "x", "", "1\0"])
def test_versions_that_are_no_versions_reach_no_file(
    version: str, shelf: store.Store, package: store.ModelPackage
) -> None:
    if version:
        with pytest.raises(NotFound):
            shelf.get("tiny", version)
    with pytest.raises(NotFound):
        shelf.remove("tiny", version)
    assert shelf.verify(package, deep=True).ok


# -- tampering ---------------------------------------------------------------------------------------------------------


def flip_one_byte(folder: Path) -> None:
    data = bytearray((folder / "weights.gguf").read_bytes())
    data[-10] ^= 1
    (folder / "weights.gguf").write_bytes(data)


def edit_manifest(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def resign(folder: Path, signer: Signer) -> None:
    manifest = manifests.decode((folder / "manifest.toml").read_text())
    manifest = msgspec.structs.replace(manifest, licence="none")
    digest = manifests.digest_of(manifest)
    manifest = msgspec.structs.replace(manifest, digest=digest, signed_by=signer.key_id, signature=signer.sign(digest))
    (folder / "manifest.toml").write_text(manifests.encode(manifest))


def link_weights(folder: Path) -> None:
    outside = folder.parent.parent / "outside.gguf"
    (folder / "weights.gguf").rename(outside)
    (folder / "weights.gguf").symlink_to(outside)


TAMPERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit": (flip_one_byte, "weights.gguf was changed"),
    "the card": (lambda f: (f / "card.md").write_text("nothing to see"), "card.md was changed"),
    "cut": (lambda f: os.truncate(f / "weights.gguf", 100), "weights.gguf was changed"),
    "missing": (lambda f: (f / "weights.gguf").unlink(), "weights.gguf is missing"),
    "renamed": (lambda f: (f / "weights.gguf").rename(f / "w.gguf"), "weights.gguf was renamed to w.gguf"),
    "extra": (lambda f: (f / "setup.py").write_text("x"), "setup.py does not belong"),
    "hidden extra": (lambda f: (f / ".gitattributes").write_text("x"), ".gitattributes does not belong"),
    "extra in a folder": (
        lambda f: ((f / ".git").mkdir(), (f / ".git" / "evil.py").write_text("x")),
        ".git/evil.py does not belong",
    ),
    "empty folder": (lambda f: (f / "empty").mkdir(), "the folder empty is empty"),
    "link": (link_weights, "weights.gguf is a link"),
    "extra link": (lambda f: (f / "l").symlink_to("/etc/passwd"), "l is a link"),
    "pipe": (lambda f: os.mkfifo(f / "p"), "p is a link or a special file"),
    "edited manifest": (lambda f: edit_manifest(f, 'licence = "mit"', 'licence = "none"'), "manifest was changed"),
    "signed by another": (lambda f: resign(f, Signer(b"x" * 32)), "not signed by this shop"),
    "unsigned": (lambda f: edit_manifest(f, "signature = ", 'signature = "" # '), "not signed by this shop"),
}


@pytest.mark.parametrize("tamper", TAMPERS)
def test_tampering_is_refused(tamper: str, shelf: store.Store, package: store.ModelPackage) -> None:
    act, expected = TAMPERS[tamper]
    assert shelf.verify(package).hashed_bytes == 0  # the notes of the import are in force: they must not hide it
    act(package.folder)
    verdict = shelf.verify(shelf.get("tiny"))
    assert expected in "; ".join(verdict.problems)
    with pytest.raises(Conflict, match="not what was signed"):
        verdict.require()
    assert not shelf.audit()[0].ok


def test_all_problems_come_at_once(shelf: store.Store, package: store.ModelPackage) -> None:
    for tamper in ("one bit", "the card", "extra", "empty folder", "pipe"):
        TAMPERS[tamper][0](package.folder)
    assert len(shelf.verify(package).problems) == 5


def test_an_older_version_in_the_place_of_a_newer_is_refused(shelf: store.Store, tmp_path: Path) -> None:
    old = shelf.import_gguf(tiny(tmp_path / "a.gguf", 1.0), "m")
    new = shelf.import_gguf(tiny(tmp_path / "a.gguf", 2.0), "m")
    shutil.rmtree(new.folder)
    shutil.copytree(old.folder, new.folder)
    with pytest.raises(Conflict, match="m@1, in the place of m@2"):
        shelf.get("m")
    assert [verdict.ok for verdict in shelf.audit()] == [True, False]
    assert [p.ref for p in shelf.list()] == ["m@1"]


def test_a_package_that_is_a_link_is_refused(shelf: store.Store, package: store.ModelPackage, tmp_path: Path) -> None:
    package.folder.rename(tmp_path / "elsewhere")
    package.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict, match="link"):
        shelf.get("tiny")
    shelf.remove("tiny", "1")
    assert (tmp_path / "elsewhere" / "weights.gguf").exists()


# -- the notes that keep the second start fast -------------------------------------------------------------------------


def test_what_was_checked_once_is_not_read_again(
    shelf: store.Store, package: store.ModelPackage, tmp_path: Path
) -> None:
    size = sum(file.size_bytes for file in package.manifest.files)
    shelf.verify(package)
    another = store.Store(shelf.root, SIGNER, ManualClock())
    assert another.verify(another.get("tiny")).hashed_bytes == 0
    assert another.verify(another.get("tiny"), deep=True).hashed_bytes == size
    (shelf.root / ".verified-tiny-1.json").unlink()
    assert another.verify(another.get("tiny")).hashed_bytes == size
    assert another.verify(another.get("tiny")).hashed_bytes == 0


def test_a_change_that_keeps_size_and_times_is_still_seen(shelf: store.Store, package: store.ModelPackage) -> None:
    before = package.weights_path.stat()
    time.sleep(0.02)
    flip_one_byte(package.folder)
    os.utime(package.weights_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = package.weights_path.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert not shelf.verify(package).ok


def test_forged_notes_are_not_believed(shelf: store.Store, package: store.ModelPackage) -> None:
    shelf.verify(package)
    notes = shelf.root / ".verified-tiny-1.json"
    time.sleep(0.02)
    flip_one_byte(package.folder)
    forged = json.loads(notes.read_text())
    found = package.weights_path.stat()
    identity = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    forged["files"]["weights.gguf"][1:] = identity
    for note in (
        json.dumps(forged),
        "",
        "[]",
        "{}",
        '{"files": 1, "seal": ""}',
        '{"files": {"a": 1}, "seal": 1}',
        "\xff",
    ):
        notes.write_text(note, encoding="latin-1")
        assert not shelf.verify(package).ok


# -- two at once -------------------------------------------------------------------------------------------------------


def bring(root: Path, path: Path, results: "multiprocessing.queues.Queue[str]") -> None:
    results.put(store.Store(root, SIGNER, ManualClock()).import_gguf(path, "m").ref)


def test_processes_importing_together_agree(shelf: store.Store, tmp_path: Path) -> None:
    paths = [tiny(tmp_path / f"{value}.gguf", value) for value in (1.0, 2.0)] * 3
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=bring, args=(shelf.root, path, results)) for path in paths]
    for worker in workers:
        worker.start()
    refs = sorted(results.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join(30)
    assert refs == ["m@1"] * 3 + ["m@2"] * 3
    assert all(verdict.ok for verdict in shelf.audit(deep=True))
    assert sorted(e.name for e in shelf.root.iterdir() if not e.name.startswith(".verified")) == [".lock", "m"]


# -- folders of files --------------------------------------------------------------------------------------------------

ABOUT = store.About(
    kind="classification",
    task="text-classification",
    input="text",
    labels=("bad", "good"),
    metrics={"accuracy": 0.91},
    parity={"onnx.max_difference": 1e-6},
    lineage=Lineage(run="run_1", recipe="reviews", datasets={"movies@1": "sha256:ab"}, training_ms=1200),
)


def made(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "onnx").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights + b" in full")
    (folder / "onnx" / "model.onnx").write_bytes(weights)
    (folder / "onnx" / "model.onnx.data").write_bytes(b"more")
    (folder / "features.json").write_text("{}")
    return folder


def test_a_folder_becomes_a_package_that_knows_where_it_comes_from(shelf: store.Store, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    package = shelf.add_package(
        "reviews", made(tmp_path / "m"), ABOUT, progress=lambda done, total: seen.append((done, total))
    )
    found = shelf.get("reviews").manifest
    assert found == package.manifest
    assert (found.kind, found.task, found.labels, found.engine, found.serves) == (
        "classification", "text-classification", ("bad", "good"), "onnx", "onnx",
    )  # fmt: skip
    assert {file.path: file.role for file in found.files} == {
        "card.md": "card", "features.json": "features", "model.safetensors": "weights",
        "onnx/model.onnx": "weights", "onnx/model.onnx.data": "part",
    }  # fmt: skip
    assert package.weights_path.read_bytes() == b"weights"
    assert found.lineage.datasets == {"movies@1": "sha256:ab"}
    assert "movies@1" in (package.folder / "card.md").read_text()
    assert shelf.verify(package, deep=True).ok
    assert seen[-1][0] == seen[-1][1] > 0


def test_the_same_files_are_the_same_version_whatever_is_said_of_them(shelf: store.Store, tmp_path: Path) -> None:
    first = shelf.add_package("reviews", made(tmp_path / "a"), ABOUT)
    again = shelf.add_package("reviews", made(tmp_path / "b"), msgspec.structs.replace(ABOUT, title="Reviews"))
    other = shelf.add_package("reviews", made(tmp_path / "c", b"other"), ABOUT)
    assert (again.ref, other.ref) == (first.ref, "reviews@2")


def test_files_from_elsewhere_are_taken_in(shelf: store.Store, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>fine</p>")
    package = shelf.add_package("reviews", made(tmp_path / "m"), ABOUT, files={"report.html": report})
    assert (package.folder / "report.html").read_text() == "<p>fine</p>"
    assert shelf.verify(package).ok


@pytest.mark.parametrize("name", ["model.pkl", "model.pt", "model.pth", "pytorch_model.bin", "x/model.joblib"])
def test_nothing_pickled_comes_in(name: str, shelf: store.Store, tmp_path: Path) -> None:
    folder = made(tmp_path / "m")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"cos\nsystem\n")
    with pytest.raises(BadRequest, match="may run code"):
        shelf.add_package("reviews", folder, ABOUT)
    assert not shelf.list()
    assert not [path for path in shelf.root.glob("*") if not path.name.startswith(".")]


def test_numbers_that_look_pickled_by_their_name_come_in_as_what_they_are(shelf: store.Store, tmp_path: Path) -> None:
    """CTranslate2 calls its weights model.bin, with the vocabulary beside them; its engine unpickles nothing."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"\x06\0\0\0\x0c\0WhisperSpec\0")
    with pytest.raises(BadRequest, match="may run code"):
        shelf.add_package("ears", folder, store.About(kind="transcription"))
    (folder / "vocabulary.txt").write_text("a\n")
    package = shelf.add_package("ears", folder, store.About(kind="transcription", labels=("en",)))
    assert (package.manifest.weights.format, package.manifest.engine) == ("ctranslate2", "speech")


def test_what_is_no_package_is_refused_whole(shelf: store.Store, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    linked = made(tmp_path / "linked")
    (linked / "passwd").symlink_to("/etc/passwd")
    for folder, about, word in (
        (empty, ABOUT, "no weights"),
        (linked, ABOUT, "link"),
        (tmp_path / "nowhere", ABOUT, "not a folder"),
        (made(tmp_path / "m"), msgspec.structs.replace(ABOUT, kind="song"), "kind"),
        (made(tmp_path / "n"), msgspec.structs.replace(ABOUT, serves="litert"), "litert"),
    ):
        with pytest.raises(BadRequest, match=word):
            shelf.add_package("reviews", folder, about)
    with pytest.raises(BadRequest, match="leaves"):
        shelf.add_package("reviews", made(tmp_path / "o"), ABOUT, files={"../x": empty / "x"})
    assert not shelf.list()


def test_what_the_files_say_fills_what_the_maker_left_out(shelf: store.Store, tmp_path: Path) -> None:
    folder = made(tmp_path / "m")
    (folder / "model.toml").write_text('architecture = "linear"\nparameters = 12\n')
    (folder / "features.json").write_text('{"target": {"labels": ["a", "b"]}, "options": {"max_length": 64}}')
    about = store.About(kind="classification", metrics={"auc": float("nan"), "holds": True, "accuracy": 0.9})
    shelf.add_package("m", folder, about)
    found = shelf.get("m").manifest
    assert (found.architecture, found.parameters, found.labels, found.context_tokens) == ("linear", 12, ("a", "b"), 64)
    assert found.metrics == {"holds": True, "accuracy": 0.9}
    (folder / "features.json").write_text('{"target": 7, "options": []}')
    (folder / "onnx" / "model.onnx").write_bytes(b"other")
    assert shelf.add_package("m", folder, ABOUT).manifest.labels == ABOUT.labels


@pytest.mark.parametrize(("template", "told"), [("{{ tools }}", (True, True)), ("{{ messages }}", (True, False)), ("", (False, False))])
def test_a_language_model_made_here_says_whether_it_chats(
    template: str, told: tuple[bool, bool], shelf: store.Store, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    tiny(tmp_path / "m" / "model.gguf", template=template)
    (tmp_path / "m" / "features.json").write_text('{"options": {"max_length": 64}}')  # of texts it was trained on
    found = shelf.add_package("m", tmp_path / "m", store.About(kind="chat", task="chat")).manifest
    assert (found.has_chat_template, found.template_has_tools) == told
    assert (found.context_tokens, found.vocabulary) == (256, 40)
