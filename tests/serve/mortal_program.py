"""The process of `mortal.Mortal`: listens on the socket that it is given and speaks just enough of `/v1/classify`. It imports
nothing of ours, so that it is there at once."""

import asyncio
import json
import os
import sys
from typing import Any

_sick = {"sick": False}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            asked = json.loads(await reader.readexactly(length) or b"{}")
            word, _, number = str(asked.get("input", ["."])[0]).partition(" ")
            if word == "die":
                await asyncio.sleep(float(number or 0) / 1000)
                os._exit(9)
            if word == "slow":
                await asyncio.sleep(float(number) / 1000)
            answer: Any = {"object": "list", "data": [], "usage": {"prompt_tokens": 1, "total_tokens": 1}}
            data = json.dumps(answer).encode()
            _sick.update(sick=word == "sicken" or (_sick["sick"] and word != "heal"))
            failed = word == "fail" or (_sick["sick"] and word not in ("sicken", "."))
            status = b"500 Error" if failed else b"200 OK"
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(data), data))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _main(socket: str, words: list[str]) -> None:
    sys.stdin.readline()
    if "stillborn" in words:
        print(json.dumps({"event": "failed", "why": "it cannot live"}), flush=True)
        return
    if "hungry" in words:
        try:
            bytearray(512 << 20)
        except MemoryError:
            print(json.dumps({"event": "failed", "why": "no memory"}), flush=True)
            return
    server = await asyncio.start_unix_server(_serve, socket)
    print(json.dumps({"event": "ready"}), flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2:]))
