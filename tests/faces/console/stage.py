"""What the console's tests stand on: opening a copy of the seeded shop, a client that signs in, a console on a real socket."""

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.testclient import TestClient

from tests.faces.console import seed
from tests.ports import free_port
from tollway.faces.console import routes
from tollway.kit.db import Database
from tollway.kit.errors import PaymentRequired, Unavailable
from tollway.kit.settings import Settings

RECIPE = """[recipe]
name = "reviews"
task = "text-classification"
[data]
dataset = "reviews@1"
[model]
architecture = "bilstm"
"""


def opened(seeded_home: Path, home: Path, **flags: Any) -> Iterator[seed.SeededShop]:
    shutil.copytree(seeded_home, home)
    settings = Settings(home, flags={"machine_price_per_hour": "0.116"} | flags, environment={})
    db = Database(settings.url_of_database)
    yield seed.SeededShop(db, seed.Clock(seed.NOW_MS), settings)
    db.close()


class Client(TestClient):
    """A browser without scripts that knows how to sign in and to send a form with its CSRF token."""

    def sign_in(self, email: str, password: str = seed.PASSWORD) -> "Client":
        answer = self.post("/console/login", data={"email": email, "password": password})
        assert answer.status_code == 303, answer.text
        return self

    def token(self) -> str:
        page = self.get("/console/account").text
        return page.split('name="csrf" content="')[1].split('"')[0]

    def post_form(self, path: str, **fields: Any) -> Any:
        """POST a form as the page would."""
        return self.post(path, data={"csrf": self.token(), **fields})


class EngineLost(Unavailable):
    """The engine was lost in the middle of an answer."""

    code = "engine_lost"


async def tell_a_story(org_id: str, body: dict[str, Any]) -> Response:
    """Stands where the gateway's answer comes from: streams its words slowly enough to be stopped."""
    if "refuse" in body["messages"][-1]["content"]:
        raise PaymentRequired("The wallet is empty.")

    async def events() -> AsyncIterator[str]:
        for (
            word
        ) in f"You said: {body['messages'][-1]['content']} (at {body['temperature']}) and so on and on and on".split():
            yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': word + ' '}}]})}\n\n"
            await asyncio.sleep(0.05)
            if "break" in body["messages"][-1]["content"]:
                yield f"data: {json.dumps({'error': EngineLost().shown()})}\n\n"
                return
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"x-request-id": "req_story"})


class Site:
    """A console served over a real socket."""

    def __init__(self, shop: seed.SeededShop, server: uvicorn.Server, port: int) -> None:
        self.shop, self.url, self._server = shop, f"http://127.0.0.1:{port}", server

    def stop(self) -> None:
        self._server.should_exit = True


def serve(shop: seed.SeededShop, playground: Any = None) -> Site:
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=routes(shop, playground or tell_a_story)), port=port, log_level="error")
    )
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        threading.Event().wait(0.02)
    return Site(shop, server, port)
