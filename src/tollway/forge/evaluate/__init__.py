"""Evaluation: what a model is worth on rows it has not seen, beside simple baselines and its parent, with intervals.

scores = evaluate.run(recipe.evaluate, folder, prepared, desk)     # the recipe's step
scores.enforce()                                                   # Conflict naming every gate that failed
scores = evaluate.examine(task, predictor, Rows(test, train), Wishes())   # any Predictor, any rows
"""

from typing import TYPE_CHECKING

from tollway.kit import lazy

if TYPE_CHECKING:
    from tollway.forge.evaluate.baselines import simple as simple_baselines
    from tollway.forge.evaluate.examination import Rows, Wishes, examine, refuse, refuse_part, run
    from tollway.forge.evaluate.gates import Gate, enforce_figures
    from tollway.forge.evaluate.intervals import Draws, figures, paired
    from tollway.forge.evaluate.names import check
    from tollway.forge.evaluate.scores import Comparison, Difference, Figure, Scores, read
    from tollway.forge.evaluate.tasks import JUDGES, Case, Known, Predictor, judge, known_of

__all__ = [
    "JUDGES", "Case", "Comparison", "Difference", "Draws", "Figure", "Gate", "Known", "Predictor", "Rows", "Scores", "Wishes",
    "check", "enforce_figures", "examine", "figures", "judge", "known_of", "paired", "read", "refuse", "refuse_part",
    "run", "simple_baselines",
]  # fmt: skip

_LAZY = {
    "check": "names", "simple_baselines": "baselines.simple", "Rows": "examination", "Wishes": "examination", "examine":
    "examination", "refuse": "examination", "refuse_part": "examination", "run": "examination", "Gate": "gates",
    "enforce_figures": "gates", "Difference": "scores", "Draws": "intervals", "Figure": "scores", "figures":
    "intervals", "paired": "intervals", "Comparison": "scores", "Scores": "scores", "read": "scores", "JUDGES":
    "tasks", "Case": "tasks", "Known": "tasks", "Predictor": "tasks", "judge": "tasks", "known_of": "tasks",
}  # fmt: skip
__getattr__ = lazy.parts(__name__, _LAZY)
