"""Import: every layout is understood, every problem is told at once, and with a problem nothing is kept."""

import gzip
import importlib.util
import io
import json
import os
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tollway.forge import data
from tollway.forge.data import changes
from tollway.kit import sandbox
from tollway.kit.errors import BadRequest, NotFound, TooLarge

GOOD = "text,label\n" + "".join(f"row {n} is fine,positive\nrow {n} is not,negative\n" for n in range(20))


def png(colour=(10, 20, 30), size=(5, 4)) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", size, colour).save(made, "PNG")
    return made.getvalue()


def refused(bring, shelf, *arguments, **more) -> str:
    """What is said of an import that must fail, and must leave nothing behind: why, and what to do."""
    with pytest.raises(BadRequest) as told:
        bring(*arguments, **more)
    assert shelf.list() == []
    return f"{told.value.message}\n{told.value.hint}"


def table_of(done: data.Imported, split: str = "train") -> dict:
    return done.version.read(split).to_pydict()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_label_of_numbers_is_a_number_to_predict_and_a_few_are_classes(bring, form):
    def rows(values):
        if form == "csv":
            return "size,price\n" + "".join(f"{place},{value}\n" for place, value in enumerate(values))
        return "".join(json.dumps({"size": place, "price": value}) + "\n" for place, value in enumerate(values))

    for values, kind, said in (
        ([100_000 + 7 * n for n in range(300)], "number", "--kind price=category"),
        ([0.5 * (n % 50) for n in range(300)], "number", "--kind price=category"),
        ([n % 50 for n in range(300)], "category", "--kind price=number"),
        ([n % 5 for n in range(300)], "category", ""),
    ):
        done = bring(f"a.{form}", rows(values), options={"label": "price"})
        assert done.version.column("price").kind == kind, values[:4]
        told = " ".join(done.notes)
        assert said in told if said else "--kind" not in told
        if kind == "number":
            assert table_of(done)["price"] == [float(value) for value in values]
    asked = bring(f"a.{form}", rows(range(300)), options={"label": "price", "kinds": {"price": "category"}})
    assert asked.version.column("price").kind == "category", "who says it is right"


# -- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\nfine,1\n\"two\nlines, and a comma\",2\n"),
        ("a.csv", "\ufefftext;label\r\nfine;1\r\n\"two\nlines, and a comma\";2\r\n"),
        ("a.tsv", "text\tlabel\nfine\t1\n\"two\nlines, and a comma\"\t2\n"),
        ("a.csv", "text|label\nfine|1\n\"two\nlines, and a comma\"|2\n".encode("utf-16")),
        ("a.data", "text,label\nfine,1\n\"two\nlines, and a comma\",2\n"),
        ("a.csv.gz", gzip.compress(b"text,label\nfine,1\n\"two\nlines, and a comma\",2\n")),
        ("a.jsonl", '{"text": "fine", "label": 1}\n\n{"label": 2, "text": "two\\nlines, and a comma"}\n'),
        ("a.json", '[{"text": "fine", "label": 1}, {"text": "two\\nlines, and a comma", "label": 2}]'),
        ("a.json", '{"text": ["fine", "two\\nlines, and a comma"], "label": [1, 2]}'),
    ],
    ids=["csv", "bom-semicolons-crlf", "tsv", "utf-16-bars", "unknown-suffix", "gz", "jsonl", "json-rows", "json-columns"],
)  # fmt: skip
def test_tables_of_every_kind_give_the_same_rows(bring, name, content):
    assert table_of(bring(name, content)) == {"text": ["fine", "two\nlines, and a comma"], "label": [1, 2]}


def test_encodings_are_found_and_said(bring):
    chinese = "评价,标签\n" + "这本书写得很好,好\n质量太差了不推荐,坏\n" * 3
    done = bring("zh.csv", chinese.encode("gb18030"))
    assert table_of(done)["评价"][0] == "这本书写得很好" and "GB18030" in done.notes[0]
    done = bring("fr.csv", "texte;avis\ncafé déjà goûté;oui\nmauvaise soirée;non\n".encode("latin-1"))
    assert table_of(done)["texte"] == ["café déjà goûté", "mauvaise soirée"] and "--encoding" in done.notes[0]
    assert table_of(bring("u.csv", chinese))["评价"][1] == "质量太差了不推荐"


