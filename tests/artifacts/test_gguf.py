"""Reading a stranger's GGUF header: the truth comes out right, every lie is refused, quickly and in little memory."""

import os
import resource
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as official
import numpy
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tollway.artifacts import gguf
from tollway.kit.errors import BadRequest

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"


def write(path: Path, change: Callable[[official.GGUFWriter], object] = lambda writer: None) -> Path:
    """A small honest file, written by the format's own library."""
    writer = official.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_file_type(official.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["a", "b", "c"])
    writer.add_token_types([1, 1, 3])
    writer.add_chat_template(TEMPLATE)
    change(writer)
    writer.add_tensor("token_embd.weight", numpy.arange(3 * 64, dtype=numpy.float32).reshape(3, 64))
    quantised = official.quants.quantize(numpy.ones((8, 64), numpy.float32), official.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", quantised, raw_dtype=official.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", numpy.ones(64, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_the_facts_of_an_honest_file_come_out(honest: Path) -> None:
    header = gguf.read_header(honest)
    assert header == gguf.Header(
        architecture="llama",
        parameters=3 * 64 + 8 * 64 + 64,
        quantisation="Q8_0",
        context_tokens=128,
        embedding_length=64,
        block_count=1,
        vocabulary=3,
        name="Tiny",
        licence="mit",
        tokenizer="gpt2",
        tokenizer_pre="smollm",
        chat_template=TEMPLATE,
        pooling=None,
        tensors=3,
        size_bytes=honest.stat().st_size,
    )


def test_the_child_process_says_the_same(honest: Path) -> None:
    assert gguf.inspect(honest) == gguf.read_header(honest)


def test_the_tables_agree_with_the_official_library() -> None:
    for number, (name, block, size) in gguf.TENSOR_TYPES.items():
        kind = official.GGMLQuantizationType(number)
        assert (kind.name, *official.GGML_QUANT_SIZES[kind]) == (name, block, size)
    for number, name in gguf.FILE_TYPES.items():
        assert official.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_") == name


def test_without_a_declared_file_type_the_heaviest_tensor_names_the_quantisation(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf")
    path.write_bytes(path.read_bytes().replace(b"general.file_type", b"general.file_tipe"))
    assert gguf.read_header(path).quantisation == "Q8_0"


def put(data: bytes, at: int, code: str, value: int) -> bytes:
    raw = struct.pack("<" + code, value)
    return data[:at] + raw + data[at + len(raw) :]


def after(data: bytes, word: bytes) -> int:
    return data.index(word) + len(word)


def tensor_at(data: bytes) -> int:
    """Where the rank of the first tensor is written."""
    return data.rindex(b"token_embd.weight") + len(b"token_embd.weight")


def named_twice(data: bytes) -> bytes:
    """The last tensor takes the name of the first; one byte of padding keeps the length."""
    old, new = b"output_norm.weight", b"token_embd.weight"
    at = data.rindex(old)
    return data[: at - 8] + struct.pack("<Q", len(new)) + new + data[at + len(old) :] + b"\0"


LIES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda d: b"",
    "another format": lambda d: b"PK\x03\x04" + d[4:],
    "version 1": lambda d: put(d, 4, "I", 1),
    "big-endian": lambda d: put(d, 4, "I", 3 << 24),
    "no tensors": lambda d: put(d, 8, "Q", 0),
    "one tensor fewer": lambda d: put(d, 8, "Q", 2),
    "one tensor more": lambda d: put(d, 8, "Q", 4),
    "2**63 tensors": lambda d: put(d, 8, "Q", 1 << 63),
    "2**64-1 keys": lambda d: put(d, 16, "Q", (1 << 64) - 1),
    "4096 keys": lambda d: put(d, 16, "Q", 4096),
    "a key as long as the address space": lambda d: put(d, 24, "Q", (1 << 64) - 1),
    "a value of 2**62 bytes": lambda d: put(d, after(d, b"general.name") + 4, "Q", 1 << 62),
    "a value of an unknown type": lambda d: put(d, after(d, b"general.name"), "I", 77),
    "an array of 2**61 strings": lambda d: put(d, after(d, b"tokenizer.ggml.tokens") + 8, "Q", 1 << 61),
    "an array longer than the file": lambda d: put(d, after(d, b"tokenizer.ggml.token_type") + 8, "Q", 1 << 39),
    "an array of arrays": lambda d: put(d, after(d, b"tokenizer.ggml.tokens") + 4, "I", 9),
    "a key twice": lambda d: d.replace(b"general.file_type", b"llama.block_count"),
    "a key with a line break": lambda d: d.replace(b"general.name", b"general\nname"),
    "text that is not UTF-8": lambda d: d.replace(b"Tiny", b"T\xff\xfey"),
    "an architecture that is a path": lambda d: d.replace(b"llama", b"../et"),
    "a tensor without dimensions": lambda d: put(d, tensor_at(d), "I", 0),
    "a tensor of five dimensions": lambda d: put(d, tensor_at(d), "I", 5),
    "a tensor of 2**62 rows": lambda d: put(d, tensor_at(d) + 12, "Q", 1 << 62),
    "a tensor with no rows": lambda d: put(d, tensor_at(d) + 12, "Q", 0),
    "a tensor one row larger": lambda d: put(d, tensor_at(d) + 12, "Q", 4),
    "a tensor of unknown type": lambda d: put(d, tensor_at(d) + 20, "I", 4),
    "rows that are not whole blocks": lambda d: put(d, tensor_at(d) + 20, "I", 12),
    "a tensor far behind the end": lambda d: put(d, tensor_at(d) + 24, "Q", 1 << 60),
    "a tensor inside another": lambda d: put(d, d.rindex(b"output_norm.weight") + 18 + 4 + 8 + 4, "Q", 0),
    "two tensors of one name": named_twice,
    "the last byte is missing": lambda d: d[:-1],
    "half of it is missing": lambda d: d[: len(d) // 2],
    "something is hidden behind the end": lambda d: d + b"x" * 4096,
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_with_a_reason(lie: str, honest: Path, tmp_path: Path) -> None:
    path = tmp_path / "lie.gguf"
    path.write_bytes(LIES[lie](honest.read_bytes()))
    with pytest.raises(BadRequest) as refused:
        gguf.read_header(path)
    assert refused.value.message.startswith("lie.gguf cannot be used as a model: ")
    assert refused.value.hint


@pytest.mark.parametrize(
    ("key", "value"), [("llama.context_length", -1), ("general.alignment", 7), ("general.alignment", 1 << 20)]
)
def test_numbers_out_of_range_are_refused(key: str, value: int, tmp_path: Path) -> None:
    def change(writer: official.GGUFWriter) -> None:
        writer.kv_data[0].pop(key, None)
        writer.add_key_value(key, value, official.GGUFValueType.INT64)

    with pytest.raises(BadRequest):
        gguf.read_header(write(tmp_path / "x.gguf", change))


def test_a_fact_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    def change(writer: official.GGUFWriter) -> None:
        writer.kv_data[0].pop("general.name", None)
        writer.add_key_value("general.name", 7, official.GGUFValueType.UINT32)

    with pytest.raises(BadRequest, match=r"general\.name is not text"):
        gguf.read_header(write(tmp_path / "x.gguf", change))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("tokens", [1, 2, 3], "has elements of type 5, not text"),
        ("merges", [1, 2], "has elements of type 5, not text"),
        ("scores", ["0"] * 3, "has elements of type 8, not float32"),
        ("token_type", [True] * 3, "has elements of type 7, not int32"),  # a byte each, and four are read
        ("token_type", [1], "has 1 elements for"),
        ("scores", [0.5], "has 1 elements for"),
    ],
)
def test_a_tokenizer_that_an_engine_would_read_past_its_end_is_refused(
    key: str, value: list[Any], why: str, tmp_path: Path
) -> None:
    def change(writer: official.GGUFWriter) -> None:
        writer.kv_data[0].pop(f"tokenizer.ggml.{key}", None)
        writer.add_array(f"tokenizer.ggml.{key}", value)

    with pytest.raises(BadRequest, match=rf"tokenizer\.ggml\.{key} {why}"):
        gguf.read_header(write(tmp_path / "x.gguf", change))


def test_a_million_merges_are_stepped_over(tmp_path: Path) -> None:
    def change(writer: official.GGUFWriter) -> None:
        writer.add_array("tokenizer.ggml.merges", [f"a{number} b" for number in range(1_000_000)])

    assert gguf.inspect(write(tmp_path / "x.gguf", change)).vocabulary


def test_a_missing_file_and_a_folder_are_bad_requests(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        for read in (gguf.read_header, gguf.inspect):
            with pytest.raises(BadRequest):
                read(path)


EDIT = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)),
    st.tuples(
        st.just("big"), st.integers(0, 1 << 16), st.sampled_from([0, 1, 0xFFFF, 1 << 31, 1 << 40, (1 << 64) - 1])
    ),
    st.tuples(st.just("cut"), st.integers(0, 1 << 16), st.integers(1, 64)),
    st.tuples(st.just("end"), st.integers(0, 1 << 16), st.just(0)),
)


