"""JSON: one object a line (JSONL), one list of objects, columns as lists, and SQuAD's nested shape."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tollway.forge.data.problems import Problems
from tollway.forge.data.readers import encodings
from tollway.forge.data.readers.found import Found, Reading, split_of
from tollway.forge.data.schema import times

if TYPE_CHECKING:
    import pyarrow as pa

_LINE_MAX: Final = 64 << 20


def read_lines(path: Path, reading: Reading, file: str = "") -> Found:
    """JSONL."""
    encoding = encodings.check(path, reading.options.encoding, reading.problems, file)
    rows = list(_lines(path, encoding, reading, file))
    if not rows:
        reading.problems.add("empty", "the file has no rows", file=file)
        return Found("jsonl")
    table, kinds = from_rows(rows, reading, file)
    return Found("jsonl", {"train": table}, kinds)


def _lines(path: Path, encoding: str, reading: Reading, file: str) -> Iterator[Mapping[str, Any]]:
    problems, size, done = reading.problems, path.stat().st_size, 0
    with path.open(encoding=encoding, errors="replace", newline="\n") as text:
        for number, line in enumerate(text, 1):
            done += len(line)
            if number % 5000 == 0:
                reading.progress(min(done, size), size)
            if not line.strip():
                continue
            if len(line) > _LINE_MAX:
                problems.add("field", f"a line has more than {_LINE_MAX:,} characters", line=number, file=file)
                continue
            try:
                row = msgspec.json.decode(line.strip().lstrip("\ufeff"))
            except (msgspec.DecodeError, RecursionError) as error:
                problems.add("json", "a line is not valid JSON", line=number, file=file, shown=str(error)[:120])
                continue
            if not isinstance(row, dict):
                problems.add("json", "a line is not a JSON object", line=number, file=file, shown=line[:60].strip())
                continue
            yield row


def read_document(path: Path, reading: Reading, file: str = "") -> Found:
    """A whole `.json` file: SQuAD, a list of objects, or an object of columns."""
    encoding = encodings.check(path, reading.options.encoding, Problems(""), file)
    try:
        text = path.read_text(encoding=encoding, errors="replace").removeprefix("\ufeff")
        content = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        if text.startswith("{") and "}\n{" in text[: 1 << 20]:
            return read_lines(path, reading, file)  # JSONL under another name
        reading.problems.add("json", "the file is not valid JSON", file=file, shown=str(error)[:120])
        return Found("json")
    encodings.check(path, encoding, reading.problems, file)
    if isinstance(content, dict) and isinstance(content.get("data"), list) and _is_squad(content["data"]):
        return _squad(content["data"], reading, file or path.name)
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if isinstance(content, dict) and content and all(isinstance(one, list) for one in content.values()):
        lengths = {name: len(one) for name, one in content.items()}
        if len(set(lengths.values())) > 1:
            reading.problems.add("ragged", "the columns are of different length", file=file, shown=str(lengths)[:200])
            return Found("json")
        content = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
    if not isinstance(content, list) or not content:
        reading.problems.add("json", "the file is neither a list of objects nor SQuAD's shape", file=file)
        return Found("json")
    rows = []
    for number, row in enumerate(content, 1):
        if isinstance(row, dict):
            rows.append(row)
        else:
            reading.problems.add("json", "an entry is not a JSON object", file=file, shown=f"entry {number}")
    table, kinds = from_rows(rows, reading, file)
    return Found("json", {"train": table}, kinds)


def _is_squad(articles: Sequence[Any]) -> bool:
    return bool(articles) and all(isinstance(one, dict) and isinstance(one.get("paragraphs"), list) for one in articles)


def _squad(articles: Sequence[Any], reading: Reading, file: str) -> Found:
    """A row for each question; an answer that does not stand where the file says is a problem."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for article in articles:
        for paragraph in article["paragraphs"]:
            context = paragraph.get("context") if isinstance(paragraph, dict) else None
            if not isinstance(context, str):
                reading.problems.add("squad", "a paragraph has no context", file=file, shown=str(article.get("title", "")))
                continue
            for asked in paragraph.get("qas", []):
                rows.append(_question(article, context, asked, reading.problems, file))
    names = ("context", "question", "answer", "answer_start", "id", "title")
    types = (pa.string(), pa.string(), pa.string(), pa.int64(), pa.string(), pa.string())
    if not rows:
        reading.problems.add("empty", "the file has no questions", file=file)
        return Found("squad")
    columns = [pa.array([row[name] for row in rows], kind) for name, kind in zip(names, types, strict=True)]
    kinds = dict.fromkeys(("context", "question", "answer"), "text")
    table = pa.table(columns, names=list(names))
    return Found("squad", {split_of(Path(file).name) or "train": table}, kinds, {name: name for name in names[:4]})