def test_a_broken_csv_is_told_whole_with_line_numbers(bring, shelf):
    broken = GOOD.encode() + b"only one cell\na,b,c\nbad \xff\xfe bytes \xe4\xbd\xa0\xe5\xa5\xbd\xe4\xbd\xa0\xe5\xa5\xbd,positive\nnul\x00,negative\n\"open,positive\n"
    told = refused(bring, shelf, "b.csv", broken)
    assert "nothing was kept" in told and "5 problems" in told
    for line, what in ((42, "1 cells"), (43, "3 cells"), (44, "byte 5"), (45, "byte 4"), (46, "")):
        assert f"line {line}" in told and what in told
    assert "never closed" in told and "NUL" in told and "not utf-8" in told and "or add --skip-bad" in told


def test_unreadable_rows_can_be_left_out(bring):
    done = bring("b.csv", GOOD + "only one cell\na,b,c\n", options={"skip_bad": True})
    assert done.version.rows() == 40 and "2 unreadable rows" in done.notes[-1]


def test_many_problems_are_counted_and_twenty_are_shown(bring, shelf):
    told = refused(bring, shelf, "b.csv", GOOD + "x\n" * 500)
    assert "500 problems" in told and "(500 times)" in told and told.count(": 1 cells") == 20 and "480 more" in told


def test_labels_are_looked_at_before_anything_is_kept(bring, shelf):
    rows = GOOD + "typo here,postive\ncase here,Negative\nno label,\nalone,unique\n"
    options = {"label": "label", "text": "text"}
    told = refused(bring, shelf, "l.csv", rows, options=options)
    assert "'postive' (1 rows) looks like 'positive'" in told and "--rename postive=positive" in told
    assert "'Negative' (1 rows)" in told and "no label" in told and "'unique'" in told
    done = bring("l.csv", rows, options=options, rename={"postive": "positive", "Negative": "negative"}, anyway=True)
    assert sorted({one for one in table_of(done)["label"] if one}) == ["negative", "positive", "unique"]


def test_columns_that_are_not_there_are_named_with_those_that_are(bring, shelf):
    told = refused(bring, shelf, "c.csv", GOOD, options={"label": "lable", "text": "review"})
    assert "'lable'" in told and "'review'" in told and "text, label" in told
    assert "more than once" in refused(bring, shelf, "d.csv", "a,a\n1,2\n")
    assert "header and no rows" in refused(bring, shelf, "h.csv", "a,b\n")
    assert "is empty" in refused(bring, shelf, "e.csv", "")


def test_a_table_without_header_gets_names(bring):
    done = bring("n.csv", "1,2.5,red\n3,4.5,blue\n")
    assert table_of(done) == {"c1": [1, 3], "c2": [2.5, 4.5], "c3": ["red", "blue"]} and "no header" in done.notes[0]
    assert table_of(bring("n.csv", "1,2\n3,4\n", options={"header": True})) == {"1": [3], "2": [4]}


def test_a_huge_field_is_a_problem_and_not_the_end(bring, shelf):
    told = refused(bring, shelf, "h.csv", GOOD + f"{'x' * 300_000},positive\nfine,negative\n", options={"field_chars_max": 100_000})
    assert "more than 100,000 characters" in told and "line 42" in told and "1 problem;" in told


def test_broken_json_lines_are_listed(bring, shelf):
    told = refused(bring, shelf, "j.jsonl", '{"a": 1}\nnot json\n[1, 2]\n{"a": ' + "[" * 100_000 + "\n")
    assert "line 2" in told and "line 3" in told and "line 4" in told and "3 problems" in told


def test_nested_json_keeps_its_meaning(bring):
    rows = [{"messages": [{"role": "user", "content": "你好"}], "tokens": ["a", "b"], "score": 1}, {"messages": [], "tokens": [], "score": 0.5}]
    done = bring("n.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert {one.name: one.kind for one in done.version.columns} == {"messages": "json", "tokens": "tokens", "score": "number"}
    assert json.loads(table_of(done)["messages"][0]) == rows[0]["messages"] and table_of(done)["tokens"] == [["a", "b"], []]


def test_squad_becomes_questions_and_wrong_answers_are_told(bring, shelf):
    def squad(start):
        asked = [{"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": start}]},
                 {"id": "2", "question": "When?", "is_impossible": True, "answers": []}]  # fmt: skip
        return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "It was Ada.", "qas": asked}]}]})

    assert "found at 7" in refused(bring, shelf, "dev.json", squad(2))
    done = bring("dev.json", squad(7))
    assert done.format == "squad" and table_of(done, "validation")["answer_start"] == [7, -1]


