"""torch as an engine: the graph of a `.pt2` file, one operator after the other. Slow, obvious, and the reference that the
others are held against: it computes with the very kernels that trained the model.

torch's own reader evaluates formulas that stand in the file as Python. Here a file is data and nothing else: the graph is
JSON, the weights are bytes, lengths are what the rows have. A node names one of torch's operators, and only what computes
may be named: nothing that opens a file, moves memory or runs a text. Whatever is not understood is refused by name.
"""

import json
import math
import operator
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch

from tollway.inference.encoding import Arrays
from tollway.kit.errors import BadRequest, TollwayError

ABOUT: Final = "tollway.json"
"""The archive's extra file that says how inputs and outputs are called, {"inputs": [...], "outputs": [...]}, and from which
place of a text the answer is read, "first" or "all"."""
_SCHEMA: Final = 8  # of the JSON, as torch numbers it
_GRAPH_BYTES_MAX: Final = 256 * 1024 * 1024
_TYPES: Final = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_MEMORY: Final = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_STRIDED: Final = 7
_CHECKS: Final = ("_assert_", "sym_constrain_range")  # of what the exporter assumed; torch checks shapes itself
_PRIVATE: Final = frozenset((
    "_to_copy", "_softmax", "_log_softmax", "_unsafe_view", "_convolution", "_weight_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "_adaptive_avg_pool2d", "_scaled_dot_product_flash_attention_for_cpu",
    "__and__", "__or__",
))  # fmt: skip
_REFUSED: Final = ("set", "resize", "record_stream", "from_file", "as_strided", "empty", "data")
_WORDS: Final = ("approximate", "equation", "rounding_mode", "mode", "padding", "indexing", "side", "reduce", "ord")
"""Arguments of operators that may be texts: names of ways to compute."""
_ARITHMETIC: Final[dict[str, Callable[..., Any]]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "eq", "ne", "lt", "le", "gt", "ge")
} | {
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_float": float,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
}
Values = dict[str, Any]
Take = Callable[[Values], Any]
Step = Callable[[Values], None]
Around = Mapping[str, Callable[..., Any]]
"""By an operator's name, what is called instead of it: with the operator, then with its arguments."""


