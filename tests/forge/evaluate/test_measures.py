"""Metrics against scikit-learn, sacrebleu and published worked examples; weights mean repeated rows."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from tollway.forge.evaluate import classification, intervals, language, pictures, ranking, regression


def classifier(rng, rows=200, labels=("good", "bad", "so-so")):
    """Truth and answers of a mediocre classifier over some labels."""
    truth = rng.integers(0, len(labels), rows)
    logits = rng.normal(size=(rows, len(labels)))
    logits[np.arange(rows), truth] += rng.random(rows) * 1.5
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = [
        {
            "label": labels[row.argmax()],
            "score": float(row.max()),
            "scores": dict(zip(labels, row.tolist(), strict=True)),
        }
        for row in shares
    ]
    return [labels[one] for one in truth], answers, shares


@pytest.mark.parametrize("labels", [("no", "yes"), ("a", "b", "c"), tuple("abcdefg")])
def test_classification_is_scikit_learns(labels):
    truth, answers, shares = classifier(np.random.default_rng(1), 300, labels)
    given = [answer["label"] for answer in answers]
    ours = {one.name: one.value(300) for one in classification.measures(classification.judge(truth, answers, labels))}
    precision, recall, f1, _ = reference.precision_recall_fscore_support(truth, given, average="macro", zero_division=0)
    binary = len(labels) == 2
    theirs = {
        "accuracy": reference.accuracy_score(truth, given),
        "balanced_accuracy": reference.balanced_accuracy_score(truth, given),
        "precision": precision, "recall": recall, "f1": f1,
        "log_loss": reference.log_loss(truth, shares, labels=sorted(labels)),
        "auc": reference.roc_auc_score([one == labels[1] for one in truth], shares[:, 1]) if binary
        else reference.roc_auc_score(truth, shares, multi_class="ovr", labels=sorted(labels)),
    }  # fmt: skip
    if len(labels) > 5:
        theirs["top5_accuracy"] = reference.top_k_accuracy_score(truth, shares, k=5, labels=sorted(labels))
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-12)
    each = reference.precision_recall_fscore_support(truth, given, labels=sorted(labels), zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), each, strict=False):
        assert [ours[f"{name}.{label}"] for label in sorted(labels)] == pytest.approx(list(values))
    assert np.array_equal(
        classification.confusion(classification.judge(truth, answers, labels)),
        reference.confusion_matrix(truth, given, labels=labels),
    )


def test_the_worked_example_of_scikit_learns_auc():
    """From roc_auc_score's documentation and the user guide: y_scores 0.1 0.4 0.35 0.8 give 0.75."""
    answers = [
        {"label": "1" if s > 0.5 else "0", "score": max(s, 1 - s), "scores": {"0": 1 - s, "1": s}}
        for s in (0.1, 0.4, 0.35, 0.8)
    ]
    found = classification.measures(classification.judge(["0", "0", "1", "1"], answers, ("0", "1")))
    assert next(one for one in found if one.name == "auc").value(4) == 0.75


def test_calibration_by_hand():
    """Two bins of 10: in (0.6, 0.7] sure 0.65 and right in half; in (0.9, 1] sure 0.95 and always right."""
    confidence = np.array([0.65] * 4 + [0.95] * 6)
    right = np.array([True, False, True, False] + [True] * 6)
    assert classification.calibration_error(confidence, right, bins=10).value(10) == pytest.approx(
        0.4 * 0.15 + 0.6 * 0.05
    )
    points = classification.reliability(confidence, right, bins=10)
    assert [(point["rows"], point["accuracy"]) for point in points] == [(4, 0.5), (6, 1.0)]


