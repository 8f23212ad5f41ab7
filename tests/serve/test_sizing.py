"""What counts before a call is begun: when the replica that was asked is gone, another one is asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.serve.test_wire import Peer, serving
from tollway.kit.errors import Unavailable
from tollway.kit.settings import Settings
from tollway.serve import sizing
from tollway.serve.engines import Caps
from tollway.serve.line import Seat
from tollway.serve.models import Model
from tollway.serve.requests import ChatRequest, Message, TranscriptionRequest
from tollway.serve.sizing import Sizing
from tollway.serve.wire import Pool

CAPS = Caps(chat=True, tokenize=True, context_tokens=100)
ASKED = ChatRequest(model="m", messages=[Message(role="user", content="x" * 40)], max_tokens=5)
HEARD = TranscriptionRequest(model="m", recording=b"RIFF")
SAYS = b'{"prompt":"x","tokens":[1,2,3],"seconds":7}'


def counting(*pools: Pool) -> Sizing:
    seats = [Seat(pool, 4, 0, "1") for pool in pools]
    model = Model("m", "chat", "M", "llama_cpp", "1", None, 0)
    return Sizing(model, CAPS, Settings(Path("/nonexistent"), environment={}), lambda: seats)


@contextlib.asynccontextmanager
async def well() -> AsyncIterator[Pool]:
    async def talk(peer: Peer, _body: bytes) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(SAYS), SAYS))

    async with serving(talk) as (_, pool):
        yield pool


@contextlib.asynccontextmanager
async def unwell(how: str) -> AsyncIterator[Pool]:
    async def talk(_peer: Peer, _body: bytes) -> bool:
        return how == "hangs up"  # else it says nothing, for ever

    async with serving(talk) as (_, pool):
        yield pool


@pytest.mark.parametrize("how", ["hangs up", "says nothing"])
async def test_another_replica_counts_when_one_is_gone(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_SILENT_S", 0.05)
    async with unwell(how) as gone, well() as there, asyncio.timeout(300):
        both = counting(gone, there)
        assert (await both.exact(ASKED)).input_tokens == 3, "counted, not reckoned from its bytes"
        assert (await both.exact(HEARD)).units == 7


async def test_the_last_one_has_all_the_time_that_the_call_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_SILENT_S", 0.0)
    async with well() as there, asyncio.timeout(300):
        assert (await counting(there).exact(ASKED)).input_tokens == 3


async def test_where_nobody_is_left_a_prompt_is_reckoned_and_a_recording_refused() -> None:
    async with unwell("hangs up") as gone:
        assert (await counting(gone).exact(ASKED)).input_tokens >= 40
        with pytest.raises(Unavailable, match="could not read the recording"):
            await counting(gone).exact(HEARD)
