"""The wire to replicas and upstreams: every way an answer can be cut up, cut off, or come from somebody rude."""

import asyncio
import contextlib
import datetime
import gzip
import ipaddress
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.serve import wire
from tollway.serve.wire import Pool, WireError

BODY = b'{"choices":[{"text":"hello"}]}'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x;note=1\r\n%b\r\n" % (len(BODY[at : at + 7]), BODY[at : at + 7]) for at in range(0, len(BODY), 7))
    + b"0\r\nX-Trailer: 1\r\n\r\n"
)
Talk = Callable[["Peer", bytes], Awaitable[bool | None]]


class Peer:
    """One connection from a pool, as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer, self.number = reader, writer, number
        self.requests = 0

    async def send(self, *pieces: bytes) -> None:
        """Send pieces so that each arrives by itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)


class Server:
    """A scripted server: `talk(peer, request)` answers; returning True hangs up."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.peers: list[Peer] = []
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, len(self.peers))
        self.peers.append(peer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                body = await reader.readexactly(length)
                peer.requests += 1
                if await self._talk(peer, body):
                    break
        writer.close()


@contextlib.asynccontextmanager
async def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Server, Pool]]:
    """A scripted server on a port and a pool to it."""
    server = Server(talk)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    pool = Pool(f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1", key="secret")
    try:
        yield server, pool
    finally:
        pool.close()
        listening.close()
        for peer in server.peers:
            peer.writer.transport.abort()


def always(*pieces: bytes) -> Talk:
    """Answer every request with these bytes."""

    async def talk(peer: Peer, _body: bytes) -> None:
        await peer.send(*pieces)

    return talk


# -- answers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED], ids=["plain", "chunked"])
async def test_an_answer_split_at_every_byte_is_the_same_answer(answer: bytes) -> None:
    for at in range(1, len(answer)):
        async with serving(always(answer[:at], answer[at:])) as (_, pool):
            reply = await pool.post("/x", b"{}")
        assert (reply.status, reply.body) == (200, BODY), at


async def test_an_answer_of_single_bytes() -> None:
    async with serving(always(*(CHUNKED[at : at + 1] for at in range(len(CHUNKED))))) as (_, pool):
        assert (await pool.post("/x", b"{}")).body == BODY


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=3000), max_size=12), st.lists(st.integers(0, 20_000), max_size=10))
def test_any_chunks_cut_anywhere_arrive_whole(chunks: list[bytes], cuts: list[int]) -> None:
    framed = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    framed += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk) + b"0\r\n\r\n"
    places = [0, *sorted(min(cut, len(framed)) for cut in cuts), len(framed)]
    pieces = [framed[start:end] for start, end in itertools.pairwise(places)]

    async def whole() -> bytes:
        async with serving(always(*pieces)) as (_, pool), pool.stream("/x", b"{}") as answer:
            return b"".join([piece async for piece in answer.chunks()])

    assert asyncio.run(whole()) == b"".join(chunks)


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED], ids=["plain", "chunked"])
async def test_an_answer_cut_off_at_any_byte_is_never_taken_for_whole(answer: bytes) -> None:
    for at in range(len(answer) - (len(b"\r\n") if answer is CHUNKED else 0)):

        async def talk(peer: Peer, _body: bytes, at: int = at) -> bool:
            await peer.send(answer[:at])
            return True

        async with serving(talk) as (_, pool):
            with pytest.raises(WireError) as told:
                await pool.post("/x", b"{}")
        assert told.value.started is (at > 0), at


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async def talk(peer: Peer, _body: bytes) -> bool:
        await peer.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + BODY[:5], BODY[5:])
        return True

    async with serving(talk) as (_, pool):
        assert (await pool.post("/x", b"{}")).body == BODY
        assert (await pool.post("/x", b"{}")).body == BODY


async def test_interim_answers_are_passed_over() -> None:
    async with serving(
        always(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", PLAIN)
    ) as (_, pool):
        assert (await pool.post("/x", b"{}")).body == BODY


@pytest.mark.parametrize(
    "noise",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x00" * 50,
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_an_error_with_a_reason(noise: bytes) -> None:
    async with serving(always(noise)) as (_, pool):
        with pytest.raises(WireError, match="not valid HTTP"):
            await asyncio.wait_for(pool.post("/x", b"{}"), 60)


async def test_statuses_and_bodies_of_errors_come_through() -> None:
    async with serving(always(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")) as (server, pool):
        reply = await pool.get("/models")
    assert (reply.status, reply.body) == (503, b"busy")
    assert (
        server.heads[0].startswith(b"GET /v1/models HTTP/1.1\r\n")
        and b"Authorization: Bearer secret\r\n" in server.heads[0]
    )


# -- connections -----------------------------------------------------------------------------------------------------------


async def test_a_connection_is_used_again_and_again() -> None:
    async with serving(always(PLAIN)) as (server, pool):
        for _ in range(20):
            await pool.post("/x", b"{}")
        await asyncio.gather(*(pool.post("/x", b"{}") for _ in range(5)))
    assert len(server.peers) == 5 and sum(peer.requests for peer in server.peers) == 25


async def test_a_connection_is_left_before_the_server_tires_of_it() -> None:
    async with serving(always(PLAIN)) as (server, pool):
        for _ in range(wire._USES_MAX + 1):
            await pool.post("/x", b"{}")
    assert [peer.requests for peer in server.peers] == [wire._USES_MAX, 1]


async def test_connection_close_is_respected() -> None:
    async with serving(always(PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))) as (server, pool):
        for _ in range(3):
            assert (await pool.post("/x", b"{}")).body == BODY
    assert len(server.peers) == 3


async def test_a_connection_closed_while_idle_is_replaced_silently() -> None:
    async def talk(peer: Peer, _body: bytes) -> bool:
        await peer.send(PLAIN)
        return peer.number % 2 == 0  # every other connection is closed right after its answer

    async with serving(talk) as (server, pool):
        for _ in range(6):
            assert (await pool.post("/x", b"{}")).body == BODY
            await asyncio.sleep(0.01)
    assert len(server.peers) >= 2


async def test_the_race_of_an_idle_close_with_a_request_costs_nothing() -> None:
    """The server closes in the very moment the next request is under way: no byte of an answer came, so it is sent anew."""

    async def talk(peer: Peer, _body: bytes) -> bool:
        if peer.number == 0 and peer.requests == 2:
            return True  # read the second request, hang up without a word
        await peer.send(PLAIN)
        return False

    async with serving(talk) as (server, pool):
        await pool.post("/x", b"1")
        assert (await pool.post("/x", b"2")).body == BODY
    assert [peer.requests for peer in server.peers] == [2, 1]


@pytest.mark.parametrize("before", [0, 1], ids=["on a new connection", "on one that was used before"])
async def test_who_waits_for_a_neighbour_that_is_gone_is_told_and_asks_nobody_again(before: int) -> None:
    """The neighbour's machine lost its power: nothing breaks by itself."""
    asked = asyncio.Event()

    async def talk(peer: Peer, _body: bytes) -> None:
        if peer.requests <= before:
            await peer.send(PLAIN)
        else:
            asked.set()

    async with serving(talk) as (server, pool):
        for _ in range(before):
            await pool.post("/x", b"{}")
        waiting = asyncio.create_task(pool.post("/x", b"{}"))
        await asyncio.wait_for(asked.wait(), 60)
        pool.cut()
        with pytest.raises(WireError, match="is gone"):
            await asyncio.wait_for(waiting, 60)
    assert len(server.peers) == 1


