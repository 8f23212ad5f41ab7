"""First drafts of recipes: what a dataset needs is seen in its rows, and the draft is a recipe that can be read."""

import pyarrow as pa
import pytest

from tollway.forge import drafts, recipe
from tollway.forge.data import Shelf
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest


@pytest.mark.parametrize(("yes", "metrics"), [(20, ["auc"]), (45, [])])
def test_where_most_rows_are_of_one_class_accuracy_is_not_what_judges(tmp_path, yes, metrics):
    rows = {"size": list(range(100)), "label": ["yes"] * yes + ["no"] * (100 - yes)}
    version = Shelf(tmp_path, SystemClock()).add("rent", {"train": pa.table(rows)})
    made = recipe.parse(drafts.draft("cheap", None, version))
    assert (made.recipe.task, made.evaluate.metrics) == ("tabular-classification", metrics)
    assert made.data.dataset == "rent@1" and made.model.architecture == "tabular"


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    version = Shelf(tmp_path, SystemClock()).add("rent", {"train": pa.table({"size": [1, 2, 3]})})
    with pytest.raises(BadRequest, match=r"rent@1 lacks a column for text.*size \(integer\)"):
        drafts.draft("cheap", "text-classification", version)
