"""Writing token by token: greedy and with beams, each row as if alone, held against trying everything."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from tollway import inference
from tollway.inference import answers, sequence

ROWS = pa.table({"source": ["the dog", "a cat", "我爱狗"] * 3, "target": ["el perro", "un gato", "amo los perros"] * 3})
START, END, WORDS = 0, 1, 5


@pytest.fixture(scope="module")
def features():
    return inference.fit("translation", ROWS, {"vocabulary": 300})


def chain(seed):
    """A model whose next token depends on the row's first token and the last two written: any probabilities may come."""
    table = np.random.default_rng(seed).standard_normal((8, WORDS, WORDS, WORDS)) * 2

    def run(arrays):
        written = arrays["decoder_input_ids"]
        last = written[:, -1]
        before = written[:, -2] if written.shape[1] > 1 else np.zeros_like(last)
        step = table[arrays["input_ids"][:, 0] % 8, before, last]
        return {"logits": np.repeat(step[:, None], written.shape[1], axis=1)}

    return run


def best_of_all(run, first, limit):
    """The likeliest ended sentence of at most `limit` tokens, by trying every one."""
    best = (-np.inf, ())
    for length in range(limit):
        for words in itertools.product([one for one in range(WORDS) if one != END], repeat=length):
            tokens, total = [START], 0.0
            for token in (*words, END):
                feed = {"input_ids": np.array([[first]]), "decoder_input_ids": np.array([tokens])}
                total += sequence.log_softmax(run(feed)["logits"][0, -1])[token]
                tokens.append(token)
            best = max(best, (total / (length + 1) ** sequence._LENGTH_POWER, words))
    return list(best[1])


@pytest.mark.parametrize("seed", range(6))
def test_wide_beams_find_what_trying_everything_finds(seed):
    run, limit = chain(seed), 4
    arrays = {"input_ids": np.array([[3]]), "attention_mask": np.array([[1]])}
    written, _ = sequence._beams(run, arrays, np.array([limit]), START, END, 400)
    assert written[0] == best_of_all(run, 3, limit)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_row_is_written_as_if_alone(features, beams):
    features.options["beams"] = beams
    vocabulary = features.vocabulary_size
    table = np.random.default_rng(1).standard_normal((vocabulary, vocabulary))
    table[:, features.end_id] += 2.5

    def run(arrays):
        sums = (arrays["input_ids"] * arrays["attention_mask"]).sum(1, keepdims=True)
        return {"logits": table[(arrays["decoder_input_ids"] + sums) % vocabulary]}

    predictor = inference.Predictor(features, run)
    rows = [{"source": text} for text in ("the dog", "", "a cat and a dog and a cat " * 3, "我爱狗")]
    together = predictor.predict(rows)
    assert together == [predictor.predict([row])[0] for row in rows]
    features.options["beams"] = 1


def test_writing_stops_though_the_model_never_ends(features):
    def run(arrays):
        logits = np.zeros((*arrays["decoder_input_ids"].shape, features.vocabulary_size))
        logits[..., features.vocabulary_size - 1] = 9
        return {"logits": logits}

    arrays = features.collate(features.encode([{"source": "the dog"}]))
    made = features.generate(run, arrays)["tokens"]
    assert made.shape[1] <= 2 * arrays["input_ids"].shape[1] + 16


def test_targets_end_with_the_end_and_can_be_read_back(features):
    labels = features.targets(ROWS.to_pylist()[:3])["labels"]
    for row, text in zip(labels, ROWS["target"].to_pylist(), strict=False):
        tokens = [int(one) for one in row if one != inference.IGNORE]
        assert tokens[-1] == features.end_id
        assert features.tokenizer.decode(tokens[:-1]) == text


def test_what_is_written_is_counted_with_its_end_mark(features):
    def run(arrays):
        logits = np.zeros((*arrays["decoder_input_ids"].shape, features.vocabulary_size))
        done = arrays["decoder_input_ids"].shape[1] > 3
        logits[..., features.end_id if done else features.vocabulary_size - 1] = 9
        return {"logits": logits}

    predictor = inference.Predictor(features, run)
    rows = [{"source": "the dog"}, {"source": "a cat"}]
    found = predictor.predict(rows)
    assert [one["tokens"] for one in found] == [4, 4]
    read = sum(predictor.tokens(rows))
    usage = answers.usage_of(features, features.encode(rows), "text", found)
    assert usage == {"prompt_tokens": read, "completion_tokens": 8, "total_tokens": read + 8}