async def test_a_fresh_connection_that_dies_is_not_tried_again() -> None:
    async def talk(_peer: Peer, _body: bytes) -> bool:
        return True

    async with serving(talk) as (server, pool):
        with pytest.raises(WireError) as told:
            await pool.post("/x", b"{}")
    assert not told.value.started and len(server.peers) == 1


@pytest.mark.parametrize("together", [True, False], ids=["in one piece", "afterwards"])
async def test_what_nobody_asked_for_is_never_part_of_an_answer(together: bool) -> None:
    """A second answer to one request (response splitting) belongs neither to this call nor to the next one."""
    evil = PLAIN.replace(b"hello", b"owned")

    async def talk(peer: Peer, body: bytes) -> None:
        if peer.number:
            await peer.send(PLAIN)
        elif together:
            await peer.send(PLAIN + evil)
        else:
            await peer.send(PLAIN, evil)

    async with serving(talk) as (_, pool):
        for _ in range(3):
            assert (await pool.post("/x", b"{}")).body == BODY
            await asyncio.sleep(0.02)


async def test_leaving_a_stream_early_closes_the_connection() -> None:
    closed = asyncio.Event()

    async def talk(peer: Peer, _body: bytes) -> bool:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await peer.reader.read(1)
        closed.set()
        return True

    async with serving(talk) as (server, pool):
        async with pool.stream("/x", b"{}") as answer:
            async for piece in answer.chunks():
                assert piece == b"hello"
                break
        await asyncio.wait_for(closed.wait(), 60)
        task = asyncio.ensure_future(pool.post("/x", b"{}"))
        while len(server.heads) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        closed.clear()
        task.cancel()  # cancelled while the answer is coming
        await asyncio.wait_for(closed.wait(), 60)
    assert len(server.peers) == 2


