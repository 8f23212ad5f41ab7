"""What an upload must be, by its purpose: all problems of a file are found before anything is kept, each by its line.

fine-tune   {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
batch       {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "…", …}}
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tollway.kit.errors import BadRequest

LINES_MAX: Final = 20_000  # to learn from
BATCH_LINES_MAX: Final = 50_000
LINE_BYTES_MAX: Final = 4 * 1024 * 1024  # as objects a line takes twenty times that, and the time of every other call
ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/classify", "/v1/detect")
_SHOWN: Final = 20
_ROLES: Final = ("system", "developer", "user", "assistant")
_TURNS_MAX: Final = 200
_ID_LENGTH: Final = 200
_FIELDS: Final = ("custom_id", "method", "url", "body")


def check_chats(data: bytes) -> int:
    """The number of examples in a JSONL file of conversations. Raises BadRequest naming every problem."""
    return _checked(
        data,
        LINES_MAX,
        _chat_problems,
        "This file cannot be learned from",
        'Each line is {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}.',
    )


def check_batch(data: bytes, endpoint: str = "") -> int:
    """The number of calls in a JSONL file of a batch, all of one endpoint (of this one, if given). Raises BadRequest naming
    every problem."""
    seen: dict[str, int] = {}
    places: set[str] = {endpoint} if endpoint else set()
    number = 0

    def problems(row: dict[str, Any]) -> list[str]:
        nonlocal number
        number += 1
        found = [f"the field {name[:40]!r} is not known here" for name in row if name not in _FIELDS]
        found += _id_problems(row.get("custom_id"), seen, number)
        if row.get("method") != "POST":
            found.append('its "method" is not "POST"')
        found += _url_problems(row.get("url"), places)
        return found + _body_problems(row.get("body"))

    return _checked(
        data,
        BATCH_LINES_MAX,
        problems,
        "This file is no batch",
        'Each line is {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "…", …}}.',
    )


CHECKS: Final[dict[str, Callable[[bytes], int]]] = {"fine-tune": check_chats, "batch": check_batch}


def _checked(
    data: bytes, lines_max: int, problems_of: Callable[[dict[str, Any]], list[str]], what: str, hint: str
) -> int:
    """The number of rows of a JSONL file. Raises BadRequest naming the first 20 problems by their lines, and how many more
    there are."""
    problems: list[str] = []
    count = total = begin = number = 0
    while begin < len(data):  # line by line, without a second copy of it all
        end = data.find(b"\n", begin)
        line, begin, number = (
            data[begin : end if end >= 0 else len(data)],
            end + 1 if end >= 0 else len(data),
            number + 1,
        )
        if not line.strip():
            continue
        count += 1
        if count > lines_max:
            continue
        for problem in _line_problems(line, problems_of):
            total += 1
            if len(problems) < _SHOWN:
                problems.append(f"line {number}: {problem}")
    if count == 0:
        problems, total = ["the file has no lines"], 1
    if count > lines_max:
        problems.insert(0, f"{count:,} lines are more than {lines_max:,}")
        total += 1
    if problems:
        more = f" (and {total - len(problems):,} more)" if total > len(problems) else ""
        raise BadRequest(f"{what}: {'; '.join(problems)}{more}.", code="invalid_file", param="file", hint=hint)
    return count


def _line_problems(line: bytes, problems_of: Callable[[dict[str, Any]], list[str]]) -> list[str]:
    if len(line) > LINE_BYTES_MAX:
        return [f"it has more than {LINE_BYTES_MAX:,} bytes"]
    try:
        row: Any = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return [f"it is no JSON ({str(error)[:80]})"]
    return problems_of(row) if isinstance(row, dict) else ["it is no object"]


def _id_problems(custom_id: Any, seen: dict[str, int], number: int) -> list[str]:
    if not isinstance(custom_id, str) or not custom_id or len(custom_id) > _ID_LENGTH:
        return [f'it has no "custom_id" of 1 to {_ID_LENGTH} characters']
    first = seen.setdefault(custom_id, number)
    return [] if first == number else [f"its custom_id {custom_id[:40]!r} is that of the {first:,}. call"]


def _url_problems(url: Any, places: set[str]) -> list[str]:
    """`places`: where the calls before this one go, or must go."""
    if url not in ENDPOINTS:
        return [f'its "url" is none of {", ".join(ENDPOINTS)}']
    if places and url not in places:
        return [f"its url is {url}, not {min(places)} as for the batch"]
    places.add(url)
    return []


def _body_problems(body: Any) -> list[str]:
    if not isinstance(body, dict):
        return ['its "body" is no object']
    found = [] if isinstance(body.get("model"), str) and body["model"] else ['its body names no "model"']
    return [*found, "a batch cannot stream"] if body.get("stream") else found


def _chat_problems(row: dict[str, Any]) -> list[str]:
    found = [f"the field {name[:40]!r} is not known here" for name in row if name != "messages"]
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        return [*found, 'it has no list "messages"']
    if len(messages) > _TURNS_MAX:
        return [*found, f"it has more than {_TURNS_MAX} messages"]
    for place, message in enumerate(messages):
        found += [f"messages[{place}] {problem}" for problem in _message_problems(message)]
    if not found and messages[-1]["role"] != "assistant":
        found.append("its last message is not the assistant's: there is nothing to learn after it")
    return found


def _message_problems(message: Any) -> list[str]:
    if not isinstance(message, dict):
        return ["is no object"]
    found = [
        f"has the field {name[:40]!r}, which is not learned" for name in message if name not in ("role", "content")
    ]
    if message.get("role") not in _ROLES:
        found.append(f"has a role that is none of {', '.join(_ROLES)}")
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        found.append("has no text as its content")
    elif "\0" in content:
        found.append("has a NUL character in its content")
    return found
