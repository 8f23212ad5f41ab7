"""Which English page, word for word, each Chinese page was last held against: a digest in its last line.

    python -m tests.shape.twins                   the pages whose English has changed since; exit code 1 if there are any
    python -m tests.shape.twins batches api       they were looked at again: note the present digest  (`make twins ARGS=…`)
    python -m tests.shape.twins --all             all of them were

A test is red while a page is listed. Looking again is a person's work; the digest only says that it was done.
"""

import hashlib
import re
import sys
from pathlib import Path

from tests.shape.source import ROOT

NOTE = re.compile(r"\n+<!-- follows: sha256 ([0-9a-f]{16}) -->\n\Z")
README = "README"


def twins() -> dict[str, tuple[Path, Path]]:
    """Each page with its twin, by name."""
    docs = ROOT / "docs"
    pages = {page.stem: (docs / page.name, page) for page in sorted((docs / "zh").glob("*.md"))}
    return {README: (ROOT / "README.md", ROOT / "README.zh-CN.md"), **pages}


def digest(english: str) -> str:
    """Of the page as it stands; the spaces at the ends of its lines say nothing."""
    text = "\n".join(line.rstrip() for line in english.splitlines())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def follows(chinese: str) -> str:
    """The digest a Chinese page carries; "" for none."""
    found = NOTE.search(chinese)
    return found[1] if found else ""


def noted(chinese: str, english: str) -> str:
    """The Chinese page with the digest of this English one."""
    return NOTE.sub("\n", chinese).rstrip("\n") + f"\n<!-- follows: sha256 {digest(english)} -->\n"


def behind() -> list[str]:
    """The pages whose English has changed since their twin was held against it."""
    read = {name: [page.read_text(encoding="utf-8") for page in pair] for name, pair in twins().items()}
    return [name for name, (english, chinese) in read.items() if follows(chinese) != digest(english)]


def main(asked: list[str]) -> int:
    """The command; see above."""
    known = twins()
    strange = [name for name in asked if name not in known and name != "--all"]
    if strange:
        print(f"There is no page with a twin called {', '.join(strange)}. There are {', '.join(known)}.", file=sys.stderr)
        return 2
    for name in known if "--all" in asked else asked:
        english, chinese = known[name]
        text = chinese.read_text(encoding="utf-8")
        chinese.write_text(noted(text, english.read_text(encoding="utf-8")), encoding="utf-8")
    left = behind()
    for name in left:
        english, chinese = (page.relative_to(ROOT) for page in known[name])
        print(f"{english} has changed: look at {chinese} again, then `make twins ARGS={name}`")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