def test_parquet_of_a_hub_is_understood(bring):
    image = pa.array([{"bytes": png(), "path": "a.png"}] * 2)
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}, "image": {"_type": "Image"}}
    table = pa.table({"image": image, "label": pa.array([1, 0])})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    made = io.BytesIO()
    import pyarrow.parquet as pq

    pq.write_table(table, made)
    done = bring("h.parquet", made.getvalue())
    assert table_of(done)["label"] == ["dog", "cat"] and done.version.column("image").kind == "image"
    assert table_of(done)["image"][0].startswith(b"\x89PNG")


def test_a_broken_parquet_is_one_message(bring, shelf):
    assert "cannot be read" in refused(bring, shelf, "p.parquet", b"PAR1" + bytes(range(256)) * 4 + b"PAR1")


# -- folders, arrays, archives ---------------------------------------------------------------------------------------


def test_aclimdb_is_read_with_its_ratings(shelf, tmp_path):
    root = tmp_path / "aclImdb"
    for split in ("train", "test"):
        for folder, stars in (("pos", 9), ("neg", 2)):
            (root / split / folder).mkdir(parents=True)
            for n in range(3):
                (root / split / folder / f"{n}_{stars}.txt").write_text(f"{split} {folder} {n}<br />很好")
    (root / "train" / "unsup").mkdir()
    (root / "train" / "unsup" / "0_0.txt").write_text("no label")
    done = data.import_(shelf, root, "imdb")
    assert dict(done.version.about["rows"]) == {"train": 6, "test": 6}
    assert table_of(done, "test")["score"] == [2, 2, 2, 9, 9, 9] and set(table_of(done)["label"]) == {"pos", "neg"}
    assert any("unsup" in note for note in done.notes)


def test_image_folders_and_an_empty_class(shelf, tmp_path):
    root = tmp_path / "pets"
    for name in ("cat", "dog", "bird"):
        (root / name).mkdir(parents=True)
    jpeg = io.BytesIO()
    Image.new("RGBA", (6, 4), (255, 0, 0, 128)).convert("RGB").save(jpeg, "JPEG")
    (root / "cat" / "1.png").write_bytes(png())
    (root / "dog" / "1.jpg").write_bytes(jpeg.getvalue())
    (root / "dog" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (root / "dog" / "3.png").symlink_to("/etc/passwd")
    with pytest.raises(BadRequest) as told:
        data.import_(shelf, root, "pets")
    assert all(word in told.value.message for word in ("dog/2.png", "a link is not followed", "a class has no file", "bird"))
    (root / "dog" / "2.png").unlink()
    (root / "dog" / "3.png").unlink()
    done = data.import_(shelf, root, "pets", anyway=True)
    assert table_of(done)["label"] == ["cat", "dog"] and all(one.startswith(b"\x89PNG") for one in table_of(done)["image"])


def test_a_linked_folder_brings_nothing_from_outside(shelf, tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "films"
    outside.mkdir()
    (outside / "secret.txt").write_text("not given to be learned")
    for name in ("pos", "neg"):
        (root / "train" / name).mkdir(parents=True)
        (root / "train" / name / "1.txt").write_text(f"a {name} film")
    (root / "train" / "leak").symlink_to(outside, target_is_directory=True)
    with pytest.raises(BadRequest) as told:
        data.import_(shelf, root, "films", data.Options(skip_bad=True), anyway=True)
    assert "a link is not followed" in told.value.message and "train/leak" in told.value.message
    (root / "train" / "leak").unlink()
    assert table_of(data.import_(shelf, root, "films", anyway=True))["label"] == ["neg", "pos"]


def test_a_pipe_is_said_to_be_one_and_not_waited_for(shelf, tmp_path):
    os.mkfifo(tmp_path / "films.csv")
    with pytest.raises(BadRequest, match="a pipe or a device, not a file"):
        data.import_(shelf, tmp_path / "films.csv", "films")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "train.csv")
    with pytest.raises(BadRequest, match="no data in the folder"):
        data.import_(shelf, tmp_path / "folder", "films")
    assert shelf.list() == []


def idx(array: np.ndarray) -> bytes:
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def test_idx_files_belong_together_by_name(shelf, tmp_path):
    images, labels = np.arange(3 * 4 * 4).reshape(3, 4, 4), np.array([1, 0, 1])
    root = tmp_path / "mnist"
    root.mkdir()
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    (root / "t10k-images-idx3-ubyte").write_bytes(idx(images[:2]))
    (root / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[:2]))
    done = data.import_(shelf, root, "mnist")
    assert dict(done.version.about["rows"]) == {"train": 3, "test": 2}
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(table_of(done)["image"][2]))), images[2])
    (root / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)[:-1]))
    with pytest.raises(BadRequest, match=r"(?s)promises 3 bytes, it has 2.*|not as many") as told:
        data.import_(shelf, root, "broken")
    assert "not as many" in told.value.message and "promises 3 bytes" in told.value.message