def _question(article: Any, context: str, asked: Any, problems: Problems, file: str) -> dict[str, Any]:
    asked = asked if isinstance(asked, dict) else {}
    ident = str(asked.get("id", ""))
    answers = asked.get("answers") or []
    answer, start = "", -1
    if answers and isinstance(answers[0], dict):
        answer, start = str(answers[0].get("text", "")), answers[0].get("answer_start", -1)
    if not isinstance(asked.get("question"), str) or not asked["question"].strip():
        problems.add("squad", "a question is missing", file=file, shown=f"id {ident}")
    if answer and (not isinstance(start, int) or context[start : start + len(answer)] != answer):
        at = context.find(answer)
        shown = f"id {ident}: {answer[:40]!r} at {start}" + (f", found at {at}" if at >= 0 else "")
        problems.add("answer", "an answer does not stand where answer_start says", file=file, shown=shown)
        start = at
    return {"context": context, "question": asked.get("question"), "answer": answer,
            "answer_start": start if isinstance(start, int) else -1, "id": ident, "title": str(article.get("title", ""))}  # fmt: skip


def from_rows(rows: Sequence[Mapping[str, Any]], reading: Reading, file: str = "") -> tuple["pa.Table", dict[str, str]]:
    """A table of the union of all keys; kinds follow the values, mixtures become text and are told."""
    import pyarrow as pa

    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    arrays, kinds = [], {name: kind for name, kind in reading.options.kinds.items() if name in names}
    for name in names:
        values = [row.get(name) for row in rows]
        array, kind = _column(values, name, reading, file)
        if kind:
            kinds.setdefault(name, kind)
        elif kinds.get(name) in (None, "time"):
            array = times(array)  # JSON has no times of its own: they are written as text
        arrays.append(array)
    for role, name in (("category", reading.options.label), ("text", reading.options.text)):
        if name in names:
            kinds.setdefault(name, role)
        elif name:
            reading.problems.add("column", f"there is no column {name!r}; there are: {', '.join(list(names)[:50])}", file=file)
    return pa.table(arrays, names=list(names)), kinds


def _column(values: list[Any], name: str, reading: Reading, file: str) -> tuple["pa.Array", str]:
    import pyarrow as pa

    seen = {type(value) for value in values if value is not None}
    if seen <= {str}:
        return pa.array(values, pa.string()), ""
    if seen == {bool}:
        return pa.array(values, pa.bool_()), ""
    if seen == {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pa.array(values, pa.int64()), ""
    if seen <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64()), ""
    if seen == {list} and all(isinstance(one, str) for value in values if value for one in value):
        return pa.array(values, pa.list_(pa.string())), "tokens"
    if seen & {list, dict}:
        encoded = [None if one is None else msgspec.json.encode(one, order="sorted").decode() for one in values]
        return pa.array(encoded, pa.string()), "json"
    kinds = ", ".join(sorted(kind.__name__ for kind in seen))
    reading.problems.note(f"{file or 'The file'}: the column {name!r} mixes {kinds}; it is kept as text.")
    texts = [None if value is None else value if isinstance(value, str) else str(value) for value in values]
    return pa.array(texts, pa.string()), ""
