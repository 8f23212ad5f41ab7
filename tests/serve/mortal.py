"""An engine whose process does what its input says: answers, dies, is slow, fails. For what real engines do once a year.

As a program it listens on the socket that it is given and speaks just enough of `/v1/classify`.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tollway.serve.engines import Address, Caps, Launch, Probe


class Mortal:
    """`slots` calls at a time. Inputs: "die" ends the process, "slow N" takes N ms, "fail" is answered with a
    500, and after "sicken" everything but the probe is, until "heal"."""

    name = "mortal"
    model = "m"
    version = "1"
    probe = Probe(path="/classify", body={"input": ["."]})
    pulse = "/pulse"

    def __init__(self, slots: int = 4, *, stillborn: bool = False, hungry: bool = False) -> None:
        self.caps = Caps(classify=True, slots=slots)
        self._words = ["stillborn"] * stillborn + ["hungry"] * hungry

    def launch(self, socket: Path) -> Launch:
        return Launch(argv=(sys.executable, __file__, str(socket), *self._words), first_line=b"go\n")

    def address(self, socket: Path) -> Address:
        return Address(url=f"unix:{socket}")


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
