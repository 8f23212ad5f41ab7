"""A replica's port on a node, and the neighbours on that network who do not have its key."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tollway.serve.runtimes.relay import STRANGERS_MAX, Relay

KEY = "k" * 48


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    """In front of an engine that answers everything with ok."""

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    behind = await asyncio.start_unix_server(engine, tmp_path / "s")
    made = Relay(str(tmp_path / "s"), KEY)
    made.port = await made.listen("127.0.0.1")  # type: ignore[attr-defined]
    yield made
    made.close()
    behind.close()


async def asked(relay: Relay, head: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)  # type: ignore[attr-defined]
    writer.write(head)
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.readline(), 60)
    return b""


WITH_KEY = f"POST /v1/classify HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


@pytest.mark.parametrize(
    "head",
    [
        WITH_KEY.replace(b"k" * 48, b"k" * 47),
        WITH_KEY.replace(b"k" * 48, b"k" * 49),
        WITH_KEY.replace(b"Authorization:", b"X-Authorization:"),
        b"POST /v1/classify?Authorization:%20Bearer%20" + KEY.encode() + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/classify HTTP/1.1\r\n\r\n" + WITH_KEY,
        b"a" * 20_000,
    ],
)
async def test_without_the_key_nothing_passes(relay: Relay, head: bytes) -> None:
    assert b"200" not in await asked(relay, head)


async def test_a_crowd_that_says_nothing_keeps_no_gateway_out(relay: Relay) -> None:
    known = await asyncio.open_connection("127.0.0.1", relay.port)  # type: ignore[attr-defined]
    known[1].write(WITH_KEY)
    assert b"200" in await known[0].readline()
    crowd = [await asyncio.open_connection("127.0.0.1", relay.port) for _ in range(3 * STRANGERS_MAX)]  # type: ignore[attr-defined]
    assert b"200" in await asked(relay, WITH_KEY)
    assert len(relay.strangers) <= STRANGERS_MAX and len(relay.open) <= STRANGERS_MAX + 3
    known[1].write(WITH_KEY)
    await known[0].readexactly(len(b"content-length: 2\r\n\r\nok"))
    assert b"200" in await known[0].readline()
    for _, writer in crowd:
        writer.transport.abort()
