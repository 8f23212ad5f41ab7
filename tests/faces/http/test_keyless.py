"""Who has neither key nor session: served from ready bytes, counted by address, and nobody else's morning is spoilt by them."""

import asyncio
import gzip
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.proof.house import GatewayProcess, make_customer, start_gateway
from tollway.faces.console.fence import Recognised
from tollway.faces.console.shown import Shown, packs
from tollway.faces.http.keyless import RESERVE_S, Allowance, Strangers, networks
from tollway.kit.errors import BadRequest, Unauthorized


class Watch:
    """Monotonic time that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Counter:
    """An access that knows one key."""

    def identify(self, key: str) -> None:
        if key != "tw_live_good":
            raise Unauthorized("unknown")


def strangers(per_s: float = 1, proxies: str = "", watch: Watch | None = None) -> tuple[Strangers, Recognised]:
    recognised = Recognised()
    access: Any = Counter()
    return Strangers(access, recognised, "tollway_session", per_s, proxies, watch or Watch()), recognised


def scope(address: str = "203.0.113.7", **headers: str) -> dict[str, Any]:
    told = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"client": (address, 5000), "headers": told}


# -- how often ---------------------------------------------------------------------------------------------------------


def test_ten_seconds_worth_at_once_then_so_many_a_second() -> None:
    watch = Watch()
    allowance = Allowance(2, watch)
    assert [allowance.wait_s("a") for _ in range(20)] == [0] * 20
    wait_s = allowance.wait_s("a")
    assert 0 < wait_s <= 0.5
    assert allowance.wait_s("b") == 0, "another address has its own"
    watch.now += wait_s
    assert allowance.wait_s("a") == 0, "the wait that was told is honest"
    assert allowance.wait_s("a") > 0
    watch.now += 1000
    assert [allowance.wait_s("a") for _ in range(21)].count(0) == 20, "the reserve does not grow without end"


def test_addresses_take_bounded_memory() -> None:
    allowance = Allowance(2, Watch())
    for number in range(12_000):
        allowance.wait_s(str(number))
    assert len(allowance._left) <= 10_000


def test_who_shows_a_valid_key_or_session_is_not_counted() -> None:
    who, recognised = strangers()
    recognised.note("mine", good=True)
    for _ in range(30):
        assert who.refusal(scope(authorization="Bearer tw_live_good")) is None
        assert who.refusal(scope(cookie="a=b; tollway_session=mine")) is None
    assert [who.refusal(scope(authorization="Bearer tw_live_bad")) is None for _ in range(11)].count(True) == RESERVE_S
    refusal = who.refusal(scope(cookie="tollway_session=another"))
    assert refusal is not None and refusal.status == 429 and refusal.retry_after_s == pytest.approx(1)
    recognised.note("mine", good=False)
    assert who.refusal(scope(cookie="tollway_session=mine")) is not None, "signed out"


def test_a_subscriber_of_ipv6_is_one_address() -> None:
    who, _ = strangers()
    allowed = sum(who.refusal(scope(f"2001:db8:1:2::{one:x}")) is None for one in range(50))
    assert allowed == RESERVE_S
    assert who.refusal(scope("2001:db8:1:3::1")) is None
    assert who.refusal(scope("::ffff:203.0.113.9")) is None


def test_nothing_is_counted_when_there_is_no_limit() -> None:
    who, _ = strangers(0)
    assert all(who.refusal(scope()) is None for _ in range(1000))


# -- whose address -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "told", "believed"),
    [
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("127.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("127.0.0.1", "9.9.9.9, 198.51.100.1", "198.51.100.1"),  # what stands before came from the caller
        ("127.0.0.1", "198.51.100.1, 10.0.0.5", "198.51.100.1"),  # two proxies of ours
        ("127.0.0.1", "198.51.100.1, nonsense", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "10.0.0.5", "127.0.0.1"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # no proxy of ours
    ],
)
def test_only_our_proxies_say_who_asks(peer: str, told: str, believed: str) -> None:
    who, _ = strangers(proxies="127.0.0.1, 10.0.0.0/8")
    asked = scope(peer, x_forwarded_for=told) if told else scope(peer)
    who.put_right(asked)
    assert asked["client"][0] == believed
    nobody, _ = strangers()
    asked = scope(peer, x_forwarded_for=told)
    nobody.put_right(asked)
    assert asked["client"][0] == peer


def test_a_list_of_proxies_that_is_none_is_refused() -> None:
    assert networks("") == () and len(networks("127.0.0.1, ::1,10.0.0.0/8")) == 3
    with pytest.raises(BadRequest, match="no list of addresses"):
        networks("everybody")


# -- what is ready -----------------------------------------------------------------------------------------------------


def test_a_document_is_sent_once_and_packed_for_who_can_read_it() -> None:
    one = Shown(b"words " * 1000, "text/plain")
    status, headers, body = one.answer("", "br, gzip")
    told = dict(headers)
    assert status == 200 and gzip.decompress(body) == one.body and told[b"content-encoding"] == b"gzip"
    for tag in (told[b"etag"].decode(), "W/" + told[b"etag"].decode(), '"other", ' + told[b"etag"].decode(), "*"):
        assert one.answer(tag, "gzip")[::2] == (304, b""), tag
    assert one.answer('"other"', "")[2] == one.body
    assert dict(one.answer(version=one.digest)[1])[b"cache-control"].endswith(b"immutable")
    assert dict(one.answer(version="old")[1])[b"cache-control"] == b"no-cache"


@pytest.mark.parametrize("said", ["gzip", "gzip, deflate", "*", "br;q=1.0, gzip;q=0.8", "GZIP", "deflate,gzip ; q=0.5"])
def test_who_reads_gzip(said: str) -> None:
    assert packs(said)


@pytest.mark.parametrize("said", ["", "br", "identity", "gzip;q=0", "gzip;q=0.0, identity", "xgzip", "gzipped"])
def test_who_does_not_read_gzip(said: str) -> None:
    assert not packs(said)


# -- a gateway in a flood ----------------------------------------------------------------------------------------------

RATE = 5


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway without models that lets an address ask five times a second, fifty at once."""
    env = {"TOLLWAY_KEYLESS_RPS": str(RATE), "TOLLWAY_PROXIES": "127.0.0.1"}
    started = start_gateway(tmp_path_factory.mktemp("flood") / "home", starter=False, env=env)
    yield started
    started.stop()


