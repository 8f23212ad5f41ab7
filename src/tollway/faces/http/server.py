"""The server process of `tollway up`: open the gateway, build the house, serve until told to stop."""

import asyncio
import ctypes
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from tollway.faces.http.guard import guarded
from tollway.flows.gateway import Gateway
from tollway.kit.errors import Unavailable
from tollway.shop import Shop

if TYPE_CHECKING:
    from tollway.faces.http.app import House


def serve(
    shop: Shop, on_ready: Callable[[Gateway], None] | None = None, on_progress: Callable[[str], None] | None = None
) -> None:
    """Run the gateway of `shop` until SIGINT or SIGTERM. `on_ready` is called once when every replica can answer."""
    with asyncio.Runner(loop_factory=_uvloop()) as runner:
        runner.run(_serve(shop, on_ready, on_progress))


async def _serve(
    shop: Shop, on_ready: Callable[[Gateway], None] | None, on_progress: Callable[[str], None] | None
) -> None:
    settings = shop.settings
    listener = listen(settings.host, settings.port)
    gateway = Gateway(shop)
    await gateway.open(on_progress)
    try:
        build = await asyncio.to_thread(_builder)
        await _answer(gateway, build(gateway), listener, on_ready)
    finally:
        await gateway.close()


async def _answer(
    gateway: Gateway, house: "House", listener: socket.socket, on_ready: Callable[[Gateway], None] | None
) -> None:
    """Serve the house until told to stop."""
    settings = gateway.shop.settings
    config = uvicorn.Config(
        house,
        http=guarded(settings.header_timeout_s, settings.body_timeout_s, settings.connections_max),
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=30,
        backlog=2048,
    )
    server = _Server(config)
    # What is here stays; the collector need not look at it again, nor so often at calls that free themselves.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    _give_memory_back()
    announce = asyncio.create_task(_announce(gateway, on_ready))
    try:
        await server.serve(sockets=[listener])
    finally:
        announce.cancel()


def _give_memory_back() -> None:
    """What start-up took and let go (a first one copies models and hashes passwords) goes back to the system; of the C
    libraries only GNU's keeps it and can be told."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _builder() -> "Callable[[Gateway], House]":
    """The web framework is imported here, for start-up's sake: meanwhile the replicas are loading their models."""
    from tollway.faces.http.app import build

    return build


class _Server(uvicorn.Server):
    """uvicorn raises the signal once more when it has stopped, which would end us before replicas and books are closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def _announce(gateway: Gateway, on_ready: Callable[[Gateway], None] | None) -> None:
    await gateway.service.fleet.wait_ready()
    if on_ready is not None:
        on_ready(gateway)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, or a clear word about who has the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            code="port_in_use",
            hint=f"Choose another with `tollway up --port {port + 1}`.",
        ) from error
    listener.listen(2048)
    listener.setblocking(False)
    return listener


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    return uvloop.new_event_loop