def test_npz_is_read_and_pickles_in_it_are_not(bring, shelf):
    def npz(**arrays):
        made = io.BytesIO()
        np.savez_compressed(made, **arrays)
        return made.getvalue()

    done = bring("med.npz", npz(train_images=np.zeros((4, 8, 8, 3), np.uint8), train_labels=np.array([[0], [1], [0], [1]]),
                                test_images=np.ones((2, 8, 8, 3), np.uint8), test_labels=np.array([[1], [0]])))  # fmt: skip
    assert dict(done.version.about["rows"]) == {"train": 4, "test": 2} and table_of(done)["label"] == ["0", "1", "0", "1"]
    done = bring("keras.npz", npz(x_train=np.eye(3), y_train=np.array([0, 1, 2])))
    assert list(table_of(done)) == ["f1", "f2", "f3", "label"]
    shelf.remove("x")
    told = refused(bring, shelf, "evil.npz", npz(X=np.array([{"a": print}, 2], object), y=np.array([1, 2])))
    assert "Python objects" in told


@pytest.mark.parametrize("name", ["model.pkl", "weights.pth", "pytorch_model.bin", "model.joblib"])
def test_a_pickle_is_refused_by_name(bring, shelf, name):
    assert "may run code" in refused(bring, shelf, name, b"\x80\x04cos\nsystem\n(S'true'\ntR.")


