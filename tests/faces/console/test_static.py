"""What is served to browsers: our files, and third-party ones exactly as published."""

import gzip
import hashlib
import re
from pathlib import Path

from tollway.faces.console import static

FOLDER = Path(static.__file__).parent / "static"


def test_vendored_files_are_the_published_ones():
    table = (FOLDER / "vendor" / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"\| `([^`]+)` \|.*`([0-9a-f]{64})` \|", table))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (FOLDER / "vendor").glob("*.*s")}
    assert told == found


def test_a_file_is_served_for_ever_under_its_digest(anyone):
    answer = anyone.get(static.address("console.css"), headers={"accept-encoding": "identity"})
    assert answer.text == (FOLDER / "console.css").read_text(encoding="utf-8")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"].startswith("text/css")
    assert anyone.get("/console/static/console.css").headers["cache-control"] == "no-cache"


def test_a_known_file_is_not_sent_again(anyone):
    tag = anyone.get("/console/static/console.js").headers["etag"]
    assert anyone.get("/console/static/console.js", headers={"if-none-match": tag}).status_code == 304


def test_it_travels_packed(anyone):
    with anyone.stream("GET", "/console/static/vendor/htmx.min.js", headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert len(raw) < 20_000
    assert gzip.decompress(raw) == (FOLDER / "vendor" / "htmx.min.js").read_bytes()


def test_nothing_else_can_be_reached(anyone):
    for name in (
        "nothing.js",
        "../visit.py",
        "..%2fvisit.py",
        "vendor/../../i18n/en.toml",
        "vendor/README.md",
        "/etc/passwd",
    ):
        assert anyone.get(f"/console/static/{name}").status_code in (303, 404), name


def test_scripts_and_styles_stay_small():
    sizes = [
        len(static.files()[name].packed)
        for name in ("console.css", "console.js", "vendor/htmx.min.js", "vendor/uplot.min.js", "vendor/uplot.min.css")
    ]
    assert sum(sizes) < 60_000
