"""Nets that have learnt a little of each task, judged before and after: questions, conversations, preferences."""

import copy

import numpy as np
import pyarrow as pa
import pytest
import torch

from tollway.forge import evaluate, models
from tollway.forge.evaluate import Rows, Wishes
from tollway.forge.recipe import Model

PLACES = [("Ada", "Paris"), ("Ben", "Oslo"), ("Cai", "北京"), ("Dee", "Lima")]
QUESTIONS = [
    {"context": f"{who} lives in {where}. The weather there is fine.", "question": asked, "answer": answer, "answer_start": start}
    for who, where in PLACES
    for asked, answer, start in (("Where does the person live?", where, len(who) + 10), ("Who lives there?", who, 0))
]
TALKS = [
    {"messages": [{"role": "user", "content": f"Where is {who}?"}, {"role": "assistant", "content": f"{who} is in {where}."}]}
    for who, where in PLACES
]  # fmt: skip
PAIRS = [{"prompt": f"Where is {who}?", "chosen": f"{who} is in {where}.", "rejected": f"{who} is in Rome."} for who, where in PLACES]
WISHES = Wishes(bootstrap=50, noise=())


def learn(net, rows, steps, rate):
    """Steps on all rows at once."""
    features = net.features
    batch = features.collate(features.encode(rows)) | features.targets(rows)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in batch.items()}
    learner = torch.optim.Adam(net.parameters(), rate, fused=True)
    net.train()
    for _ in range(steps):
        learner.zero_grad()
        net.loss(tensors)[0].backward()
        learner.step()
    return net.eval()


def figures(task, net, rows, **more):
    scores = evaluate.examine(task, models.TorchPredictor(net), Rows(rows, rows), WISHES, **more)
    return {name: one.value for name, one in scores.metrics.items()}, scores


def test_answers_to_questions_are_compared_by_words_and_exactly():
    part = Model(base="minilm", options={"max_length": 48, "dropout": 0.0})
    torch.manual_seed(0)
    net = models.create(part, "question-answering", models.fit_features(part, "question-answering", pa.Table.from_pylist(QUESTIONS)), 0)
    before, _ = figures("question-answering", net.eval(), QUESTIONS)
    after, scores = figures("question-answering", learn(net, QUESTIONS, 30, 2e-4), QUESTIONS)
    assert before["exact_match"] < 0.5 and before["f1"] < after["f1"]
    assert after["exact_match"] >= 0.8 and after["f1"] >= after["exact_match"]
    assert scores.comparisons[0].name == "likely-sentence" and scores.comparisons[0].difference.value > 0


@pytest.fixture(scope="module")
def talker():
    """A small decoder that has heard four conversations, and itself before that."""
    part = Model(architecture="llama", options={"vocabulary": 400, "width": 48, "layers": 2, "heads": 2, "max_length": 96})
    features = models.fit_features(part, "chat", pa.Table.from_pylist(TALKS))
    net = models.create(part, "chat", features, 0)
    fresh = copy.deepcopy(net).eval()
    rows = [features.conversation(row["messages"]) for row in TALKS]
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row["input_ids"]) for row in rows], True, features.pad_id)
    labels = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row["_labels"]) for row in rows], True, -100)
    learner = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        learner.zero_grad()
        net.loss({"input_ids": ids, "labels": labels})[0].backward()
        learner.step()
    return net.eval(), fresh


def test_a_conversation_is_judged_by_what_the_assistant_says_beside_the_untrained_base(talker):
    net, fresh = talker
    before, _ = figures("chat", fresh, TALKS)
    after, scores = figures("chat", net, TALKS, base=models.TorchPredictor(fresh))
    assert before["perplexity"] > 100 and after["perplexity"] < 2
    assert after["next_token_accuracy"] > 0.7 > 0.2 > before["next_token_accuracy"]
    base = next(one for one in scores.comparisons if one.kind == "base")
    assert base.metrics["perplexity"] == pytest.approx(before["perplexity"]) and base.difference.low > 0
    assert scores.named()["vs.base"] == base.difference.value
    loud = [{"messages": [dict(row["messages"][0], content=row["messages"][0]["content"] + " " + "please " * 3), row["messages"][1]]} for row in TALKS]
    assert evaluate.tasks.text_in(loud[0]) == evaluate.tasks.text_in(TALKS[0]) == "Ada is in Paris."


def test_preferences_are_judged_by_which_answer_is_likelier(talker):
    net, fresh = talker
    assert figures("preference", net, PAIRS)[0]["preference_accuracy"] == 1.0
    margin = figures("preference", net, PAIRS)[0]["margin"]
    assert margin > figures("preference", fresh, PAIRS)[0]["margin"] + 2
