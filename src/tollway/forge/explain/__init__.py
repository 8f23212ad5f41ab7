"""Explanation: why a model answers what it answers, for text, pictures and tables; how faithful that is, is measured.

explain.explain(predictor, {"text": "a lovely film"}, "shap") -> Explanation     # any Predictor, or a net
explain.report(recipe.explain, folder, prepared, desk)                            # the recipe's step
"""

from typing import TYPE_CHECKING

from tollway.forge.explain.kept import FILE_NAME, read
from tollway.kit import lazy

if TYPE_CHECKING:
    from tollway.forge.explain.explaining import DEFAULTS, INSIDE, METHODS, check, explain, report, summary
    from tollway.inference.explain import Explanation

__all__ = ["DEFAULTS", "FILE_NAME", "INSIDE", "METHODS", "Explanation", "check", "explain", "read", "report", "summary"]

_LAZY = dict.fromkeys(("DEFAULTS", "INSIDE", "METHODS", "Explanation", "check", "explain", "report", "summary"), "explaining")
__getattr__ = lazy.parts(__name__, _LAZY)
