"""Word vectors from files: GloVe's format, read line by line, what is missing is counted, what is wrong has a line number."""

import numpy as np
import pytest
import torch

from tests.forge.models import worlds
from tollway.forge.models import vectors
from tollway.kit.errors import BadRequest, NotFound

GLOVE = "the 0.1 0.2 0.3\nlovely 1.0 -1.0 0.5\n电 0.5 0.5 0.5\n. . . 0.4 0.4 0.4\nFilm -1 -2 -3\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE, encoding="utf-8")
    return path


def test_wanted_words_get_their_vectors_and_the_rest_is_counted(file):
    found = vectors.read(file, ["[PAD]", "lovely", "电", "zebra", "Film"])
    assert found.places.tolist() == [1, 2, 4]
    assert found.rows.tolist() == [[1, -1, 0.5], [0.5, 0.5, 0.5], [-1, -2, -3]]
    assert found.missing_share == pytest.approx(0.4)


def test_words_with_spaces_keep_them(file):
    assert vectors.read(file, [". . ."]).rows.tolist() == [pytest.approx([0.4, 0.4, 0.4])]


def test_lower_case_serves_where_the_exact_spelling_is_missing(file):
    found = vectors.read(file, ["Lovely", "film", "THE"])
    assert found.places.tolist() == [0, 2]


def test_word2vecs_first_line_is_skipped(tmp_path):
    path = tmp_path / "w2v.txt"
    path.write_text("2 3\n" + GLOVE)
    assert vectors.read(path, ["the"]).width == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("the 0.1 0.2\nlovely 0.1\n", 2),
        ("the 0.1 x\n", 1),
        ("the 0.1 nan\n", 1),
        ("the\n", 1),
        ("a 1 2\nthe 1 2 3 4 five 6\n", 2),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, line):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(BadRequest, match=f"Line {line} of bad.txt|no vector for any"):
        vectors.read(path, ["the", "lovely"])


def test_a_file_that_is_missing_or_of_other_words_is_told(file, tmp_path):
    with pytest.raises(NotFound):
        vectors.read(tmp_path / "none.txt", ["the"])
    with pytest.raises(BadRequest, match="no vector for any of the 1 words"):
        vectors.read(file, ["zebra"])


def test_a_net_begins_with_the_vectors_and_may_keep_them(file, tmp_path):
    from tollway.forge import models

    net = worlds.make("text-classification", architecture="bilstm",
                      options={"vectors": str(file), "freeze_vectors": True, "min_count": 1, "width": 8})  # fmt: skip
    place = net.features.words().index("lovely")
    before = net.embedding.weight.detach().clone()
    assert before[place].tolist() == [1.0, -1.0, 0.5]
    worlds.learn(net, 5)
    assert torch.equal(before, net.embedding.weight)
    models.save(net, tmp_path / "model")
    file.unlink()  # the model holds them now
    again = models.load(tmp_path / "model")
    assert np.array_equal(again.embedding.weight.detach().numpy(), before.numpy())