def test_a_hugging_face_folder_is_read_without_their_library(shelf, tmp_path):
    root = tmp_path / "hub"
    for split, count in (("train", 3), ("test", 1)):
        (root / split).mkdir(parents=True)
        table = pa.table({"tokens": [["a", "b"]] * count, "ner_tags": [[0, 1]] * count, "label": [1] * (count - 1) + [0]})
        with pa.OSFile(str(root / split / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        names = {"_type": "ClassLabel", "names": ["O", "B-PER"]}
        info = {"features": {"ner_tags": {"feature": names, "_type": "Sequence"}, "label": names}, "license": "mit"}
        (root / split / "dataset_info.json").write_text(json.dumps(info))
        (root / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    done = data.import_(shelf, root, "hub")
    assert table_of(done)["ner_tags"][0] == ["O", "B-PER"] and table_of(done, "test")["label"] == ["O"] and done.version.licence == "mit"
    (root / "test" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../secret.arrow"}]}))
    with pytest.raises(BadRequest, match="outside the folder"):
        data.import_(shelf, root, "evil")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="their library is not installed")
def test_what_their_library_saves_is_read(shelf, tmp_path):
    """Written by the library itself: class names, pictures, shuffled and selected rows, splits."""
    import datasets

    names = datasets.ClassLabel(names=["neg", "pos"])
    told = datasets.Features({"text": datasets.Value("string"), "label": names, "tags": datasets.List(names)})
    rows = {"text": [f"row {n}" for n in range(12)], "label": [n % 2 for n in range(12)], "tags": [[n % 2, 0] for n in range(12)]}
    whole = datasets.Dataset.from_dict(rows, features=told)
    parts = datasets.DatasetDict({"train": whole.shuffle(seed=3).select(range(8)), "test": whole.select(range(8, 12))})
    parts.save_to_disk(str(tmp_path / "texts"))
    done = data.import_(shelf, tmp_path / "texts", "texts")
    assert dict(done.version.about["rows"]) == {"train": 8, "test": 4}
    assert table_of(done, "test")["label"] == ["neg", "pos"] * 2 and table_of(done, "test")["tags"][1] == ["pos", "neg"]
    assert sorted(table_of(done)["text"]) == sorted(parts["train"]["text"])
    square = Image.new("L", (4, 4), 200)
    seen = datasets.Features({"image": datasets.Image(), "label": names})
    datasets.Dataset.from_dict({"image": [square] * 4, "label": [0, 1, 0, 1]}, features=seen).save_to_disk(str(tmp_path / "pictures"))
    made = data.import_(shelf, tmp_path / "pictures", "pictures")
    assert all(Image.open(io.BytesIO(one)).getpixel((1, 1)) == 200 for one in table_of(made)["image"])


def archive(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return made.getvalue()


def test_an_archive_is_its_content(bring):
    done = bring("a.zip", archive({"top/train.csv": GOOD.encode(), "top/test.csv": "\n".join(GOOD.splitlines()[:3]).encode(), "__MACOSX/top/._train.csv": b"junk"}))
    assert dict(done.version.about["rows"]) == {"train": 40, "test": 2}


def tar(*members) -> bytes:
    import tarfile

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as file:
        for name, content, kind in members:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            entry.size = len(content) if kind == tarfile.REGTYPE else 0
            entry.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
            file.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def test_archives_that_reach_out_are_refused_with_every_member(bring, shelf, tmp_path):
    import tarfile

    good, link, hard, device = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
    told = refused(bring, shelf, "evil.tar.gz", tar(("train.csv", GOOD.encode(), good), ("../../evil.csv", b"a\n1\n", good), ("/abs.csv", b"", good),
                   ("link.csv", b"", link), ("hard.csv", b"", hard), ("tty", b"", device), ("train.csv", b"", good)))  # fmt: skip
    for word in ("'../../evil.csv'", "'/abs.csv'", "'link.csv'", "'hard.csv'", "'tty'", "there twice", "6 problems"):
        assert word in told
    assert "would not mend" in told, "there is no row to leave out"
    told = refused(bring, shelf, "evil.zip", archive({"..\\up.csv": b"x", "C:/win.csv": b"x", "ok.csv": GOOD.encode()}))
    assert "up.csv" in told and "win.csv" in told and "2 problems" in told
    assert not list(tmp_path.rglob("evil.csv")) and not list(tmp_path.rglob("up.csv"))


def test_bombs_are_stopped_while_they_unpack(bring, shelf):
    flat = b"a,b\n" + b"0,0\n" * 40_000_000
    told = refused(bring, shelf, "bomb.csv.gz", gzip.compress(flat, 1))
    assert "unpacks to more than allowed" in told and "200 times" in told
    told = refused(bring, shelf, "big.zip", archive({f"{n}.csv": GOOD.encode() for n in range(3)}), options={"unpacked_bytes_max": 2000})
    assert "more than allowed" in told
    made = io.BytesIO()
    Image.new("L", (9000, 9000)).save(made, "PNG")
    told = refused(bring, shelf, "pixels.zip", archive({"cat/1.png": made.getvalue(), "dog/1.png": png()}))
    assert "cat/1.png" in told and "too many" in told


def test_a_damaged_archive_is_a_message(bring, shelf):
    whole = archive({"train.csv": GOOD.encode() * 50})
    assert "damaged" in refused(bring, shelf, "d.zip", whole[: len(whole) // 2] + b"\0" * 40 + whole[len(whole) // 2 + 40 :])
    assert "damaged" in refused(bring, shelf, "d.csv.gz", gzip.compress(GOOD.encode())[:-20])


def test_a_parser_that_eats_memory_is_stopped(bring, shelf):
    """A Parquet file of a few kilobytes that says the same megabyte two thousand times."""
    import pyarrow.parquet as pq

    made = io.BytesIO()
    pq.write_table(pa.table({"a": pa.DictionaryArray.from_arrays([0] * 2000, ["x" * 1_000_000])}), made, store_schema=False)
    assert len(made.getvalue()) < 100_000
    with pytest.raises(TooLarge, match=r"more than 1\.0 GiB of memory"):
        bring("m.parquet", made.getvalue(), limits=sandbox.ResourceLimits(memory_bytes=1 << 30))
    assert shelf.list() == []


def test_what_is_not_there_is_said(shelf, tmp_path):
    with pytest.raises(NotFound, match="There is no"):
        data.import_(shelf, tmp_path / "nothing.csv", "x")


CONLL = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n# NN B-NP O\n\nPeter NNP B-NP B-PER\nBlackburn NNP I-NP I-PER\n"
UNIVERSAL = """# sent_id = 1
# text = 我不去
1\t我\t我\tPRON\tPN\t_\t3\tnsubj\t_\t_
2-3\t不去\t_\t_\t_\t_\t_\t_\t_\t_
2\t不\t不\tADV\tAD\t_\t3\tadvmod\t_\t_
3\t去\t去\tVERB\tVV\t_\t0\troot\t_\t_
3.1\tx\tx\tVERB\tVV\t_\t_\t_\t_\t_
"""


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.bio"])
def test_conll_becomes_sentences_of_tokens_and_tags(bring, name):
    done = bring(name, CONLL.replace("\n", "\r\n") if name == "a.bio" else CONLL)
    assert done.format == "conll"
    assert table_of(done) == {
        "tokens": [["EU", "rejects", "#"], ["Peter", "Blackburn"]],
        "tags": [["B-ORG", "O", "O"], ["B-PER", "I-PER"]],
    }
    assert {one.name: one.kind for one in done.version.columns} == {"tokens": "tokens", "tags": "tokens"}


def test_universal_dependencies_give_words_and_their_classes(bring):
    assert table_of(bring("a.conllu", UNIVERSAL)) == {"tokens": [["我", "不", "去"]], "tags": [["PRON", "ADV", "VERB"]]}


def test_conll_splits_in_a_folder_and_lines_without_a_tag(shelf, bring, tmp_path):
    for name in ("train", "dev", "test"):
        (tmp_path / "ner").mkdir(exist_ok=True)
        (tmp_path / "ner" / f"{name}.txt").write_text(CONLL, encoding="utf-8")
    done = data.import_(shelf, tmp_path / "ner", "ner")
    assert {split: done.version.rows(split) for split in done.version.splits} == {"train": 2, "validation": 2, "test": 2}
    with pytest.raises(BadRequest) as told:
        bring("a.conll", "EU B-ORG\nrejects\nGerman B-MISC x\n\nPeter B-PER\n")
    assert "line 2" in told.value.message and "line 3" in told.value.message and "2 problems" in told.value.message


def test_plain_text_with_short_lines_stays_text(bring):
    assert bring("a.txt", "One O\n\nTwo O\n\nThree O\n").format == "text"


def test_labels_are_looked_at_where_the_column_says_it_is_one(bring, shelf):
    """Nobody has to say --label for a column that is called so."""
    told = refused(bring, shelf, "a.csv", GOOD + "typed in a hurry,postive\n,negative\nnobody knows,\n")
    assert "'postive' (1 rows) looks like 'positive'" in told and "no text" in told and "no label" in told


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.zip", b"PK\x03\x04 and then nothing of an archive", "is called .zip, but is no archive"),
        ("a.png", png(), "one picture is no dataset"),
        ("a.pkl", b"\x80\x04N.", "is no data"),
        ("a.csv", b"", "the file is empty"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_not_offered_to_be_read_in_part(bring, shelf, name, content, said):
    with pytest.raises(BadRequest, match=said) as told:
        bring(name, content)
    assert "would not mend" in told.value.hint and shelf.list() == []


def test_how_a_broken_file_was_read_stands_beside_its_problems(bring, shelf):
    broken = (GOOD + "caf\u00e9,positive\nno label here\n").encode("latin-1")
    assert "Western European" in refused(bring, shelf, "a.csv", broken)


def test_rows_written_out_and_read_back_are_the_same_rows(bring, shelf, tmp_path):
    """JSON has no times: what is all dates is dates again."""
    done = bring("a.csv", "text,label,day\n" + "".join(f"row {n},{'ab'[n % 2]},2024-03-{n + 1:02d}\n" for n in range(20)))
    changes.export(done.version, tmp_path / "out", "jsonl")
    again = data.import_(shelf, tmp_path / "out", "again")
    assert again.version.digest == done.version.digest
    kept = bring("b.jsonl", '{"day": "2024-03-01"}\n{"day": "2024-02-31"}\n')
    assert kept.version.columns[0].kind in ("text", "category")
