"""Readers never fall over: a damaged file of any format gives rows, or problems, and nothing else."""

import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tollway.forge.data.problems import Problems
from tollway.forge.data.readers import _read
from tollway.forge.data.readers.found import Options, Reading, split_of

ROWS = "text,label\n" + "".join(f'"row {n}, ""quoted""",好\n' for n in range(8))


def packed(write) -> bytes:
    made = io.BytesIO()
    write(made)
    return made.getvalue()


SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "It was Ada.", "qas": [{"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 7}]}]}]}]}
SEEDS = {
    "a.csv": ROWS.encode(),
    "a.tsv": ROWS.replace(",", "\t").encode("gb18030"),
    "a.jsonl": b'{"a": 1, "b": [1, {"c": 2}]}\n{"a": "x", "d": null}\n',
    "a.json": json.dumps(SQUAD).encode(),
    "a.parquet": packed(lambda file: pq.write_table(pa.table({"a": [1, 2], "b": ["x", "好"]}), file)),
    "a.npz": packed(lambda file: np.savez(file, x_train=np.zeros((3, 4, 4), np.uint8), y_train=np.arange(3))),
    "a.csv.gz": gzip.compress(ROWS.encode()),
    "t10k-images-idx3-ubyte": b"\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x02" + bytes(8),
    "unknown": ROWS.encode("utf-16"),
}  # fmt: skip
EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 12), st.binary(max_size=6)), min_size=1, max_size=12)


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_damage_is_told_and_never_thrown(tmp_path, name, edits):
    content = bytearray(SEEDS[name])
    for place, length, new in edits:
        at = place % (len(content) + 1)
        content[at : at + length] = new
    path = tmp_path / name
    path.write_bytes(bytes(content))
    problems = Problems(name)
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    found = _read(path, Reading(Options(), problems, scratch))
    assert found.tables or problems.kinds
    for table in found.tables.values():
        table.validate(full=True)
    assert len(problems.text(problems.kinds.values()).splitlines()) <= 80


@pytest.mark.parametrize(
    ("name", "split"),
    [("train-00000-of-00002", "train"), ("x_test", "test"), ("val.csv", "validation"), ("dev", "validation"), ("t10k-images", "test"),
     ("Test.jsonl", "test"), ("contest.csv", ""), ("training_data.csv", "train"), ("reviews.csv", "")],
)  # fmt: skip
def test_splits_are_known_by_name(name, split):
    assert split_of(name) == split
