"""The replica's own HTTP server: JSON, other bytes, streams; errors before and in a stream; a neighbour that leaves."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tollway.kit.errors import BadRequest
from tollway.serve.engines import server
from tollway.serve.wire import Pool


async def pieces(count: int, fails_at: int, closed: list[int]) -> AsyncIterator[bytes]:
    try:
        for number in range(count):
            if number == fails_at:
                raise BadRequest("no more of these", code="enough")
            yield b"data: %d\n\n" % number
            await asyncio.sleep(0)
    finally:
        closed.append(count)


def in_a_server(tmp_path: Path, closed: list[int], use):
    async def answer(method: str, path: str, body: bytes) -> server.Reply:
        if path == "/json":
            return b'{"method":"%b","got":%d}' % (method.encode(), len(body))
        if path == "/wav":
            return "audio/wav", b"RIFF" + body
        if path == "/broken":
            raise RuntimeError("it quotes the prompt")
        count, fails_at = (int(one) for one in path[1:].split("-"))
        return pieces(count, fails_at, closed)

    async def whole() -> None:
        socket = str(tmp_path / "s.sock")
        listening = await server.listen(socket, answer)
        pool = Pool(f"unix:{socket}")
        try:
            await asyncio.wait_for(use(pool), 60)
        finally:
            pool.close()
            listening.close()

    asyncio.run(whole())


def test_json_and_other_bytes_are_answered_on_one_connection(tmp_path: Path) -> None:
    async def use(pool: Pool) -> None:
        for size in (0, 10, 100_000):
            assert json.loads((await pool.post("/json", b"x" * size)).body) == {"method": "POST", "got": size}
            assert (await pool.post("/wav", b"y" * size)).body == b"RIFF" + b"y" * size
        reply = await pool.post("/broken", b"secret")
        assert (reply.status, b"prompt" in reply.body, b"RuntimeError" in reply.body) == (500, False, True)
        assert (await pool.post("/json", b"x" * (server.BODY_BYTES_MAX + 1))).status == 413

    in_a_server(tmp_path, [], use)


def test_a_stream_comes_in_pieces_and_its_errors_are_told(tmp_path: Path) -> None:
    closed: list[int] = []

    async def use(pool: Pool) -> None:
        async with pool.stream("/300-999", b"") as answer:
            got = b"".join([chunk async for chunk in answer.chunks()])
        assert got == b"".join(b"data: %d\n\n" % number for number in range(300))
        async with pool.stream("/5-3", b"") as answer:
            got = b"".join([chunk async for chunk in answer.chunks()])
            assert answer.status == 200
        assert got.startswith(b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: {")
        assert json.loads(got.rpartition(b"data: ")[2])["error"]["code"] == "enough"
        reply = await pool.post("/5-0", b"")
        assert (reply.status, json.loads(reply.body)["error"]["code"]) == (400, "enough")

    in_a_server(tmp_path, closed, use)
    assert closed == [300, 5, 5]


@pytest.mark.parametrize("count", [10**9])
def test_leaving_a_stream_ends_it_and_a_slow_reader_holds_it_up(tmp_path: Path, count: int) -> None:
    closed: list[int] = []

    async def use(pool: Pool) -> None:
        async with pool.stream(f"/{count}-{count}", b"") as answer:
            async for _ in answer.chunks():
                break
        for _ in range(6000):
            if closed:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the generator still runs")

    in_a_server(tmp_path, closed, use)
    assert closed == [count]