class TorchRunner:
    """A graph that was read, and its weights. `around`: operators that are watched while it runs."""

    shared = True

    def __init__(self, path: Path, threads: int, around: Around = MappingProxyType({})) -> None:
        self._threads = max(1, threads)
        self._around = around
        try:
            with zipfile.ZipFile(path) as archive:
                self._read(_Archive(archive))
        except TollwayError as error:
            error.message = f"{path.name} cannot be run: {error.message}"
            raise
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            ArithmeticError,
            EOFError,
            LookupError,
            MemoryError,
            RuntimeError,
            zipfile.BadZipFile,
        ) as error:
            raise BadRequest(f"{path.name} is no torch program that can be loaded: {str(error)[:300]}") from error

    def _read(self, archive: "_Archive") -> None:
        about, model = archive.json(f"extra/{ABOUT}"), archive.json("models/model.json")
        self.inputs: tuple[str, ...] = tuple(about["inputs"])
        self._outputs: list[str] = list(about["outputs"])
        self.reads = str(about.get("reads", ""))
        if model["schema_version"]["major"] != _SCHEMA:
            raise _refused(f"another torch wrote it (schema {model['schema_version']['major']}, not {_SCHEMA})")
        whole = model["graph_module"]
        self._start: Values = {}
        places = list(_bound(whole["signature"], archive, self._start))
        if len(places) != len(self.inputs):
            raise _refused(f"it takes {len(places)} inputs, and says of {len(self.inputs)} what they are")
        self._places = dict(zip(self.inputs, places, strict=True))
        self._types = {
            name: _numpy_type(whole["graph"]["tensor_values"][place]) for name, place in self._places.items()
        }
        if any("user_output" not in one for one in whole["signature"]["output_specs"]):
            raise _refused("it changes its own weights")
        self._steps = _steps(whole["graph"]["nodes"], self._around)
        self._results = [_value(one) for one in whole["graph"]["outputs"]]

    def run(self, arrays: Arrays) -> Arrays:
        missing = [name for name in self.inputs if name not in arrays]
        if missing:
            raise BadRequest(f"The model wants {', '.join(missing)}, which these features do not give.")
        given = {
            name: torch.from_numpy(np.ascontiguousarray(arrays[name], dtype=self._types[name])) for name in self.inputs
        }
        with torch.inference_mode():
            found = self.compute(given)
        return {
            name: one.float().numpy() if one.dtype is torch.bfloat16 else one.numpy() for name, one in found.items()
        }

    def compute(self, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The outputs for inputs of the right kind; with gradients, where they are wanted."""
        _with_threads(self._threads)
        values = self._start | {place: given[name] for name, place in self._places.items()}
        for step in self._steps:
            step(values)
        return {name: take(values) for name, take in zip(self._outputs, self._results, strict=True)}


class _Archive:
    """The file: a zip whose entries all lie in one folder, as they are."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        graphs = [name for name in archive.namelist() if name.endswith("/models/model.json")]
        if len(graphs) != 1:
            raise _refused(f"there are {len(graphs)} graphs in it")
        self._folder = graphs[0].removesuffix("models/model.json")

    def bytes(self, name: str, most: int = sys.maxsize) -> bytes:
        """An entry. What is packed is refused: torch stores, and what is stored cannot be larger than the file."""
        try:
            entry = self._archive.getinfo(self._folder + name)
        except KeyError:
            raise _refused(f"it has no {name}; convert the model again") from None
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > most:
            raise _refused(f"{name} is packed or too large")
        return self._archive.read(entry)

    def json(self, name: str) -> Any:
        return json.loads(self.bytes(name, _GRAPH_BYTES_MAX))

    def tensors(self, folder: str, table: str) -> Values:
        """The tensors of a folder by name; some are the same one."""
        made: Values = {}
        kept: dict[str, Any] = {}
        for name, told in self.json(f"data/{folder}/{table}")["config"].items():
            meta, place = told["tensor_meta"], str(told["path_name"])
            if told["use_pickle"] or meta["layout"] != _STRIDED:
                raise _refused(f"{name} is pickled or sparse")
            kind = _type(meta["dtype"])
            if place not in kept:
                data = bytearray(self.bytes(f"data/{folder}/{place}"))
                kept[place] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
            sizes, strides = ([_whole(one) for one in meta[part]] for part in ("sizes", "strides"))
            flat = kept[place].view(kind)
            made[name] = (
                flat.as_strided(sizes, strides, _whole(meta["storage_offset"])) if flat.numel() else flat.view(sizes)
            )
        return made


def _bound(signature: Any, archive: _Archive, start: Values) -> Iterator[str]:
    """The names of what comes from outside, in order; what comes from the file goes into `start`."""
    held = archive.tensors("weights", "model_weights_config.json")
    held |= archive.tensors("constants", "model_constants_config.json")
    kinds = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
    for spec in signature["input_specs"]:
        ((kind, told),) = spec.items()
        if kind == "user_input":
            yield told["arg"]["as_tensor"]["name"]
        elif kind in kinds:
            start[told["arg"]["name"]] = held[told[kinds[kind]]]
        else:
            raise _refused(f"it wants a {kind}")


def _steps(nodes: list[Any], around: Around) -> list[Step]:
    """What to do, in order; a value is forgotten after its last use."""
    kept: set[str] = set()
    found: list[Step] = []
    for node in reversed(nodes):
        target = node["target"]
        name = target.removeprefix("torch.ops.aten.")
        if name != target and name.startswith(_CHECKS):
            continue
        args = [(one["name"], one["arg"], one.get("kind")) for one in node["inputs"]]
        used = {name for _, arg, _ in args for name in _names(arg)}
        last = used - kept
        kept |= used
        what = _operator(target)
        what = partial(around[name], what) if (name := target.removeprefix("torch.ops.")) in around else what
        found.append(_step(what, args, node["outputs"], tuple(last)))
    return found[::-1]


def _step(
    what: Callable[..., Any], args: list[tuple[str, Any, Any]], outputs: list[Any], last: tuple[str, ...]
) -> Step:
    by_place = [_value(arg) for _, arg, kind in args if kind != 2]
    by_name = {name: _value(arg) for name, arg, kind in args if kind == 2}
    put = _put(outputs)

    def step(values: Values) -> None:
        made = what(*[take(values) for take in by_place], **{name: take(values) for name, take in by_name.items()})
        for name in last:
            del values[name]
        put(values, made)

    return step


def _put(outputs: list[Any]) -> Callable[[Values, Any], None]:
    """Where what an operator makes goes: one value, or several."""
    if len(outputs) == 1 and "as_tensors" not in outputs[0]:
        ((_, told),) = outputs[0].items()
        single = _name_of(told)

        def one(values: Values, made: Any) -> None:
            values[single] = made

        return one
    told = outputs[0]["as_tensors"] if len(outputs) == 1 else [next(iter(one.values())) for one in outputs]
    names = [_name_of(one) if isinstance(one, dict) else "" for one in told]

    def several(values: Values, made: Any) -> None:
        values.update(zip(names, made, strict=True))

    return several


def _operator(target: str) -> Callable[..., Any]:
    """One of torch's operators that compute. Raises BadRequest."""
    if target in _ARITHMETIC:
        return _ARITHMETIC[target]
    parts = target.split(".")
    if parts[:3] != ["torch", "ops", "aten"] or len(parts) != 5:
        raise _refused(f"it uses {target}, which is none of torch's operators")
    name, overload = parts[3:]
    private = name.startswith("_") and name not in _PRIVATE
    if private or name.rstrip("_") in _REFUSED or name.startswith(tuple(f"{one}_" for one in _REFUSED)):
        raise _refused(f"it uses aten.{name}, which does more than compute")
    found = getattr(getattr(torch.ops.aten, name), overload)
    texts = [one.name for one in found._schema.arguments if "str" in str(one.type) and one.name not in _WORDS]
    if texts:
        raise _refused(f"it uses aten.{name}, which reads a text ({', '.join(texts)})")
    call: Callable[..., Any] = found
    return call


def _value(arg: Any) -> Take:
    """How to get an argument: a constant, or a value by its name."""
    ((kind, told),) = arg.items()
    if kind in ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor"):
        return _one(told)
    if kind in ("as_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools", "as_optional_tensors"):
        takes = [_one(one) for one in told]
        return lambda values: [take(values) for take in takes]
    constant = _constant(kind, told)
    return lambda _: constant


def _one(told: Any) -> Take:
    """A tensor or a length: by name, as it is, or none."""
    if "name" in told or "as_name" in told:
        name = _name_of(told)
        return lambda values: values[name]
    ((kind, inner),) = told.items()
    return _value({kind: inner})


def _constant(kind: str, told: Any) -> Any:
    if kind == "as_none":
        return None
    if kind == "as_float":
        return float(told)
    if kind == "as_floats":
        return [float(one) for one in told]
    if kind in ("as_int", "as_ints", "as_bool", "as_bools", "as_string", "as_int_lists"):
        return told
    if kind == "as_scalar_type":
        return _type(told)
    if kind == "as_memory_format" and told in _MEMORY:
        return _MEMORY[told]
    if kind == "as_layout" and told == _STRIDED:
        return torch.strided
    if kind == "as_device" and told["type"] == "cpu":
        return torch.device("cpu")
    raise _refused(f"it holds {kind[3:]} {str(told)[:40]!r}")


def _names(arg: Any) -> Iterator[str]:
    """The values that an argument refers to."""
    if isinstance(arg, dict):
        for key, inner in arg.items():
            if key in ("name", "as_name") and isinstance(inner, str):
                yield inner
            else:
                yield from _names(inner)
    elif isinstance(arg, list):
        for one in arg:
            yield from _names(one)


def _name_of(told: Any) -> str:
    return str(told["as_name"] if "as_name" in told else told["name"])


def _whole(told: Any) -> int:
    return int(told["as_int"])


def _type(number: int) -> torch.dtype:
    if number not in _TYPES:
        raise _refused(f"it holds numbers of a kind that is not known ({number})")
    return _TYPES[number]


def _numpy_type(meta: Any) -> Any:
    return torch.empty(0, dtype=_type(meta["dtype"])).numpy().dtype


def _refused(why: str) -> BadRequest:
    return BadRequest(f"{why}.", code="invalid_package")


_own = threading.local()


def _with_threads(threads: int) -> None:
    """Have operators called from this thread use so many: torch keeps the number for each thread."""
    if getattr(_own, "threads", 0) != threads:
        torch.set_num_threads(threads)
        _own.threads = threads


def open_model(path: Path, threads: int, _spinning: bool = False) -> TorchRunner:
    """Load `path`."""
    return TorchRunner(path, threads)
