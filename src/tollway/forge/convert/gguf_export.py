"""The `gguf` format of a recipe's [convert]: a language model (or a sentence encoder) as one file for llama.cpp.

For `convert.export`. A LoRA is added into its base first; as a file of its own, for a base that many share, it is written
by `adapter` (for a recipe: `beside`). Both end in a parity check against the net, run by the engine that will serve it.
"""

from pathlib import Path
from typing import Any, Final

from tollway.forge.convert import gguf_decoder, gguf_lora, gguf_parity
from tollway.kit.errors import BadRequest, Conflict
from tollway.kit.said import say

FILE: Final = "model.gguf"
ADAPTER: Final = "adapter.gguf"
_PROMPTS: Final = 6
_PROMPT_TOKENS: Final = 48
_DEFAULT: Final = "q8_0"  # models of this size lose at four bits what a buyer notices


def export(part: Any, folder: Path, prepared: Any, desk: Any) -> dict[str, Any]:
    """Write `model.gguf` into `desk.out`; its figures. Raises Conflict when the engine makes something else of it."""
    from tollway.forge import models

    if prepared is not None and prepared.task == "sentence-embedding":
        return _sentence_encoder(folder, Path(desk.out))
    net: Any = models.load(folder, home=desk.home)
    precision = _precision(part, net)
    out = Path(desk.out) / FILE
    try:
        made = gguf_decoder.write(folder, out, precision, net=net)
        desk.note(say("convert.held", "gguf: the engine is held against torch on {count} prompts", count=_PROMPTS))
        parity = gguf_parity.compare(net, out, prompts(net, prepared))
        parity.require(precision, getattr(part, "tolerance", None))
    except BadRequest as refused:
        out.unlink(missing_ok=True)
        raise Conflict(refused.message, code=refused.code, hint=refused.hint) from None
    desk.note(
        say("convert.gguf", "gguf {precision}: the same next token in {agreement_share} of {steps} steps, log-probabilities differ "
            "by {difference} on average, {size}", precision=precision, agreement_share=parity.agreement, steps=parity.steps,
            difference=f"{parity.mean_difference:.2g}", size=f"{made.bytes / 1e6:.1f} MB")
    )  # fmt: skip
    return {
        "format": "gguf", "holds": True, "precision": precision, "bytes": made.bytes, "drop": 1 - parity.agreement,
        "parameters": made.parameters, **parity.figures(),
    }  # fmt: skip


def beside(folder: Path, prepared: Any, desk: Any) -> dict[str, Any]:
    """Write `adapter.gguf` into `desk.out`: the LoRA alone, held against the net on a float16 file of its base, which is not
    kept. Its figures. Raises Conflict when it is another model, or no LoRA."""
    from tollway.forge import models

    if not (folder / gguf_lora.CONFIG).is_file():
        raise Conflict("There is no LoRA to write beside the model.", hint='[train] method = "lora", and nothing that merges it after.')
    base = Path(desk.work) / "base.gguf"
    try:
        gguf_decoder.write(folder, base, "f16", net=models.untrained(folder, desk.home))
        made = adapter(folder, Path(desk.out) / ADAPTER, base, prompts_of=prepared, home=desk.home)
    except BadRequest as refused:
        raise Conflict(refused.message, code=refused.code, hint=refused.hint) from None
    finally:
        base.unlink(missing_ok=True)
    desk.note(
        say("convert.adapter", "{file}, the LoRA alone: on its base the same next token in {agreement_share} of {steps} steps, "
            "log-probabilities differ by {difference} on average, {size}", file=ADAPTER, agreement_share=made["agreement"],
            steps=made["steps"], difference=f"{made['mean_difference']:.2g}", size=f"{made['bytes'] / 1e6:.1f} MB")
    )  # fmt: skip
    return {"holds": True, "drop": 1 - made["agreement"], **made}


def adapter(
    folder: Path, out: Path, base_gguf: Path, *, prompts_of: Any = None, check: bool = True, home: Path | None = None
) -> dict[str, Any]:
    """Write the LoRA in a model folder as `out`, for the base whose GGUF file is `base_gguf`; its figures.

    With `check`, the engine with base and adapter is held against torch with both. Raises BadRequest when they differ.
    """
    from tollway.forge import models
    from tollway.forge.models import lm_decoder

    made = gguf_lora.write(folder, out, lm_decoder.read_shape(folder))
    figures: dict[str, Any] = {"format": "gguf-lora", "bytes": made.bytes, "parameters": made.parameters}
    if check:
        net: Any = models.load(folder, home=home)
        parity = gguf_parity.compare(net, base_gguf, prompts(net, prompts_of), adapter=out)
        try:
            parity.require("q8_0")
        except BadRequest:
            out.unlink(missing_ok=True)
            raise
        figures |= parity.figures()
    return figures


def prompts(net: Any, prepared: Any) -> list[list[int]]:
    """The beginnings of some test rows (else training rows, else what the features think plausible), as tokens."""
    rows: list[Any] = []
    for split in ("test", "validation", "train"):
        if prepared is not None and not rows:
            rows = prepared.read(split).slice(0, _PROMPTS).to_pylist()
    room = min(_PROMPT_TOKENS, net.shape.context // 2)
    encoded = net.features.encode(rows or net.features.example(_PROMPTS))
    return [one["input_ids"][:room].tolist() for one in encoded if len(one["input_ids"])][:_PROMPTS]


def _precision(part: Any, net: Any) -> str:
    wanted = str(getattr(part, "quantise", "") or "")
    if wanted == "none":
        return "f32"
    if wanted == "int8":
        return "q8_0"
    return wanted or (_DEFAULT if net.shape.width % 32 == 0 else "f16")


def _sentence_encoder(folder: Path, out: Path) -> dict[str, Any]:
    from tollway.forge.convert.sentence_encoder import sentence_encoder_to_gguf

    made = sentence_encoder_to_gguf(folder, out / FILE)
    cosine = float(made.parity["cosine_min"])
    return {"format": "gguf", "holds": True, "bytes": made.path.stat().st_size, "agreement": cosine,
            "max_difference": 1 - cosine, "drop": 0.0, **made.parity}  # fmt: skip
