"""Uploads are checked line by line: one line cannot take the time and memory of everybody."""

import time

import pytest

from tollway.kit.errors import BadRequest
from tollway.sell.file_checks import LINE_BYTES_MAX, check_batch, check_chats

CALL = b'{"custom_id": "%d", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "%s"}}\n'


def test_a_line_may_be_as_long_as_a_call_may_be() -> None:
    long = CALL % (1, b"x" * (LINE_BYTES_MAX - 200))
    assert check_batch(long + CALL % (2, b"y")) == 2


@pytest.mark.parametrize("check", [check_batch, check_chats])
def test_a_line_of_a_million_empty_lists_is_not_made_into_objects(check: object) -> None:
    bomb = CALL % (1, b"x") + b'{"messages": [' + b"[]," * (8 << 20) + b"[]]}\n"
    began = time.process_time()
    with pytest.raises(BadRequest, match="line 2: it has more than 4,194,304 bytes"):
        check(bomb)  # type: ignore[operator]
    assert time.process_time() - began < 0.5
