"""Evaluation: what a model is worth on rows it has not seen, beside simple baselines and its parent, with intervals.

scores = evaluate.run(recipe.evaluate, folder, prepared, desk)     # the recipe's step
scores.enforce()                                                   # Conflict naming every gate that failed
scores = evaluate.examine(task, predictor, Rows(test, train), Wishes())   # any Predictor, any rows
"""

from tollway.forge.evaluate.baselines import simple as simple_baselines
from tollway.forge.evaluate.examination import Rows, Wishes, examine, refuse, refuse_part, run
from tollway.forge.evaluate.gates import Gate, enforce_figures
from tollway.forge.evaluate.intervals import Difference, Draws, Figure, figures, paired
from tollway.forge.evaluate.scores import Comparison, Scores, read
from tollway.forge.evaluate.tasks import JUDGES, Case, Known, Predictor, judge, known_of

__all__ = [
    "JUDGES", "Case", "Comparison", "Difference", "Draws", "Figure", "Gate", "Known", "Predictor", "Rows", "Scores", "Wishes",
    "enforce_figures", "examine", "figures", "judge", "known_of", "paired", "read", "refuse", "refuse_part", "run", "simple_baselines",
]  # fmt: skip