def test_a_temperature_undoes_the_one_that_was_applied():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(4000, 3)) * 2
    truth = np.array([rng.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    hot = classification.warmed(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1 / 2.5)  # overconfident
    judged = classification.Judged(("a", "b", "c"), truth, hot.argmax(axis=1), hot.max(axis=1), hot)
    assert classification.temperature(judged) == pytest.approx(2.5, rel=0.1)


def test_a_label_the_model_does_not_know_counts_as_wrong():
    answers = [{"label": "a", "score": 0.9, "scores": {"a": 0.9, "b": 0.1}}] * 2
    judged = classification.judge(["a", "c"], answers, ("a", "b"))
    values = {one.name: one.value(2) for one in classification.measures(judged)}
    assert values["accuracy"] == 0.5 and values["recall.c"] == 0 and math.isfinite(values["log_loss"])


def test_regression_is_scikit_learns():
    rng = np.random.default_rng(3)
    truth = rng.normal(50, 9, 400)
    guess = truth + rng.normal(1, 4, 400)
    ours = {one.name: one.value(400) for one in regression.measures(truth, guess)}
    assert ours["rmse"] == pytest.approx(reference.root_mean_squared_error(truth, guess))
    assert ours["mae"] == pytest.approx(reference.mean_absolute_error(truth, guess))
    assert ours["r2"] == pytest.approx(reference.r2_score(truth, guess))
    spearman, pearson = regression.correlation(truth, guess)
    import scipy.stats

    assert pearson.value(400) == pytest.approx(scipy.stats.pearsonr(truth, guess).statistic)
    assert spearman.value(400) == pytest.approx(scipy.stats.spearmanr(truth, guess).statistic)


def test_the_worked_examples_of_scikit_learns_regression():
    """mean_squared_error and r2_score: y_true 3 -0.5 2 7, y_pred 2.5 0 2 8 give 0.375 and 0.948..."""
    ours = {one.name: one.value(4) for one in regression.measures(np.array([3, -0.5, 2, 7]), np.array([2.5, 0, 2, 8]))}
    assert ours["rmse"] ** 2 == pytest.approx(0.375) and ours["r2"] == pytest.approx(0.9486081370449679)


SENTENCES = [
    ("The dog bit the man.", "The dog bit the man."),
    ("It was not unexpected.", "It wasn't surprising."),
    ("The man bit him first.", "The man had just bitten him."),
    ("Nobody came to the party that evening", "Nobody was at the party this evening"),
]


def test_bleu_and_chrf_are_sacrebleus():
    from sacrebleu.metrics import BLEU, CHRF

    wanted, got = [one for one, _ in SENTENCES], [two for _, two in SENTENCES]
    ours = {one.name: one.value(4) for one in language.translation(wanted, got)}
    assert ours["bleu"] == pytest.approx(BLEU(effective_order=True).corpus_score(got, [wanted]).score)
    assert ours["chrf"] == pytest.approx(CHRF().corpus_score(got, [wanted]).score)
    assert ours["exact_match"] == 0.25


def test_bleu_of_texts_too_short_for_four_words_goes_as_far_as_they_do():
    same = ["rot zwei Haus", "blau drei Boot"]
    assert next(one for one in language.translation(same, same) if one.name == "bleu").value(2) == pytest.approx(100)


def test_bleu_of_chinese_counts_characters():
    from sacrebleu.metrics import BLEU

    wanted, got = ["今天天气很好，我们去公园。", "价格是多少？"], ["今天天气不错，我们去公园。", "价格是多少？"]
    ours = language.translation(wanted, got)
    expected = BLEU(tokenize="zh", effective_order=True).corpus_score(got, [wanted]).score
    assert next(one for one in ours if one.name == "bleu").value(2) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("want", "got", "f1", "exact"),
    [
        ("the Norman conquest", "Norman Conquest!", 1.0, True),  # articles, case and punctuation do not count
        ("Denver Broncos", "the Broncos", 2 / 3, False),
        ("1066", "in the year 1066", 0.5, False),  # "in year 1066": one of three right, all of one found
        ("北京市", "北京", 0.8, False),
        ("", "", 1.0, True),
        ("x", "", 0.0, False),
    ],
)
def test_answers_follow_squads_rules(want, got, f1, exact):
    scored = {one.name: one.value(1) for one in language.answers([[want]], [got])}
    assert scored == {"f1": pytest.approx(f1), "exact_match": float(exact)}


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["B-PER", "I-PER", "O", "B-LOC"], [("PER", 0, 2), ("LOC", 3, 4)]),
        (["B-PER", "B-PER"], [("PER", 0, 1), ("PER", 1, 2)]),
        (["I-PER", "I-LOC"], [("PER", 0, 1), ("LOC", 1, 2)]),  # a change of label begins a span
        (["B-PER", "E-PER", "S-LOC"], [("PER", 0, 2), ("LOC", 2, 3)]),
        (["O", "NAME", "NAME", "O"], [("NAME", 1, 3)]),
        ([], []),
    ],
)
def test_spans_of_tags(tags, spans):
    assert language.spans_of(tags) == spans


def test_a_span_with_one_wrong_end_is_wrong():
    found = {
        one.name: one.value(1)
        for one in language.entities([[("PER", 0, 2), ("LOC", 3, 4)]], [[("PER", 0, 1), ("LOC", 3, 4)]])
    }
    assert found["f1"] == 0.5 and found["f1.LOC"] == 1 and found["f1.PER"] == 0


