"""The manifest: what is written is read back exactly, the digest covers every field, nonsense is refused in full."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.artifacts import manifest as manifests
from tollway.artifacts.manifest import File, Generation, Lineage, Manifest, Source
from tollway.kit.errors import BadRequest

WEIGHTS = File(path="weights.gguf", role="weights", size_bytes=3, sha256="00", format="gguf", quantisation="F16")
PLAIN = Manifest(
    name="m", version="1", kind="chat", title="M", architecture="llama", parameters=1, context_tokens=2,
    created="2026-01-01T00:00:00Z", files=(WEIGHTS,),
)  # fmt: skip

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
FILE = st.builds(File, path=TEXT, role=TEXT, size_bytes=st.integers(0, 2**62), sha256=TEXT)
MANIFEST = st.builds(
    Manifest,
    name=TEXT, version=TEXT, kind=TEXT, title=TEXT, architecture=TEXT, created=TEXT, description=TEXT, licence=TEXT,
    parameters=st.integers(0, 2**62), context_tokens=st.integers(0, 2**31), has_chat_template=st.booleans(),
    files=st.lists(FILE, min_size=1, max_size=3).map(tuple),
    source=st.builds(Source, package=TEXT, file=TEXT, sha256=TEXT),
    generation=st.builds(Generation, temperature=st.none() | FLOAT, top_p=st.none() | FLOAT),
    parity=st.dictionaries(TEXT, FLOAT | st.integers(-(2**60), 2**60) | TEXT, max_size=4),
    lineage=st.builds(
        Lineage, parent=TEXT, training_cost_micros=st.integers(0, 2**60), code_version=TEXT,
        datasets=st.dictionaries(TEXT, TEXT, max_size=3),
    ),
    task=TEXT, labels=st.lists(TEXT, max_size=3).map(tuple), vocabulary=st.integers(0, 2**21), metrics=st.dictionaries(TEXT, FLOAT, max_size=2),
)  # fmt: skip


@given(MANIFEST)
def test_toml_there_and_back_changes_nothing(manifest: Manifest) -> None:
    back = manifests.decode(manifests.encode(manifest))
    assert back == manifest
    assert manifests.digest_of(back) == manifests.digest_of(manifest)


def test_the_digest_covers_every_field_but_itself() -> None:
    other: dict[str, object] = {
        "name": "n", "version": "2", "kind": "embedding", "title": "N", "architecture": "bert", "parameters": 2,
        "context_tokens": 3, "created": "2027-01-01T00:00:00Z", "description": "d", "licence": "mit",
        "files": (msgspec.structs.replace(WEIGHTS, sha256="01"),), "embedding_dimensions": 1,
        "has_chat_template": True, "template_has_tools": True, "source": Source(file="f"),
        "generation": Generation(temperature=1.0), "parity": {"cosine": 1.0}, "lineage": Lineage(parent="p@1"), "task": "text-classification", "input": "image", "serves": "gguf",
        "labels": ("bad", "good"), "metrics": {"accuracy": 0.9}, "vocabulary": 7,
    }  # fmt: skip
    sealed = {"digest", "signed_by", "signature"}
    assert set(other) | sealed == {field.name for field in msgspec.structs.fields(Manifest)}
    for name, value in other.items():
        changed = msgspec.structs.replace(PLAIN, **{name: value})
        assert manifests.digest_of(changed) != manifests.digest_of(PLAIN), name
    assert manifests.digest_of(msgspec.structs.replace(PLAIN, digest="x", signature="y")) == manifests.digest_of(PLAIN)


@pytest.mark.parametrize("text", ["", "x", "name = 1", manifests.encode(PLAIN) + "\nextra = 1", "a = [\n" * 100])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="manifest"):
        manifests.decode(text)


@pytest.mark.parametrize(
    "path", ["", ".", "..", "../x", "a/../b", "/etc/passwd", "a//b", "./a", "a/", "a\\b", "a\0b", "manifest.toml"]
)
def test_paths_that_leave_the_package_are_not_safe(path: str) -> None:
    assert not manifests.is_safe_path(path)
    changed = msgspec.structs.replace(PLAIN, files=(msgspec.structs.replace(WEIGHTS, path=path),))
    assert manifests.problems_of(changed)


def test_all_problems_are_named_at_once() -> None:
    broken = msgspec.structs.replace(PLAIN, name="../x", version="0", kind="song", files=(WEIGHTS, WEIGHTS))
    found = "; ".join(manifests.problems_of(broken))
    for word in ("name", "version", "kind", "twice"):
        assert word in found
    assert not manifests.problems_of(PLAIN)


def test_every_field_of_the_lineage_counts() -> None:
    other: dict[str, object] = {
        "parent": "p@1", "recipe": "r", "run": "run_1", "training_cost_micros": 1, "cost_currency": "USD",
        "recipe_digest": "sha256:1", "code_version": "0.1.0", "training_ms": 1, "energy_mwh": 1,
        "datasets": {"movies@1": "sha256:2"},
    }  # fmt: skip
    assert set(other) == {field.name for field in msgspec.structs.fields(Lineage)}
    for name, value in other.items():
        changed = msgspec.structs.replace(PLAIN, lineage=Lineage(**{name: value}))  # type: ignore[arg-type]
        assert manifests.digest_of(changed) != manifests.digest_of(PLAIN), name


def test_packages_signed_before_there_were_more_kinds_keep_their_digest() -> None:
    assert manifests.digest_of(PLAIN) == "sha256:36fa8927a0a46e92b44f11ca506a785f8b42286e345f6bb45e95dccee742313b"


def test_one_weights_file_a_format_and_the_served_one_is_there() -> None:
    onnx = msgspec.structs.replace(WEIGHTS, path="model.onnx", format="onnx")
    both = msgspec.structs.replace(PLAIN, files=(WEIGHTS, onnx), serves="onnx")
    assert not manifests.problems_of(both)
    assert (both.weights, both.engine, both.formats) == (onnx, "onnx", ("gguf", "onnx"))
    assert both.weights_in("gguf") == WEIGHTS
    for change, word in (
        ({"serves": "litert"}, "serves"),
        ({"files": ()}, "no file"),
        ({"files": (onnx, onnx)}, "twice"),
    ):
        broken = msgspec.structs.replace(both, **change)
        assert word in "; ".join(manifests.problems_of(broken))
