"""Augmentation: copies differ from their rows in the way the step says, labels stay, and the same seed gives the same copies."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from tollway.forge.data import samples
from tollway.forge.data.augment import augment
from tollway.forge.data.images import pixels
from tollway.forge.data.labels import distance
from tollway.kit.errors import BadRequest, Unavailable

TEXTS = pa.table({"text": ["The movie was good and very funny.", "这个商品质量非常好，但是价格昂贵。", "zzz qqq"], "label": ["a", "b", "c"]})


def copies(table, step, task="text-classification", seed=7):
    made, done = augment(table, [step], task, seed)
    assert made.slice(0, table.num_rows).equals(table.combine_chunks()) or made.slice(0, table.num_rows).to_pydict() == table.to_pydict()
    assert done[0].rows == made.num_rows - table.num_rows
    return made.slice(table.num_rows)


def test_synonyms_are_words_of_the_same_group():
    made = copies(TEXTS, "synonym:0.3")
    assert made["label"].to_pylist() == ["a", "b"]  # the third has no word with a synonym: an equal copy is none
    english, chinese = made["text"].to_pylist()
    assert english != TEXTS["text"][0].as_py() and english.split()[0] == "The" and english.endswith(".")
    assert "，" in chinese and chinese != TEXTS["text"][1].as_py()


def test_capitals_stay_capitals():
    table = pa.table({"text": ["Good GOOD good"] * 30, "label": ["a"] * 30})
    for text in copies(table, "synonym:1")["text"].to_pylist():
        first, second, third = text.split(" ")[:3]
        assert first[0].isupper() and second.isupper() and third.islower()


def test_typos_are_few_letters_away():
    rows = samples.load("movies").read("train", ["text", "label"]).slice(0, 100)
    made = copies(rows, "noise:0.03")
    before = dict(zip(range(100), rows["text"].to_pylist(), strict=True))
    assert made.num_rows > 80
    shares = [min(distance(text, other, 40) for other in before.values() if abs(len(other) - len(text)) < 20) / len(text) for text in made["text"].to_pylist()[:20]]
    assert 0 < sum(shares) / len(shares) < 0.06


@pytest.mark.parametrize("step", ["synonym:0.2", "noise:0.1", "swap:0.3", "delete:0.2"])
def test_the_same_seed_gives_the_same_copies(step):
    rows = samples.load("movies").read("train", ["text", "label"]).slice(0, 40)
    assert copies(rows, step).to_pydict() == copies(rows, step).to_pydict()
    assert copies(rows, step).to_pydict() != copies(rows, step, seed=8).to_pydict()


def test_a_share_of_the_rows():
    rows = samples.load("movies").read("train", ["text", "label"]).slice(0, 100)
    assert copies(rows, "swap:1,share=0.25").num_rows == 25


def test_images():
    rows = samples.load("mnist-5k").read("train").slice(0, 30)
    first = pixels(rows["image"][0].as_py())

    def changed(step):
        made = copies(rows, step, "image-classification")
        assert made["label"].to_pylist() == rows["label"].to_pylist()
        assert pixels(made["image"][0].as_py()).shape == (28, 28)
        return pixels(made["image"][0].as_py())

    assert np.array_equal(changed("flip"), first[:, ::-1]) and np.array_equal(changed("flip-vertical"), first[::-1])
    moved = changed("shift:2")
    fits = [np.array_equal(np.roll(first, (down, right), (0, 1)), moved) for down in range(-2, 3) for right in range(-2, 3) if down or right]
    assert sum(fits) == 1  # the digit does not touch the edge, so rolling is shifting
    assert 0 < np.abs(changed("noise:0.1").astype(int) - first).mean() < 30
    assert not np.array_equal(changed("rotate:15"), first) and not np.array_equal(changed("crop:0.8"), first)
    assert changed("brightness:0.3").max() != first.max() or first.max() == 255


def test_numbers_of_a_table_move_by_parts_of_their_deviation():
    rows = samples.load("breast-cancer").read("train")
    made = copies(rows, "noise:0.1", "tabular-classification")
    before, after = (np.asarray(table["mean radius"]) for table in (rows, made))
    assert made["label"].to_pylist() == rows["label"].to_pylist()
    assert 0.08 < (after - before).std() / before.std() < 0.12


def test_everything_wrong_with_steps_is_said_at_once():
    with pytest.raises(BadRequest) as told:
        augment(TEXTS, ["synonim", "noise:lots", "flip", "back-translation:French", "swap:3", "delete:0.1,shar=1"], "text-classification", 1)
    for word in ("did you mean 'synonym'", "'lots' is no number", "'flip' is no augmentation", "not like back-translation:Chinese", "'swap:3'", "shar means nothing"):
        assert word in told.value.message
    with pytest.raises(BadRequest, match="no augmentation for question-answering"):
        augment(TEXTS, ["synonym"], "question-answering", 1)


@pytest.fixture
def translator():
    """A server that speaks the chat API and 'translates' by spelling backwards; counts its calls, can be told to fail."""

    class Handler(BaseHTTPRequestHandler):
        calls: ClassVar[list[str]] = []
        broken: ClassVar[bool] = False
        abroad: ClassVar[bool] = False

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.calls.append(asked["messages"][0]["content"] + " | " + str(self.headers.get("Authorization")))
            said = asked["messages"][1]["content"]
            self.send_response(503 if self.broken else 200)
            self.end_headers()
            answer = said[::-1] if "Chinese" in asked["messages"][0]["content"] else said[::-1].replace("movie", "film")
            answer = "这部电影很好看" if self.abroad else answer
            self.wfile.write(json.dumps({"choices": [{"message": {"content": answer}}]}).encode())

        def log_message(self, *_):
            pass

    Handler.calls.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", Handler
        server.shutdown()


def test_back_translation_goes_there_and_back(translator, monkeypatch):
    url, handler = translator
    monkeypatch.setenv("MY_KEY", "sk-1")
    rows = TEXTS.slice(0, 1)
    made = copies(rows, f"back-translation:Chinese,url={url},model=m,key_env=MY_KEY")
    assert made["text"].to_pylist() == ["The film was good and very funny."]
    assert "into Chinese" in handler.calls[0] and "into English" in handler.calls[1] and "Bearer sk-1" in handler.calls[0]
    assert copies(rows, f"back-translation:Chinese,url={url},model=m,from=German").num_rows == 1
    assert "into German" in handler.calls[-1]


def test_what_comes_back_in_another_script_is_no_copy(translator):
    url, handler = translator
    handler.abroad = True
    made, done = augment(TEXTS.slice(0, 1), [f"back-translation:Chinese,url={url},model=m"], "text-classification", 1)
    handler.abroad = False
    assert made.num_rows == 1 and done[0].rows == 0


def test_a_translator_that_is_down_stops_the_step(translator):
    url, handler = translator
    handler.broken = True
    rows = samples.load("movies").read("train", ["text", "label"]).slice(0, 500)
    with pytest.raises(Unavailable, match="does not answer: 503"):
        augment(rows, [f"back-translation:Chinese,url={url},model=m"], "text-classification", 1)
    assert len(handler.calls) == 8
