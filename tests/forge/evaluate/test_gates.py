"""Gates: those of the recipe, and those that every model has to pass unless its recipe says otherwise."""

import numpy as np
import pytest

from tollway.forge import evaluate
from tollway.forge.evaluate import Rows, Wishes, gates
from tollway.kit.errors import Conflict

TASK = "tabular-classification"


def rows(count: int, seed: int = 0) -> list[dict]:
    """Three in four are "no"; "yes" shows in a number, with some noise."""
    chance = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        yes = chance.random() < 0.25
        made.append({"number": float(yes) + chance.normal(0, 0.3), "label": "yes" if yes else "no"})
    return made


class Model:
    """Says yes above a line; a share of its answers is turned round."""

    def __init__(self, line: float, wrong: float = 0.0) -> None:
        self.line, self.wrong = line, wrong

    def predict(self, given):
        chance = np.random.default_rng(1)
        found = []
        for row in given:
            yes = (row["number"] > self.line) != (chance.random() < self.wrong)
            found.append(
                {"label": "yes" if yes else "no", "score": 1.0, "scores": {"no": float(not yes), "yes": float(yes)}}
            )
        return found


def examined(model: Model, **wishes) -> evaluate.Scores:
    return evaluate.examine(TASK, model, Rows(rows(400), rows(400, 1)), Wishes(bootstrap=200, noise=(), **wishes))


def told(scores: evaluate.Scores) -> str:
    with pytest.raises(Conflict) as caught:
        scores.enforce()
    return f"{caught.value.message} {caught.value.hint}"


def test_a_good_model_passes_what_every_model_has_to_pass():
    scores = examined(Model(0.6))
    assert [(gate.name, gate.usual) for gate in scores.gates] == [("vs.majority", True), ("vs.baseline.high", True)]
    assert scores.passed and scores.not_better_than in ([], ["columns+logistic"])
    scores.enforce()


def test_a_model_that_always_says_the_same_is_stopped():
    scores = examined(Model(99.0))
    said = told(scores)
    assert "vs.majority is 0, wanted >0 (no better than majority, the simplest model there is)" in said
    assert "surely worse than columns+logistic" in said and "2 of 2" in said
    assert scores.not_better_than == ["majority", "columns+logistic"]
    assert scores.figures["not_better_than"] == "majority, columns+logistic"


def test_what_to_do_is_said_of_the_task_at_hand_and_names_the_report():
    missed = {"gates": [{"name": "vs.mean", "rule": ">0", "value": -0.5, "passed": False, "why": "no better", "usual": True}]}
    with pytest.raises(Conflict) as caught:
        gates.enforce_figures(missed, "tabular-regression", "`tollway run report run_1`")
    assert "`tollway run report run_1`" in caught.value.hint and 'require = {"vs.mean" = ">=-1.01"}' in caught.value.hint
    assert "one class" not in caught.value.hint
    with pytest.raises(Conflict, match=r"vs\.mean") as caught:
        gates.enforce_figures(missed, "tabular-classification")
    assert "one class" in caught.value.hint


def test_better_than_a_guess_and_surely_worse_than_a_line_is_stopped_too():
    scores = examined(Model(0.6, wrong=0.12))
    assert scores.not_better_than == ["columns+logistic"]
    assert [gate.passed for gate in scores.gates] == [True, False] and "vs.baseline.high" in told(scores)


@pytest.mark.parametrize("name", ["vs.majority", "vs.baseline", "vs.baseline.low", "vs.columns+logistic.high"])
def test_a_recipe_that_names_a_baseline_decides_for_itself(name):
    scores = examined(Model(99.0), require={name: ">=-1"})
    assert [gate.name for gate in scores.gates] == [name] and scores.passed
    assert scores.not_better_than  # it is told so all the same


def test_other_gates_do_not_replace_the_usual_ones():
    scores = examined(Model(99.0), require={"accuracy": ">=0.5"})
    assert [gate.name for gate in scores.gates] == ["accuracy", "vs.majority", "vs.baseline.high"]


def test_without_baselines_or_intervals_there_is_nothing_to_hold_it_against():
    assert examined(Model(99.0), baseline=False).gates == []
    assert gates.usual({}, {"vs.majority": 0.1, "vs.baseline.high": None}, ["majority", "line"])[0][0] == "vs.majority"
    assert len(gates.usual({}, {"vs.majority": 0.1, "vs.baseline.high": None}, ["majority", "line"])) == 1


def test_where_one_class_is_rare_another_figure_may_judge():
    """Accuracy cannot beat "no" for everybody with a cautious line; the order of the scores can."""

    class Cautious(Model):
        def predict(self, given):
            shares = [1 / (1 + np.exp(2 - row["number"])) for row in given]
            return [{"label": "no", "score": 1 - one, "scores": {"no": 1 - one, "yes": one}} for one in shares]

    assert "vs.majority" in told(examined(Cautious(0)))
    assert examined(Cautious(0), metrics=["auc"]).passed
