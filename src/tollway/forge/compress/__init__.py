"""Compression: the same model, smaller or faster; each step measured before and after.

figures = compress.shrink(recipe.compress, folder, prepared, desk)   # a recipe's step; desk.out is the smaller model
compress.check(recipe.compress, task)                                # what cannot work, before anything is trained
"""

from pathlib import Path
from typing import Any

from tollway.forge.compress.plan import Step, check

__all__ = ["Step", "check", "shrink"]


def shrink(part: Any, folder: Path, prepared: Any, desk: Any) -> dict[str, Any]:
    """Carry out `[compress] steps` on a model folder; returns the table of size, speed and quality."""
    from tollway.forge.compress import shrinking

    return shrinking.shrink(part, folder, prepared, desk)