def test_characters_map_to_tokens():
    tokens = ["Ada", "Lovelace", "wrote"]
    assert language.spans_in_tokens([{"label": "PER", "start": 0, "end": 12}], tokens) == [("PER", 0, 2)]


def test_perplexity_of_a_fair_coin_is_two():
    found = {one.name: one.value(2) for one in language.perplexity([3 * math.log(2), 5 * math.log(2)], [3, 5], [3, 5])}
    assert found == {"perplexity": pytest.approx(2), "bits_per_byte": pytest.approx(1)}


def test_ndcg_is_scikit_learns():
    rng = np.random.default_rng(5)
    for _ in range(20):
        items = list(range(20))
        relevant = set(rng.choice(20, 6, replace=False).tolist())
        order = rng.permutation(20).tolist()
        scores = [-order.index(item) for item in items]
        ours = next(one for one in ranking.measures([relevant], [order]) if one.name == "ndcg@10").value(1)
        theirs = reference.ndcg_score([[int(item in relevant) for item in items]], [scores], k=10)
        assert ours == pytest.approx(theirs)


def test_recall_and_rank_by_hand():
    values = {
        one.name: one.value(2)
        for one in ranking.measures([{"a", "b"}, {"z"}], [["x", "a", "y", "b"], ["q"]], depths=(3,))
    }
    assert values["recall@3"] == pytest.approx((0.5 + 0) / 2)
    assert values["mrr"] == pytest.approx((1 / 2 + 0) / 2)
    assert values["map@3"] == pytest.approx((1 / 2 / 2 + 0) / 2)


def test_frechet_distance_of_gaussians_by_formula():
    """Two diagonal Gaussians: |m1 - m2|^2 + sum (s1 - s2)^2."""
    rng = np.random.default_rng(7)
    base = rng.normal(size=(200_000, 2))
    one, two = base * [1.0, 2.0], base * [3.0, 2.0] + [1.0, -2.0]
    assert pictures.gaussian_distance(one, two) == pytest.approx(1 + 4 + 4, rel=0.02)
    assert pictures.frechet(one[:500], one[:500]) == pytest.approx(0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25))
def test_a_weight_means_a_repeated_row(seed, rows):
    rng = np.random.default_rng(seed)
    truth, answers, _ = classifier(rng, rows)
    weights = rng.integers(0, 4, rows)
    if not weights.any():
        weights[0] = 1
    again = np.repeat(np.arange(rows), weights)
    labels = ("good", "bad", "so-so")
    whole = classification.measures(classification.judge(truth, answers, labels))
    repeated = classification.measures(
        classification.judge([truth[at] for at in again], [answers[at] for at in again], labels)
    )
    numbers = regression.measures(np.arange(rows) % 5.0, rng.normal(size=rows))
    for one, other in zip(whole, repeated, strict=True):
        assert one.at(weights[None].astype(float))[0] == pytest.approx(other.value(len(again)), nan_ok=True), one.name
    assert all(math.isfinite(one.value(rows)) or one.name == "r2" for one in numbers)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """300 samples of 80 coin flips at 0.7: the 95 % interval holds 0.7 in roughly 95 % of them."""
    rng = np.random.default_rng(11)
    held = 0
    for at in range(300):
        flips = rng.random(80) < 0.7
        figure = intervals.figures([classification.mean("accuracy", flips)], intervals.Draws(80, 300, at))["accuracy"]
        held += figure.low <= 0.7 <= figure.high
    assert 0.90 <= held / 300 <= 0.99


def test_pairing_sees_a_difference_that_two_intervals_hide():
    rng = np.random.default_rng(12)
    base = rng.random(400) < 0.7
    better = base | (rng.random(400) < 0.1)
    ours, theirs = classification.mean("accuracy", better), classification.mean("accuracy", base)
    draws = intervals.Draws(400, 500)
    alone = intervals.figures([ours], draws)["accuracy"], intervals.figures([theirs], draws)["accuracy"]
    assert alone[0].low < alone[1].high  # the two intervals overlap
    apart = intervals.paired(ours, theirs, draws)
    assert apart.low > 0 and apart.better_share == 1.0
    assert intervals.paired(ours, ours, draws).value == 0


def test_rows_of_a_group_are_drawn_together():
    groups = np.array([0, 0, 1, 1, 1])
    for weights in intervals.Draws(5, 50, 1, groups):
        assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 2] == weights[:, 4]).all()
