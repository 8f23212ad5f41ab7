"""The step: a trained model becomes the files that are packaged, one for each format, each held against its source.

Order of work: torch answers real test rows once; every format is written, answers the same rows, and must hold
(`parity.py`); the first format of the recipe is the one that is served. Nothing that fails is kept.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tollway.forge.convert import parity, plan
from tollway.forge.convert.parity import Parity
from tollway.forge.models import measure
from tollway.inference import Arrays, Features
from tollway.kit.errors import Conflict, TollwayError
from tollway.kit.said import say

FILES: Final = {
    "onnx": "model.onnx",
    "onnx-int8": "model.int8.onnx",
    "onnx-int4": "model.int4.onnx",
    "openvino": "model.xml",
    "openvino-int8": "model.int8.xml",
    "openvino-bf16": "model.bf16.xml",
    "litert": "model.tflite",
    "litert-int8": "model.int8.tflite",
    "pt2": "model.pt2",
    "torchscript": "model.torchscript",
    "safetensors": "model.safetensors",
}
_CARRIED: Final = ("features.json", "tokenizer.json", "target_tokenizer.json", "model.toml")
_LEFT_OUT: Final = (0.0, 0.1, 0.3)  # shares of the layers that stay float, tried in this order
_CALIBRATION_ROWS: Final = 256
_SLOW: Final = ("image-generation", "translation", "language-modeling", "chat", "preference")  # each row is many steps
Runner = Callable[[Arrays], Arrays]


@dataclass
class Bench:
    """What every format is measured with."""

    part: Any
    folder: Path
    desk: Any
    net: Any
    source: Any
    sample: measure.Sample
    wanted: Sequence[Arrays]
    torch_run: Runner
    calibration: list[Arrays]
    longest: int = 0
    found: list[dict[str, Any]] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return Path(self.desk.out)

    def path(self, format: str) -> Path:
        return self.out / FILES[format]

    def hold(self, format: str, run: Runner) -> Parity:
        """The parity of a format, not yet required."""
        return parity.compare(format, self.wanted, self.sample.outputs(run), self.sample, self.part.tolerance)

    def keep(self, held: Parity, run: Runner, **more: Any) -> None:
        """Require that it holds, measure its speed, and write it down."""
        held.require()
        speeds = measure.speeds({"torch": self.torch_run, held.format: run}, self.sample)
        files = sorted(self.out.glob(FILES[held.format].rpartition(".")[0] + ".*")) if "openvino" in held.format else []
        size = sum(measure.size(one) for one in files) or measure.size(self.path(held.format))
        row = held.figures() | {"bytes": size, "rows_per_s": speeds[held.format], "torch_rows_per_s": speeds["torch"],
                                "speedup": speeds[held.format] / speeds["torch"], **more}  # fmt: skip
        self.found.append(row)
        self.desk.note(
            say("convert.format", "{form}: differs by at most {difference}, same label for {agreement}, {size}, {times} torch's "
                "rows a second", form=held.format, difference=f"{held.max_difference:.2g}", agreement=f"{held.agreement:.2%}",
                size=f"{size / 1e6:.1f} MB", times=f"{row['speedup']:.2f}x")
        )  # fmt: skip

    @property
    def source_onnx(self) -> Path:
        """The float ONNX file that others are made from; made once, beside the output."""
        from tollway.forge.convert import onnx

        path = Path(self.desk.work) / "source.onnx"
        if not path.is_file():
            onnx.export(self.source, path, longest=self.longest)
        return path


def export(part: Any, folder: Path, prepared: Any, desk: Any) -> dict[str, Any]:
    """Write every format of `part` into `desk.out`. Raises Conflict for a format that is not the same model."""
    plan.check(part, prepared.task)
    rest = [name for name in part.formats if name not in ("gguf", "safetensors")]
    figures: dict[str, Any] = {}
    figures_more: dict[str, Any] = {}
    if "safetensors" in part.formats:
        figures["safetensors"] = _copy_source(folder, Path(desk.out))
    if "gguf" in part.formats:
        figures |= _gguf(part, folder, prepared, desk)
    rows: list[dict[str, Any]] = []
    if rest:
        bench = _bench(part, folder, prepared, desk)
        for number, format in enumerate(rest):
            desk.progress(number, len(rest), unit="formats")
            _MAKERS[format](bench)
        desk.progress(len(rest), len(rest), unit="formats")
        rows = bench.found
        if bench.wanted and "embedding" in bench.wanted[0]:
            figures_more = {"embedding_dimensions": int(bench.wanted[0]["embedding"].shape[-1])}
    _carry(folder, Path(desk.out))
    return _write_down(part, rows, figures, Path(desk.out)) | figures_more


def _bench(part: Any, folder: Path, prepared: Any, desk: Any) -> Bench:
    import torch

    from tollway.forge import models
    from tollway.forge.convert.flat import source_of

    torch.set_num_threads(max(1, desk.threads))
    net = models.load(folder, home=desk.home)
    rows = measure.rows_of(prepared, "test", int(part.options.get("rows", parity.ROWS)), desk.seed)
    if net.spec.task in _SLOW:
        rows = net.features.example(64) if net.spec.task == "image-generation" else rows[:64]
    if not rows:
        raise Conflict("There are no rows to hold the converted model against.", hint="Give the data a test split.")
    sample = measure.Sample.of(net.features, rows)
    reference = models.TorchPredictor(net)
    desk.note(say("convert.source", "the source answers {count} rows of the test split", count=len(rows)))
    wanted = sample.outputs(reference.run)
    count = int(part.options.get("calibration_rows", _CALIBRATION_ROWS))
    learnt = measure.rows_of(prepared, "train", count, desk.seed) if net.spec.task != "image-generation" else rows
    calibration = measure.Sample.of(net.features, learnt)
    longest = int(getattr(net.features, "max_length", 0) or 0)
    return Bench(
        part,
        folder,
        desk,
        net,
        source_of(net),
        sample,
        wanted,
        reference.run,
        _fed(net.features, reference.run, calibration),
        longest,
    )


def _fed(features: Any, run: Runner, calibration: measure.Sample) -> list[Arrays]:
    """The arrays that a model is really fed: a text that is written token by token feeds it many times."""
    seen: list[Arrays] = []

    def watched(arrays: Arrays) -> Arrays:
        seen.append(arrays)
        return run(arrays)

    for batch in calibration.speed_batches():
        if type(features).generate is Features.generate:
            seen.append(batch)
        else:
            features.generate(watched, batch)
    return seen[:: max(1, len(seen) // 16)]


# -- one function for each format


def _onnx(bench: Bench) -> None:
    wish = _quantise(bench)
    if wish in ("none", "auto") or bench.part.options.get("keep_float"):
        _onnx_float(bench)
    if wish == "none":
        return
    if wish == "int4":
        _onnx_int4(bench)
        return
    try:
        _onnx_int8(bench, wish)
    except Conflict as refusal:
        if wish != "auto":
            raise
        bench.path("onnx-int8").unlink(missing_ok=True)
        bench.desk.warn(say("convert.float", "onnx stays float: {failure}", failure=refusal.said))
        return
    if wish == "auto" and not bench.part.options.get("keep_float"):
        bench.path("onnx").unlink()
        bench.found[:] = [row for row in bench.found if row["format"] != "onnx"]


def _onnx_float(bench: Bench) -> None:
    shutil.copyfile(bench.source_onnx, bench.path("onnx"))
    run = _open(bench, "onnx")
    bench.keep(bench.hold("onnx", run), run)


def _onnx_int4(bench: Bench) -> None:
    from tollway.forge.convert import onnx_int8

    onnx_int8.four_bits(bench.source_onnx, bench.path("onnx-int4"))
    run = _open(bench, "onnx-int4")
    bench.keep(bench.hold("onnx-int4", run), run)


def _onnx_int8(bench: Bench, wish: str) -> None:
    """Try the ways of going to 8 bits, the most thorough first; keep the first that holds."""
    from tollway.forge.convert import onnx_int8

    source, path = bench.source_onnx, bench.path("onnx-int8")
    ranked = list(bench.part.options.get("leave", [])) or onnx_int8.sensitive(source, bench.calibration[:2])
    if not ranked:
        raise Conflict("The model has no products with constant weights to quantise.", code="parity_failed")
    held: Parity | None = None
    tried = []
    for way in _ways(wish, source):
        for share in _LEFT_OUT:
            leave = ranked[: round(share * len(ranked))]
            if way == "static":
                onnx_int8.static(source, path, bench.calibration, leave=leave)
            else:
                onnx_int8.dynamic(source, path, leave=leave)
            run = _open(bench, "onnx-int8")
            held = bench.hold("onnx-int8", run)
            tried.append(f"{way}, {len(leave)} of {len(ranked)} layers float: {'; '.join(held.problems) or 'holds'}")
            if held.holds:
                bench.keep(held, run, way=way, left_float=leave, tried=tried)
                return
    assert held is not None
    held.require()


def _ways(wish: str, source: Path) -> tuple[str, ...]:
    """Convolutions have no good dynamic kernel: for them the scales are calibrated."""
    import onnx

    if wish in ("int8-static", "int8-dynamic"):
        return (wish.removeprefix("int8-"),)
    convolves = any(node.op_type == "Conv" for node in onnx.load(str(source), load_external_data=False).graph.node)
    return ("static", "dynamic") if convolves else ("dynamic", "static")


def _openvino(bench: Bench) -> None:
    from tollway.forge.convert import openvino

    wish = _quantise(bench)
    precision = {"bf16": "bf16", "none": "f32", "auto": "f32", "int4": "f32"}.get(wish, "int8")
    format = "openvino" if precision == "f32" else f"openvino-{precision}"
    openvino.export(bench.source_onnx, bench.path(format), precision=precision, calibration=bench.calibration)
    run = _open(bench, format)
    bench.keep(bench.hold(format, run), run)


def _litert(bench: Bench) -> None:
    from tollway.forge.convert import litert

    options = bench.part.options
    int8 = _quantise(bench) in ("int8", "int8-dynamic")
    format = "litert-int8" if int8 else "litert"
    length = min(int(options.get("litert_length", litert.LENGTH)), bench.longest or litert.LENGTH)
    rows = int(options.get("litert_rows", litert.ROWS))
    litert.export(bench.source, bench.path(format), rows=rows, length=length, int8=int8)
    run = _open(bench, format)
    bench.keep(bench.hold(format, run), run, shape={"rows": rows, "length": length})


def _pt2(bench: Bench) -> None:
    from tollway.forge.convert import torch_export

    torch_export.export(bench.source, bench.path("pt2"), longest=bench.longest)
    run = _open(bench, "pt2")
    bench.keep(bench.hold("pt2", run), run)


def _torchscript(bench: Bench) -> None:
    from tollway.forge.convert import torchscript

    run = torchscript.export(bench.source, bench.path("torchscript"))
    bench.keep(bench.hold("torchscript", run), run)
    bench.desk.note(
        say("convert.torchscript", "torchscript is export only: its archive holds pickles, so nothing here ever loads it")
    )


_MAKERS: Final[dict[str, Callable[[Bench], None]]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "litert": _litert,
    "pt2": _pt2,
    "torchscript": _torchscript,
}


def _open(bench: Bench, format: str) -> Runner:
    from tollway.inference import runners

    return runners.open_model(bench.out, format, 1).run


def _quantise(bench: Bench) -> str:
    """What the recipe says; else what compression decided; else `auto` for text classifiers (8 bits when it holds)."""
    if bench.part.quantise:
        return str(bench.part.quantise)
    note = bench.folder / "compression.json"
    if note.is_file():
        kind = json.loads(note.read_text(encoding="utf-8")).get("quantise", "")
        if kind:
            return str(kind)
    return "auto" if bench.net.spec.task == "text-classification" else "none"


def _copy_source(folder: Path, out: Path) -> dict[str, Any]:
    """The model folder itself: weights as they are, bit for bit."""
    shutil.copytree(folder, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("step.json"))
    return {"format": "safetensors", "holds": True, "max_difference": 0.0, "agreement": 1.0, "drop": 0.0,
            "bytes": measure.size(out / "model.safetensors") if (out / "model.safetensors").is_file() else 0}  # fmt: skip


def _gguf(part: Any, folder: Path, prepared: Any, desk: Any) -> dict[str, Any]:
    from tollway.forge.convert import gguf_export

    found = {"gguf": gguf_export.export(part, folder, prepared, desk)}
    if part.options.get("adapter"):
        found["gguf-lora"] = gguf_export.beside(folder, prepared, desk)
    return found


def _carry(folder: Path, out: Path) -> None:
    """What turns rows into arrays and outputs into answers goes with every format."""
    for name in _CARRIED:
        if (folder / name).is_file() and not (out / name).is_file():
            shutil.copyfile(folder / name, out / name)


def _write_down(part: Any, rows: list[dict[str, Any]], more: dict[str, Any], out: Path) -> dict[str, Any]:
    table = [*rows, *more.values()]
    order = {name: number for number, name in enumerate(part.formats)}
    table.sort(key=lambda row: order.get(str(row["format"]).partition("-")[0], len(order)))
    if not table:
        raise TollwayError("No format was written.")
    serve = str(table[0]["format"])
    document = {"serve": serve, "formats": table}
    (out / "parity.json").write_text(
        json.dumps(document, ensure_ascii=False, indent=1, default=float), encoding="utf-8"
    )
    flat: dict[str, Any] = {"serve": serve}
    for row in table:
        for name in ("max_difference", "agreement", "drop", "speedup", "bytes"):
            if name in row:
                flat[f"{row['format']}.{name}"] = row[name]
    return flat | {"formats": table}
