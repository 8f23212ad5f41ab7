"""A flood of uploads: whoever sends many, slowly or large, keeps no other organization and no health check waiting."""

import asyncio
import json
import time
from pathlib import Path

import httpx

from tests.clients.open_shop import FREE, OpenShop

LINE = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x" * 400}]})


def form(content: bytes, boundary: str = "b") -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--{boundary}\r\n'
    head += 'Content-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode()


async def drip(shop: OpenShop, key: str, seconds: float) -> int:
    """An upload whose bytes hardly come; the status of its answer, 0 when the connection was closed without one."""
    body = form(LINE.encode())
    reader, writer = await asyncio.open_connection("127.0.0.1", shop.port)
    head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
    writer.write((head + "Content-Type: multipart/form-data; boundary=b\r\n\r\n").encode())
    ended = asyncio.ensure_future(reader.readline())
    end = time.monotonic() + seconds
    try:
        for place in range(len(body) - 1):
            writer.write(body[place : place + 1])
            done, _ = await asyncio.wait([ended], timeout=0.2)
            if done or time.monotonic() > end:
                break
        line = await asyncio.wait_for(ended, 60)
    except (OSError, TimeoutError):
        return 0
    finally:
        writer.close()
    return int(line.split()[1]) if line else 0


async def test_a_flood_of_uploads_keeps_nobody_else_waiting(fortress: OpenShop) -> None:
    attacker, victim = fortress.customer(FREE), fortress.customer(FREE)
    large = (LINE + "\n").encode() * 20_001  # 9 MB, and one line too many: read and checked for nothing
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=fortress.url, timeout=300, trust_env=False, limits=limits) as http:
        slow = [asyncio.create_task(drip(fortress, attacker.key, 4)) for _ in range(40)]
        heavy = [
            asyncio.create_task(
                http.post(
                    "/v1/files",
                    headers={"authorization": f"Bearer {attacker.key}"},
                    data={"purpose": "fine-tune"},
                    files={"file": ("x.jsonl", large)},
                )
            )
            for _ in range(12)
        ]
        await asyncio.sleep(0.3)
        took, probes = [], []
        for _ in range(5):
            begun = time.monotonic()
            mine = await http.post(
                "/v1/files",
                headers={"authorization": f"Bearer {victim.key}"},
                data={"purpose": "fine-tune"},
                files={"file": ("x.jsonl", LINE.encode())},
            )
            took.append(time.monotonic() - begun)
            assert mine.status_code == 200, mine.text
            begun = time.monotonic()
            assert (await http.get("/healthz")).status_code == 200
            probes.append(time.monotonic() - begun)
        drips = await asyncio.gather(*slow)
        answers = [reply.status_code for reply in await asyncio.gather(*heavy)]
        left = await http.get("/v1/files", headers={"authorization": f"Bearer {attacker.key}"})
    print(
        f"uploads beside the flood: {max(took):.2f} s at most, health {max(probes) * 1000:.0f} ms; {sorted(drips)} {answers}"
    )
    assert max(took) < 15 and max(probes) < 5
    assert drips.count(429) >= 30, "beyond two at a time they are refused at once"
    assert set(answers) <= {400, 429} and 429 in answers
    assert left.json()["data"] == [], "nothing of it is kept"
    await _until_empty(fortress.home / "files" / ".aside")  # other tests send files to this gateway too


async def _until_empty(folder: Path) -> None:
    async with asyncio.timeout(60):
        while list(folder.glob("*")):
            await asyncio.sleep(0.05)
