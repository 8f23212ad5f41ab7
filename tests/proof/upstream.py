"""A tiny OpenAI-compatible server that counts, for proofs that need thousands of calls. A real process, real HTTP.

    with Upstream() as upstream: offer_upstream(home, "mill", upstream.url); …; upstream.calls()

What a call does is written in its prompt: `id=call-17 tokens=12 input=40 cached=8 pause_ms=5`; with `fail=1` the server
hangs up. It notes for each id how many tokens it produced and whether the call came to its end, so that a bill can be
held against what was made.
As a program: `python upstream.py PORT` serves until its stdin closes.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from typing import Any, Self

_FIELD = re.compile(r"(\w+)=([\w.-]+)")


def prompt(name: str, tokens: int = 3, *, input_: int = 10, cached: int = 0, pause_ms: int = 0) -> str:
    """The prompt that makes the server do this."""
    return f"id={name} tokens={tokens} input={input_} cached={cached} pause_ms={pause_ms}"


class Upstream:
    """The server as a child process."""

    def __init__(self) -> None:
        from tests.ports import free_port  # as a program it stands alone

        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self.process = subprocess.Popen([sys.executable, __file__, str(self.port)], stdin=subprocess.PIPE)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                self.calls()
                return self
            time.sleep(0.02)
        raise RuntimeError("the upstream did not start")

    def __exit__(self, *_: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def calls(self) -> dict[str, dict[str, int]]:
        """id -> {"begun", "tokens", "finished"}, over all tries of that id."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/calls", timeout=300) as answer:
            found: dict[str, dict[str, int]] = json.load(answer)
        return found


# -- the server --------------------------------------------------------------------------------------------------------

_calls: dict[str, dict[str, int]] = {}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            found = re.search(r"(?i)content-length: *(\d+)", head)
            body = await reader.readexactly(int(found[1])) if found else b""
            if head.startswith("GET /calls"):
                _whole(writer, _calls)
            elif head.startswith("GET "):
                _whole(writer, {"object": "list", "data": []})
            else:
                await _complete(writer, json.loads(body))
            await writer.drain()
    writer.close()


async def _complete(writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
    text = asked["messages"][-1]["content"]
    told = dict(_FIELD.findall(text if isinstance(text, str) else ""))
    call = _calls.setdefault(told.get("id", "probe"), {"begun": 0, "tokens": 0, "finished": 0})
    call["begun"] += 1
    tokens = min(int(told.get("tokens", 1)), asked.get("max_tokens") or asked.get("max_completion_tokens") or 10**9)
    pause_s = float(told.get("pause_ms", 0)) / 1000
    if "fail" in told:
        raise ConnectionResetError
    usage = {
        "prompt_tokens": int(told.get("input", 10)),
        "completion_tokens": tokens,
        "total_tokens": int(told.get("input", 10)) + tokens,
        "prompt_tokens_details": {"cached_tokens": int(told.get("cached", 0))},
    }
    base = {"id": "x", "created": 1, "model": asked["model"]}
    if not asked.get("stream"):
        await asyncio.sleep(pause_s * tokens)
        call["tokens"] += tokens
        message = {"role": "assistant", "content": "a" * tokens}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        _whole(writer, base | {"object": "chat.completion", "choices": [choice], "usage": usage})
    else:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        base |= {"object": "chat.completion.chunk"}
        _chunk(
            writer,
            base | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
        )
        for number in range(tokens):
            if pause_s:
                await asyncio.sleep(pause_s)
            call["tokens"] += 1
            _chunk(writer, base | {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
            if number % 16 == 0:
                await writer.drain()
            if writer.transport.is_closing():
                raise ConnectionResetError
        _chunk(writer, base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        _chunk(writer, base | {"choices": [], "usage": usage})
        _chunk(writer, b"[DONE]")
        writer.write(b"0\r\n\r\n")
    call["finished"] += 1


def _whole(writer: asyncio.StreamWriter, answer: Any) -> None:
    data = json.dumps(answer, separators=(",", ":")).encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
    )


def _chunk(writer: asyncio.StreamWriter, event: Any) -> None:
    data = event if isinstance(event, bytes) else json.dumps(event, separators=(",", ":")).encode()
    writer.write(b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data))


async def _main(port: int) -> None:
    loop = asyncio.get_running_loop()
    parent_gone = loop.create_future()
    loop.add_reader(sys.stdin.fileno(), lambda: parent_gone.done() or parent_gone.set_result(None))
    server = await asyncio.start_server(_serve, "127.0.0.1", port, limit=1 << 24)
    await parent_gone
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