def client(gateway: GatewayProcess, address: str, **headers: str) -> httpx.Client:
    """Somebody behind the proxy."""
    return httpx.Client(
        base_url=gateway.url, headers={"x-forwarded-for": address, **headers}, trust_env=False, timeout=300
    )


async def flood(port: int, path: str, until: asyncio.Event, counts: dict[int, int], address: str) -> None:
    """One connection that asks again as soon as it is answered."""
    request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-forwarded-for: {address}\r\n\r\n".encode()
    while not until.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while not until.is_set():
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                status = int(head.split(b" ")[1])
                counts[status] = counts.get(status, 0) + 1
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                await reader.readexactly(length)
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            counts[0] = counts.get(0, 0) + 1
            await asyncio.sleep(0.05)


async def test_a_flood_of_strangers_gets_a_rate_and_keeps_nobody_waiting(gateway: GatewayProcess) -> None:
    key = await asyncio.to_thread(make_customer, gateway.home, scopes=("inference", "usage"))
    while (await gateway.get("/v1/models", key.key)).status == 401:
        await asyncio.sleep(0.02)
    until, counts = asyncio.Event(), dict[int, int]()
    paths = (
        "/openapi.json",
        "/docs",
        "/console/login",
        "/metrics",
        "/console/static/console.css",
        "/nowhere",
        "/console",
    )
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(flood(gateway.port, paths[number % len(paths)], until, counts, "198.51.100.66"))
        while counts.get(429, 0) < 100:
            await asyncio.sleep(0.05)
        answers = await asyncio.to_thread(_calm_rounds, gateway, key.key)
        until.set()
    took_s = time.monotonic() - began
    assert set(answers) == {200}, "health, a signed-in operator and a caller with a key are answered as ever"
    good = sum(count for status, count in counts.items() if status not in (0, 429))
    assert good <= RATE * (RESERVE_S + took_s) + 1, counts
    assert counts[429] <= 200 * (took_s + 2), (
        "who was refused waits for the refusal: a flood is no faster than its connections"
    )


def _refused(stranger: httpx.Client, path: str) -> httpx.Response:
    """The first answer that says to wait; now and then one is lucky."""
    for _ in range(50):
        answer = stranger.get(path)
        if answer.status_code == 429:
            return answer
    raise AssertionError("never refused")


def _calm_rounds(gateway: GatewayProcess, key: str) -> list[int]:
    statuses = []
    with client(gateway, "198.51.100.66") as stranger, client(gateway, "192.0.2.1") as operator:
        refused = _refused(stranger, "/openapi.json")
        error = refused.json()["error"]
        assert refused.status_code == 429 and error["code"] == "rate_limit_exceeded" and set(error) == {
            "message", "type", "param", "code",
        }  # fmt: skip
        assert int(refused.headers["retry-after"]) >= 1
        stranger.headers["accept-language"] = "zh-CN"
        page = _refused(stranger, "/console/login")
        assert "请求过于频繁" in page.text and page.headers["x-frame-options"] == "DENY"
        form = {"email": gateway.operator_email, "password": gateway.operator_password}
        assert operator.post("/console/login", data=form).status_code == 303, "another address is none of the flood's"
        operator.headers["x-forwarded-for"] = "198.51.100.66"  # signed in, and then from the flood's own address
        for _ in range(5):
            statuses += [operator.get(path).status_code for path in ("/healthz", "/console/usage", "/console/account")]
            statuses.append(stranger.get("/healthz").status_code)
            statuses.append(stranger.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code)
            statuses.append(stranger.get("/openapi.json", headers={"authorization": f"Bearer {key}"}).status_code)
    return statuses


def test_what_is_ready_has_a_digest_and_travels_packed(gateway: GatewayProcess) -> None:
    with client(gateway, "192.0.2.2") as anyone:
        for path in ("/openapi.json", "/docs", "/console/static/console.css"):
            with anyone.stream("GET", path, headers={"accept-encoding": "gzip"}) as packed:
                raw = b"".join(packed.iter_raw())
            whole = anyone.get(path, headers={"accept-encoding": "identity"})
            assert gzip.decompress(raw) == whole.content and len(raw) < len(whole.content) / 2
            again = anyone.get(path, headers={"if-none-match": whole.headers["etag"]})
            assert again.status_code == 304 and not again.content
            head = anyone.head(path)
            assert head.status_code == 200 and not head.content
        assert anyone.post("/openapi.json").status_code == 405


def test_the_brake_of_the_login_knows_people_behind_a_proxy_apart(gateway: GatewayProcess) -> None:
    wrong = {"email": "nobody@example.com", "password": "not the password"}
    with client(gateway, "192.0.2.3") as guesser, client(gateway, "192.0.2.4") as other:
        answers = [guesser.post("/console/login", data=wrong).status_code for _ in range(6)]
        assert answers == [401] * 5 + [429]
        assert other.post("/console/login", data=wrong).status_code == 401
