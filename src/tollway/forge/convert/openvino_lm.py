"""A language model as a GGUF file becomes a folder that OpenVINO GenAI serves: model, tokenizer, template.

    openvino_lm.write(package.weights_path, Path("openvino-int8"), "int8")

The numbers are decoded to float16 first and rounded anew: OpenVINO's own reader takes four-bit GGUF files for something
else (a fifth of the text agrees). Works in a limited process. The folder holds what `serve.engines.openvino_genai` reads.
The work is `openvino_lm_child`'s: this side needs no torch, so that `missing` can be asked where there is none.
"""

import importlib.util
from pathlib import Path
from typing import Final

from tollway.kit import sandbox
from tollway.kit.errors import BadRequest, Conflict

PRECISIONS: Final = ("int8", "int4", "f16")
_GIB: Final = 1 << 30


def missing() -> list[str]:
    """Libraries that this needs and that are not installed."""
    names = ("openvino", "openvino_genai", "openvino_tokenizers", "nncf", "torch", "transformers")
    return [name for name in names if importlib.util.find_spec(name) is None]


def write(source: Path, out: Path, precision: str = "int8") -> Path:
    """Write the folder `out`. Raises BadRequest for a model that is not known here, Conflict when the libraries fail."""
    return write_all(source, {precision: out})[precision]


def write_all(source: Path, outs: dict[str, Path]) -> dict[str, Path]:
    """The same for several precisions at once, reading the file once. All folders must lie in one place."""
    strange = [one for one in outs if one not in PRECISIONS]
    if strange:
        raise BadRequest(f"{strange[0]!r} is none of {', '.join(PRECISIONS)}.", code="invalid_value")
    if missing():
        raise Conflict(
            f"To write OpenVINO's format, {', '.join(missing())} must be installed.",
            code="missing_library",
            hint="pip install 'tollway[factory,openvino]'",
        )
    place = next(iter(outs.values())).absolute().parent
    for folder in outs.values():
        folder.mkdir(parents=True, exist_ok=True)
    orders = {"source": str(source.absolute()), "outs": {one: str(path.absolute()) for one, path in outs.items()}}
    limits = sandbox.ResourceLimits(memory_bytes=16 * _GIB + 24 * source.stat().st_size)
    sandbox.call(f"{__name__}_child:written", orders, writable=place, limits=limits)
    return outs
