"""Explanation: why a model answers what it answers, for text, pictures and tables; how faithful that is, is measured.

explain.explain(predictor, {"text": "a lovely film"}, "shap") -> Explanation     # any Predictor, or a net
explain.report(recipe.explain, folder, prepared, desk)                            # the recipe's step
"""

from tollway.forge.explain.explaining import DEFAULTS, FILE_NAME, METHODS, explain, read, report, summary
from tollway.inference.explain import Explanation

__all__ = ["DEFAULTS", "FILE_NAME", "METHODS", "Explanation", "explain", "read", "report", "summary"]
