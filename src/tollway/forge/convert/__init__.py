"""Conversion: a model in somebody's format becomes one we serve, and proves that it still is the same model.

figures = convert.export(recipe.convert, folder, prepared, desk)   # a recipe's step: formats, each with its parity
convert.check(recipe.convert, task)                                 # what cannot work, before anything is trained
made = convert.sentence_encoder_to_gguf(folder, out_path)           # made.parity goes into the manifest
starter.import_smollm2(store)                                       # the models that come as packages
"""

from pathlib import Path
from typing import Any

from tollway.forge.convert.plan import check
from tollway.forge.convert.sentence_encoder import Converted, sentence_encoder_to_gguf

__all__ = ["Converted", "check", "export", "sentence_encoder_to_gguf"]


def export(part: Any, folder: Path, prepared: Any, desk: Any) -> dict[str, Any]:
    """Write every format of `[convert]` into `desk.out`, each checked against the source; returns the figures."""
    from tollway.forge.convert import exporting

    return exporting.export(part, folder, prepared, desk)
