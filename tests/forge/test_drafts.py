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


def drafted(tmp_path, rows, roles=None):
    version = Shelf(tmp_path, SystemClock()).add("rows", {"train": pa.table(rows)}, extra={"roles": roles or {}})
    return recipe.parse(drafts.draft("made", None, version))


def test_what_the_import_was_told_is_the_label_goes_before_what_looks_like_one(tmp_path):
    rows = {"paid": ["1", "0"] * 50, "purpose": ["car", "home"] * 50, "age": [20 + one % 40 for one in range(100)]}
    told = drafted(tmp_path, rows, {"label": "paid"})
    assert (told.recipe.task, told.data.columns) == ("tabular-classification", {"label": "paid"})


def test_a_label_of_numbers_is_what_a_regression_predicts(tmp_path):
    rows = {"rooms": [1, 2] * 50, "rent": [one * 1.5 for one in range(100)], "street": ["a", "b"] * 50}
    told = drafted(tmp_path, rows, {"label": "rent"})
    assert (told.recipe.task, told.data.columns) == ("tabular-regression", {"target": "rent"})


def test_a_class_goes_before_a_number_where_nobody_said_what_is_the_label(tmp_path):
    rows = {"outcome_": ["yes", "no"] * 50, "age": [20 + one % 40 for one in range(100)]}
    assert drafted(tmp_path, rows).data.columns == {"label": "outcome_"}


PROSE = [f"sentence {one} of a text that is long enough to be read as one, not as the name of a class" for one in range(100)]
CHINESE = [f"这家酒店的第{one}间房非常干净，服务也很周到，下次来这里还会再住" for one in range(100)]


@pytest.mark.parametrize(
    ("rows", "task"),
    [
        ({"source": PROSE, "target": PROSE[::-1]}, "translation"),
        ({"sentence1": PROSE, "sentence2": PROSE[::-1], "similarity": [0.5, 0.25] * 50}, "sentence-embedding"),
        ({"review": PROSE, "score": [4.5, 1.25] * 50}, "text-regression"),
        ({"id": list(range(100)), "text": PROSE}, "language-modeling"),
        ({"title": PROSE[::-1], "text": PROSE}, "language-modeling"),
        ({"text": PROSE, "stars": [1, 2, 3, 4, 5] * 20}, "text-classification"),
        ({"title": PROSE[::-1], "text": PROSE, "mood": ["good", "bad"] * 50}, "text-classification"),
    ],
)
def test_columns_say_what_can_be_learnt_from_them(tmp_path, rows, task):
    assert drafted(tmp_path, rows).recipe.task == task


def test_texts_that_are_not_english_do_not_start_from_a_base_that_reads_english_only(tmp_path):
    label = ["good", "bad"] * 50
    assert drafted(tmp_path / "zh", {"text": CHINESE, "label": label}).model.architecture == "bilstm"
    assert drafted(tmp_path / "en", {"text": PROSE, "label": label}).model.base == "minilm"


def test_an_encoder_from_scratch_is_given_what_it_can_learn(tmp_path):
    version = Shelf(tmp_path, SystemClock()).add("tales", {"train": pa.table({"text": ["Once upon a time."] * 9})}, kinds={"text": "text"})
    made = recipe.parse(drafts.draft("reader", None, version, architecture="bert"))
    assert made.train.objective == "masked" and made.convert is not None and made.convert.formats == ["safetensors"]
