"""What `openvino_lm` has done in a limited process. torch is imported before the limits hold: it opens files to write."""

from pathlib import Path
from typing import Any, Final

from tollway.forge.convert import gguf_variants
from tollway.forge.convert.onnx import last_line, quiet
from tollway.forge.models import lm_gguf_import
from tollway.kit.errors import BadRequest, Conflict
from tollway.kit.quiet import no_telemetry

_GROUP: Final = 64  # numbers that share a scale at four bits; the usual 128 does not divide small models' widths


def written(source: str, outs: dict[str, str]) -> dict[str, Any]:
    """The whole of it, in this process."""
    import shutil
    import tempfile

    no_telemetry()
    folders = {precision: Path(folder) for precision, folder in outs.items()}
    first = next(iter(folders.values()))
    scratch = first / ".scratch"
    scratch.mkdir()
    tempfile.tempdir = str(scratch)  # nothing can be written elsewhere
    try:
        lm_gguf_import.convert(Path(source), first, weights=False)
    except lm_gguf_import.Refused as refused:
        raise BadRequest(f"This model cannot be brought to OpenVINO: {refused}.", code="unsupported_model") from None
    wide = scratch / "float16.gguf"
    gguf_variants.written(source, str(wide), "f16")
    with quiet():
        try:
            _read(wide)
            _words(first)
            _round(folders, first)
        except (RuntimeError, ValueError, ImportError) as error:
            raise Conflict(
                f"OpenVINO could not take the model: {last_line(error)}.", code="conversion_failed"
            ) from error
    shutil.rmtree(scratch)
    return {one: sum(file.stat().st_size for file in folder.iterdir()) for one, folder in folders.items()}


def _read(wide: Path) -> None:
    """The engine's own reader builds the graph from a file of ours, and stores it beside."""
    import openvino_genai

    plan = openvino_genai.SchedulerConfig()
    plan.num_kv_blocks = 4
    openvino_genai.ContinuousBatchingPipeline(str(wide), plan, "CPU", {"enable_save_ov_model": True})


def _words(folder: Path) -> None:
    """The tokenizer as OpenVINO's own: its grammars and templates read it."""
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    tokenizer, back = convert_tokenizer(AutoTokenizer.from_pretrained(folder), with_detokenizer=True)
    openvino.save_model(tokenizer, folder / "openvino_tokenizer.xml")
    openvino.save_model(back, folder / "openvino_detokenizer.xml")


def _round(folders: dict[str, Path], first: Path) -> None:
    import shutil

    import nncf
    import openvino

    nncf.set_log_level(40)
    modes = {
        "int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
        "int4": {"mode": nncf.CompressWeightsMode.INT4_ASYM, "group_size": _GROUP, "ratio": 1.0},
    }
    words = [file for file in first.iterdir() if file.is_file()]
    for precision, folder in folders.items():
        model = openvino.Core().read_model(first / ".scratch" / "openvino_model.xml")
        if precision in modes:
            model = nncf.compress_weights(model, **modes[precision])
        openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
        for file in words if folder != first else ():
            shutil.copy(file, folder / file.name)