async def test_nobody_there(tmp_path: Path) -> None:
    for address in ("http://127.0.0.1:1", f"unix:{tmp_path / 'no.sock'}"):
        with pytest.raises(WireError, match="no connection") as told:
            await Pool(address).post("/x", b"{}")
        assert not told.value.started
    for nonsense in ("ftp://x", "127.0.0.1:80", "http://"):
        with pytest.raises(ValueError, match="neither"):
            Pool(nonsense)


async def test_a_unix_socket(tmp_path: Path) -> None:
    server = Server(always(CHUNKED))
    path = tmp_path / "engine.sock"
    async with await asyncio.start_unix_server(server.serve, path):
        pool = Pool(f"unix:{path}")
        assert [(await pool.post("/v1/x", b"{}")).body for _ in range(3)] == [BODY] * 3
        pool.close()
        server.peers[0].writer.close()
    assert len(server.peers) == 1 and server.heads[0].startswith(b"POST /v1/x HTTP/1.1\r\n")


# -- sizes -----------------------------------------------------------------------------------------------------------------


async def test_a_large_answer_waits_for_a_slow_reader() -> None:
    """What has not been read stays in the sender: the buffer here is bounded, and every byte arrives."""
    size, sent = 16 * 1024 * 1024, 0
    block = bytes(range(256)) * 256

    async def talk(peer: Peer, _body: bytes) -> None:
        nonlocal sent
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            peer.writer.write(block)
            await peer.writer.drain()
            sent += len(block)

    async with serving(talk) as (_, pool), pool.stream("/x", b"{}") as answer:
        await asyncio.sleep(0.2)
        assert sent < size, "the sender was made to wait"
        held, got, right = 0, 0, True
        async for piece in answer.chunks():
            right = right and piece[:1] == block[got % 256 : got % 256 + 1]
            got += len(piece)
            held = max(held, len(piece))
            await asyncio.sleep(0)
    assert got == size and right
    assert held <= wire._HIGH_WATER + 1024 * 1024


async def test_a_whole_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "REPLY_BYTES_MAX", 100_000)
    packed = b"x" * 200_000
    async with serving(always(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + packed)) as (_, pool):
        with pytest.raises(WireError, match="larger than"):
            await pool.post("/x", b"{}")


async def test_a_large_request_arrives_whole() -> None:
    sent = bytes(range(256)) * 20_000

    async def talk(peer: Peer, body: bytes) -> None:
        same = b"same" if body == sent else b"lost"
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + same)

    async with serving(talk) as (_, pool):
        assert (await pool.post("/x", sent)).body == b"same"


async def test_nothing_is_unpacked_unasked() -> None:
    packed = gzip.compress(BODY)
    async with serving(
        always(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)
    ) as (server, pool):
        assert (await pool.post("/x", b"{}")).body == packed
    assert b"accept-encoding" not in server.heads[0].lower()


# -- TLS -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that we made ourselves, and a server that shows it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tollway test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, key_path = tmp_path / "cert.pem", tmp_path / "key.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return path, context


async def test_tls_with_a_trusted_certificate(
    certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, context = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with serving(always(CHUNKED), context) as (server, pool):
        for _ in range(3):
            assert (await pool.post("/x", b"{}")).body == BODY
        assert len(server.peers) == 1


async def test_tls_with_a_certificate_nobody_vouches_for(certificate: tuple[Path, ssl.SSLContext]) -> None:
    async with serving(always(CHUNKED), certificate[1]) as (server, pool):
        with pytest.raises(WireError, match="SSLCertVerificationError"):
            await pool.post("/x", b"{}")
        assert server.heads == [], "no key was sent to a stranger"
