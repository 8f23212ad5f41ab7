"""What `[convert]` asks for, checked before anything is trained: every problem at once, without torch.

    plan.check(recipe.convert, "text-classification")   # raises BadRequest
"""

import importlib.util
from typing import Any, Final

from tollway.kit.errors import BadRequest

GENERATES: Final = ("language-modeling", "chat", "preference")
NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "onnx": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "openvino": ("torch", "onnx", "onnxscript", "openvino"),
    "litert": ("torch", "litert_torch", "ai_edge_litert"),
    "pt2": ("torch",),
    "torchscript": ("torch",),
    "gguf": ("gguf",),
    "safetensors": (),
}
EXTRA: Final = {"litert": "litert", "openvino": "openvino", "onnx": "factory", "gguf": "factory"}
QUANTISE: Final[dict[str, tuple[str, ...]]] = {
    "onnx": ("int8", "int8-dynamic", "int8-static", "int4", "none"),
    "openvino": ("int8", "int8-static", "bf16", "none"),
    "litert": ("int8", "int8-dynamic", "none"),
    "gguf": ("none", "f32", "f16", "bf16", "q8_0", "q5_1", "q4_0", "q4_1", "q4_k_m"),
}
RECURRENT: Final = ("rnn", "gru", "lstm", "bilstm")
OPTIONS: Final = {"litert_length", "litert_rows", "rows", "calibration_rows", "leave", "keep_float", "adapter"}


def check(part: Any, task: str, architecture: str = "", method: str = "") -> None:
    """Raises BadRequest that lists everything that cannot work. `architecture`, `method`: of the model that is converted and
    of its training, where known."""
    problems = []
    for name in part.formats:
        missing = [module for module in NEEDS.get(name, ()) if importlib.util.find_spec(module) is None]
        if missing:
            extra = EXTRA.get(name, "factory")
            problems.append(f"{name} needs {', '.join(missing)}: pip install 'tollway[{extra}]'")
    if "gguf" in part.formats and task not in (*GENERATES, "sentence-embedding"):
        problems.append(f"gguf holds language models and sentence encoders, not {task}")
    if "pt2" in part.formats and architecture in RECURRENT:
        problems.append(f"pt2 fixes the length of what a {architecture} reads; onnx keeps it open")
    if part.options.get("adapter") and ("gguf" not in part.formats or task not in GENERATES or method not in ("", "lora")):
        problems.append('adapter = true writes the LoRA of a language model beside its gguf: [train] method = "lora"')
    if part.quantise:
        known = sorted({one for name in part.formats for one in QUANTISE.get(name, ())})
        if part.quantise == "none":
            known = []
        elif known and part.quantise not in known:
            problems.append(f"quantise = {part.quantise!r} fits none of the formats; they take {', '.join(known)}")
        elif not known:
            problems.append(f"quantise = {part.quantise!r}: {', '.join(part.formats)} cannot be quantised")
    strange = sorted(set(part.options) - OPTIONS)
    if strange:
        problems.append(f"[convert] options has {', '.join(strange)}; it knows {', '.join(sorted(OPTIONS))}")
    if problems:
        raise BadRequest(
            "[convert] cannot work:\n  " + "\n  ".join(problems), code="invalid_recipe", hint="Change the recipe."
        )
