"""Reading a .pt2 file as data: it computes what torch computed, and a file that asks for more is refused by name."""

import contextlib
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tollway.forge.convert import torch_export
from tollway.forge.convert.flat import Flat, Source
from tollway.inference.torch import open_model
from tollway.kit.errors import BadRequest, TollwayError


class Net(torch.nn.Module):
    """Something of everything that a graph has: lengths, slices, masks in place, several outputs, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(30, 8)
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", dropout=0.0)
        self.out = torch.nn.Linear(8, 3)
        self.register_buffer("places", torch.arange(64), persistent=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.words(ids) + self.places[: ids.shape[1]].unsqueeze(1) / ids.shape[1]
        states = self.layer(states, src_key_padding_mask=mask == 0)
        kept = ((mask > 0) & (ids >= 0)).unsqueeze(2).float()
        first, _ = states.split([3, 5], dim=2)
        return {"logits": self.out((states * kept).sum(1) / kept.sum(1)), "first": first.amax(1)}


@pytest.fixture(scope="module")
def net() -> Flat:
    torch.manual_seed(3)
    return Flat(Net(), ("ids", "mask"), ("logits", "first")).eval()


@pytest.fixture(scope="module")
def file(net: Flat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    axes = {0: "rows", 1: "length"}
    example = (torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64))
    source = Source(net, example, ("ids", "mask"), ("logits", "first"), {"ids": axes, "mask": axes})
    return torch_export.export(source, tmp_path_factory.mktemp("pt2") / "model.pt2", longest=64)


def rows(count: int, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(count * 100 + length)
    mask = (np.arange(length) < random.integers(1, length + 1, (count, 1))).astype(np.int64)
    return {"ids": random.integers(0, 30, (count, length)), "mask": mask}


@pytest.mark.parametrize(("count", "length"), [(1, 1), (3, 9), (7, 64)])
def test_it_answers_as_the_net_does_at_any_length(net: Flat, file: Path, count: int, length: int) -> None:
    asked = rows(count, length)
    found = open_model(file, 1).run({name: one.astype(np.int32) for name, one in asked.items()})
    with torch.no_grad():
        wanted = net(*(torch.from_numpy(one) for one in asked.values()))
    for name, one in zip(("logits", "first"), wanted, strict=True):
        np.testing.assert_allclose(found[name], one.numpy(), atol=1e-6)


def test_several_threads_run_it_at_the_same_time(file: Path) -> None:
    runner, asked = open_model(file, 1), [rows(4, length) for length in range(2, 10)]
    alone = [runner.run(one)["logits"] for one in asked]
    found: dict[int, np.ndarray] = {}

    def many(number: int) -> None:
        for _ in range(20):
            found[number] = runner.run(asked[number])["logits"]

    threads = [threading.Thread(target=many, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, one in enumerate(alone):
        np.testing.assert_array_equal(found[number], one)


def test_a_missing_input_is_named(file: Path) -> None:
    with pytest.raises(BadRequest, match="mask"):
        open_model(file, 1).run({"ids": np.ones((1, 2), np.int64)})


def altered(file: Path, out: Path, change: Callable[[str, Any], Any], packed: bool = False) -> Path:
    """The file with some of its JSON changed; None leaves an entry out."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data: bytes | None = old.read(name)
            if data and name.endswith(".json"):
                changed = change(name.split("/", 1)[1], json.loads(data))
                data = None if changed is None else json.dumps(changed).encode()
            if data is not None:
                new.writestr(name, data, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    return out


def first_node(**changes: Any) -> Callable[[str, Any], Any]:
    def change(name: str, told: Any) -> Any:
        if name == "models/model.json":
            told["graph_module"]["graph"]["nodes"][0] |= changes
        return told

    return change


def weights(change: Callable[[dict[str, Any]], None]) -> Callable[[str, Any], Any]:
    def changed(name: str, told: Any) -> Any:
        if name == "data/weights/model_weights_config.json":
            change(next(iter(told["config"].values())))
        return told

    return changed


def spec(name: str, told: Any) -> Any:
    if name == "models/model.json":
        (one,) = told["graph_module"]["signature"]["output_specs"][:1]
        told["graph_module"]["signature"]["output_specs"][0] = {"buffer_mutation": one["user_output"]}
    return told


TEXT = [{"name": "filename", "arg": {"as_string": "/etc/passwd"}, "kind": 1}]
HOSTILE: dict[str, tuple[Callable[[str, Any], Any], str]] = {
    "python": (first_node(target="os.system", inputs=TEXT), "none of torch's operators"),
    "other operators": (first_node(target="torch.ops.prim.Print.default"), "none of torch's operators"),
    "a file": (first_node(target="torch.ops.aten.from_file.default", inputs=TEXT), "more than compute"),
    "a private one": (first_node(target="torch.ops.aten._unsafe_index.Tensor"), "more than compute"),
    "memory": (first_node(target="torch.ops.aten.set_.source_Storage"), "more than compute"),
    "what was there before": (first_node(target="torch.ops.aten.empty.memory_format"), "more than compute"),
    "an unknown one": (first_node(target="torch.ops.aten.nothing_like_it.default"), "no torch program"),
    "a text": (first_node(target="torch.ops.aten.__getitem__.str"), "more than compute"),
    "a graph in the graph": (
        first_node(target="torch.ops.higher_order.cond", inputs=[{"name": "f", "arg": {"as_graph": {}}, "kind": 1}]),
        "none of torch's operators",
    ),
    "another device": (
        first_node(inputs=[{"name": "d", "arg": {"as_device": {"type": "cuda", "index": 0}}, "kind": 1}]),
        "cuda",
    ),
    "a pickle": (weights(lambda one: one.update(use_pickle=True)), "pickled"),
    "too large a tensor": (weights(lambda one: one["tensor_meta"].update(sizes=[{"as_int": 2**40}, {"as_int": 8}])), "no torch"),
    "beside the tensor": (weights(lambda one: one["tensor_meta"].update(storage_offset={"as_int": 10**9})), "no torch"),
    "another file": (weights(lambda one: one.update(path_name="../../../etc/passwd")), "it has no"),
    "weights that change": (spec, "changes its own weights"),
    "no names": (lambda name, told: None if name.startswith("extra/") else told, "convert the model again"),
    "one name too few": (
        lambda name, told: told | {"inputs": ["ids"]} if name.startswith("extra/") else told,
        "takes 2 inputs",
    ),
    "a later torch": (
        lambda name, told: told | {"schema_version": {"major": 9, "minor": 1}} if name.startswith("models/") else told,
        "another torch",
    ),
    "nonsense": (lambda name, told: ["x"] if name.startswith("models/") else told, "no torch program"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_asks_for_more_is_refused(what: str, file: Path, tmp_path: Path) -> None:
    change, why = HOSTILE[what]
    with pytest.raises(TollwayError, match=why):
        open_model(altered(file, tmp_path / "bad.pt2", change), 1)


def test_what_was_only_written_anew_is_not(file: Path, tmp_path: Path) -> None:
    made = open_model(altered(file, tmp_path / "same.pt2", lambda _, told: told), 1).run(rows(2, 3))
    np.testing.assert_array_equal(made["logits"], open_model(file, 1).run(rows(2, 3))["logits"])


def test_a_packed_file_is_refused(file: Path, tmp_path: Path) -> None:
    """What is packed can be a thousand times larger than it looks."""
    with pytest.raises(TollwayError, match="packed or too large"):
        open_model(altered(file, tmp_path / "bomb.pt2", lambda _, told: told, packed=True), 1)


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + b"\0" * 18, b"\x80\x02]q\x00."])
def test_what_is_no_such_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "no.pt2"
    path.write_bytes(data)
    with pytest.raises(BadRequest, match=r"no\.pt2"):
        open_model(path, 1)


def test_a_file_that_lies_about_itself_is_refused(file: Path, tmp_path: Path) -> None:
    """Places and sizes in the archive's own tables: beyond the file, beyond a disk, beyond 64 bits."""
    whole, lying = file.read_bytes(), tmp_path / "lying.pt2"
    with zipfile.ZipFile(file) as archive:
        table = archive.start_dir
        entries = archive.infolist()
    for name in ("weights/model_weights_config.json", "models/model.json"):
        entry = next(one for one in entries if one.filename.endswith(name))
        at = table
        for one in entries:
            if one is entry:
                break
            at += 46 + len(one.orig_filename.encode()) + len(one.extra) + len(one.comment)
        for offset, value in (
            (20, b"\xff\xff\xff\x7f"),
            (24, b"\xff\xff\xff\x7f"),
            (42, b"\xff\xff\xff\x7f"),
            (8, b"\x01\x00"),
            (10, b"\x63\x00"),
        ):
            lying.write_bytes(whole[: at + offset] + value + whole[at + offset + len(value) :])
            harmless = contextlib.suppress(TollwayError)  # a size that is told twice may be read from the other place
            with harmless if offset in (20, 24) else pytest.raises(TollwayError):
                open_model(lying, 1)
    with zipfile.ZipFile(lying, "w") as made:
        far = zipfile.ZipInfo("m/models/model.json")
        made.writestr(far, b"{}")
        far.header_offset = 2**64 - 1
    with pytest.raises(TollwayError):
        open_model(lying, 1)


@pytest.mark.parametrize("key", ["sizes", "strides"])
@pytest.mark.parametrize("number", [2**62, 2**63, 2**200, -1])
def test_a_tensor_without_end_is_refused(file: Path, tmp_path: Path, key: str, number: int) -> None:
    def change(config: dict[str, Any]) -> None:
        config["tensor_meta"][key] = [{"as_int": number}, {"as_int": number}]

    with pytest.raises(TollwayError):
        open_model(altered(file, tmp_path / "endless.pt2", weights(change)), 1)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_refused_or_computes(file: Path, tmp_path: Path, seed: int) -> None:
    """Whatever is wrong with it, the answer is a refusal: never an error of a library."""
    random, whole = np.random.default_rng(seed), file.read_bytes()
    for _ in range(25):
        data = bytearray(whole)
        if seed % 2:
            del data[int(random.integers(len(data))) :]
        for place in random.integers(max(0, len(data) - 6000), len(data) + 1, 8) if data else ():
            if place < len(data):
                data[place] = int(random.integers(256))
        path = tmp_path / "damaged.pt2"
        path.write_bytes(data)
        with contextlib.suppress(TollwayError):
            open_model(path, 1)