def edited(data: bytes, edits: list[tuple[str, int, bytes | int]]) -> bytes:
    for what, place, value in edits:
        at = place % (len(data) + 1)
        if what == "set":
            data = data[:at] + bytes(value) + data[at + len(bytes(value)) :]
        elif what == "big":
            data = put(data, at, "Q", int(value))
        elif what == "cut":
            data = data[:at] + data[at + int(value) :]
        else:
            data = data[:at]
    return data


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDIT, min_size=1, max_size=4))
@example(edits=[("big", 8, (1 << 64) - 1)])
def test_no_mutation_crashes_hangs_or_leaks(edits: list[tuple[str, int, bytes | int]], honest: Path) -> None:
    path = honest.with_name("mutant.gguf")
    path.write_bytes(edited(honest.read_bytes(), edits))
    open_files = len(os.listdir("/proc/self/fd"))
    tracemalloc.start()
    began = time.thread_time()
    try:
        header = gguf.read_header(path)
        assert header.size_bytes == path.stat().st_size
        assert header.parameters <= header.size_bytes * 8
    except BadRequest:
        pass
    finally:
        spent_s = time.thread_time() - began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert spent_s < 1
    assert peak < 1 << 20, f"{peak} bytes for a file of {path.stat().st_size}"
    assert len(os.listdir("/proc/self/fd")) == open_files


def sparse(path: Path, strings: int, length: int) -> Path:
    """A header of `strings` keys with `length` bytes each, mostly holes: large to read, cheap to write."""
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 1, strings))
        for index in range(strings):
            key = b"k%d" % index
            file.write(struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, length))
            file.seek(length, os.SEEK_CUR)
        file.truncate()
    return path


def test_a_header_made_to_eat_memory_is_refused_without_eating_ours(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = sparse(tmp_path / "fat.gguf", 400, gguf.STRING_BYTES_MAX)
    began = time.monotonic()
    with pytest.raises(BadRequest):
        gguf.inspect(path)
    assert time.monotonic() - began < 90
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_header_made_to_eat_time_is_refused_in_time(tmp_path: Path) -> None:
    path = tmp_path / "slow.gguf"
    key = b"tokenizer.ggml.tokens"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, len(key)) + key)
        file.write(struct.pack("<IIQ", 9, 8, gguf.STRINGS_MAX))
        file.truncate(file.tell() + 8 * gguf.STRINGS_MAX)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(BadRequest):
        gguf.inspect(path)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert spent.ru_utime - before.ru_utime < gguf.LIMITS.cpu_s + 1
