"""`tollway dataset …`: from a file to a checked, split, masked version, and a way out of every error."""

import json

ROWS = "review,stars\n" + "".join(f"good thing number {n} here,positive\nbad thing number {n} there,negative\n" for n in range(30))


def test_a_file_goes_all_the_way(tollway, ask, tmp_path, home):
    source = tmp_path / "reviews.csv"
    source.write_text(ROWS + "call me on 13812345678 please,positive\n")
    made = ask("dataset", "import", str(source), "--name", "reviews", "--label", "stars", "--text", "review", "--licence", "CC0-1.0")
    assert made["ref"] == "reviews@1" and made["new"] and made["rows"] == {"train": 61} and made["licence"] == "CC0-1.0"
    assert not ask("dataset", "import", str(source), "--name", "reviews", "--label", "stars", "--text", "review")["new"]
    split = ask("dataset", "split", "reviews", "--test", "0.2")
    assert split["ref"] == "reviews@2" and split["parent"] == "reviews@1" and set(split["rows"]) == {"train", "validation", "test"}
    masked = ask("dataset", "mask", "reviews")
    assert masked["report"]["counts"] == {"phone": 1} and masked["made"]["ref"] == "reviews@3"
    assert ask("dataset", "mask", "reviews", "--dry-run")["made"] is None
    cleaned = ask("dataset", "clean", "reviews", "--step", "min-length:25")
    assert cleaned["ref"] == "reviews@4" and "rows dropped" in cleaned["done"][0]
    more = ask("dataset", "augment", "reviews@3", "--step", "synonym:0.3")
    assert more["rows"]["train"] > split["rows"]["train"] and more["rows"]["test"] == split["rows"]["test"]
    shown = ask("dataset", "show", "reviews@3")
    assert shown["statistics"]["columns"]["stars"]["distinct"] == 2 and len(shown["first_rows"]) == 3
    assert [row["ref"] for row in ask("dataset", "list")] == ["reviews@5"] and len(ask("dataset", "list", "--all")) == 5
    assert (home / "datasets" / "reviews" / "5" / "dataset.toml").is_file()


def test_what_goes_out_comes_back_the_same(ask, tmp_path):
    source = tmp_path / "reviews.csv"
    source.write_text(ROWS + '"a, comma and ""quotes""\nand a line",positive\n')
    digest = ask("dataset", "import", str(source), "--name", "reviews", "--label", "stars", "--text", "review")["digest"]
    for form in ("csv", "jsonl", "parquet"):
        out = ask("dataset", "export", "reviews", str(tmp_path / form), "--format", form)
        assert len(out["files"]) == 1
        again = ask("dataset", "import", str(tmp_path / form), "--name", f"again-{form}", "--label", "stars", "--text", "review")
        assert again["digest"] == digest
    ran = ask("dataset", "report", "reviews")
    assert ran["path"].endswith("report.html") and ran["worst"] in ("fine", "note", "warn")


def test_every_problem_is_told_and_nothing_is_there_afterwards(tollway, ask, tmp_path):
    source = tmp_path / "bad.csv"
    source.write_bytes(ROWS.encode() + b"too few\nx,postive\nnul\x00,negative\n,positive\n")
    ran = tollway("dataset", "import", str(source), "--name", "bad", "--label", "stars", "--text", "review")
    assert ran.code == 2 and "Traceback" not in ran.err
    for word in ("line 62: 1 cells", "line 64", "'postive' (1 rows) looks like 'positive'", "no text", "nothing was kept", "Do this:"):
        assert word in ran.err
    assert ask("dataset", "list") == []
    told = json.loads(tollway("dataset", "import", str(source), "--name", "bad", "--json").out)
    assert told["error"]["code"] == "data_problems"
    fixed = ask("dataset", "import", str(source), "--name", "bad", "--label", "stars", "--text", "review", "--skip-bad", "--anyway", "--rename", "postive=positive")
    assert fixed["ref"] == "bad@1" and fixed["rows"]["train"] == 62


def test_the_check_fails_on_what_is_bad(tollway, tmp_path):
    folder = tmp_path / "leaky"
    folder.mkdir()
    (folder / "train.csv").write_text(ROWS)
    (folder / "test.csv").write_text("\n".join(ROWS.splitlines()[:12]) + "\n")
    assert tollway("dataset", "import", str(folder), "--name", "leaky", "--label", "stars", "--text", "review").code == 0
    ran = tollway("dataset", "check", "leaky")
    assert ran.code == 1 and "11 rows of test (100.0%) are in train as well" in ran.out and "Next: tollway dataset report leaky@1" in ran.err
    assert tollway("dataset", "clean", "leaky", "--step", "deduplicate").code == 0
    assert tollway("dataset", "check", "leaky", "--quick").code == 0


def test_removing_asks_and_says_what_goes(tollway, ask, tmp_path):
    source = tmp_path / "a.csv"
    source.write_text(ROWS)
    ask("dataset", "import", str(source), "--name", "a", "--label", "stars")
    ask("dataset", "split", "a")
    ran = tollway("dataset", "remove", "a")
    assert ran.code == 7 and "all 2 versions of a" in ran.err and len(ask("dataset", "list", "--all")) == 2
    assert ask("dataset", "remove", "a@1", "--yes")["versions"] == 1
    assert ask("dataset", "remove", "a", "--yes")["versions"] == 1 and ask("dataset", "list") == []


def test_samples_are_listed_with_the_way_to_bring_them(tollway, ask):
    rows = ask("dataset", "sample")
    assert {"movies", "digits", "credit", "reviews-zh"} <= {row["name"] for row in rows}
    assert all(row["here"] or row["bring"] for row in rows)
    assert ask("dataset", "sample", "digits")["ref"] == "digits@1"
    ran = tollway("dataset", "sample", "digit")
    assert ran.code == 6 and "Did you mean 'digits'?" in ran.err


def test_errors_name_the_way_out(tollway):
    for arguments, word in (
        (("show", "nothing"), "tollway dataset import"),
        (("import", "/no/such/file", "--name", "x"), "There is no"),
        (("import", "/etc/hostname", "--name", "Bad Name"), "small letters"),
        (("import", "/etc/hostname", "--name", "x", "--kind", "a=colour"), "COLUMN=KIND"),
    ):
        ran = tollway("dataset", *arguments)
        assert ran.code in (2, 6) and word in ran.err and "Traceback" not in ran.err
