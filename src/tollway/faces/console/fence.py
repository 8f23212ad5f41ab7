"""What keeps a stranger's page and a guessing script out of the console: origin, host, CSRF and the login brake.

Pure decisions over values, so that each rule is tested by itself; `visit` and `login` apply them.
"""

import ipaddress
import secrets
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=()",
    "cache-control": "no-store",
}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def host_allowed(host_header: str, shop_url: str, listen_host: str, public_url_set: bool) -> bool:
    """Is this Host one of ours? A foreign name that resolves to this machine (DNS rebinding) is not.

    Bare addresses and loopback names are always fine. With no public URL and a network-wide listener we cannot know our
    names, so every name passes; setting `public_url` closes that.
    """
    name = _hostname(host_header)
    if name is None:
        return False
    if name in _LOOPBACK or name == _hostname(urlsplit(shop_url).netloc) or _is_address(name):
        return True
    return not public_url_set and listen_host not in _LOOPBACK


def origin_allowed(origin: str | None, fetch_site: str | None, host_header: str, shop_url: str) -> bool:
    """May a page of this origin send us an unsafe request? No header at all means no browser, and so no ambient cookie."""
    if fetch_site is not None and fetch_site not in ("same-origin", "none"):
        return False
    if origin is None:
        return True
    if origin == "null":
        return False
    parts = urlsplit(origin)
    shop = urlsplit(shop_url)
    return parts.netloc.lower() == host_header.lower() or (parts.scheme, parts.netloc) == (shop.scheme, shop.netloc)


def token_matches(expected: str, *given: str | None) -> bool:
    """The session's CSRF token, from the form or the header, compared in constant time."""
    return any(token is not None and secrets.compare_digest(expected.encode(), token.encode()) for token in given)


class Recognised:
    """Sessions that were found good of late: a flood of strangers does not keep their holders out. A hint and no right:
    every page looks for itself."""

    MOST: Final = 10_000

    def __init__(self) -> None:
        self._seen: dict[int, None] = {}  # by the cookie's hash: no cookie is kept
        self._lock = threading.Lock()  # pages are served by several threads

    def note(self, cookie: str, *, good: bool) -> None:
        """A session was found, or there is none."""
        with self._lock:
            self._seen.pop(hash(cookie), None)
            if good:
                self._seen[hash(cookie)] = None
                if len(self._seen) > self.MOST:
                    del self._seen[next(iter(self._seen))]

    def __contains__(self, cookie: str) -> bool:
        return hash(cookie) in self._seen


@lru_cache(4096)
def place(address: str) -> str:
    """What shares an allowance, of requests or of passwords: an IPv4 address, or the /64 that one subscriber has of IPv6."""
    if ":" not in address:
        return address
    try:
        given = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(given.ipv4_mapped or ipaddress.ip_network((int(given) >> 64 << 64, 64)))


class LoginBrake:
    """Counts failed logins per (address, e-mail) and per address; more than the allowance in a minute has to wait.

    A try is counted before the password is checked, so that parallel guesses share one allowance; success forgives.
    """

    def __init__(
        self, monotonic: Callable[[], float], per_pair: int = 5, per_address: int = 30, window_s: float = 60.0
    ) -> None:
        self._monotonic = monotonic
        self._per_pair = per_pair
        self._per_address = per_address
        self._window_s = window_s
        self._tries: dict[tuple[str, str], list[float]] = {}
        self._lock = threading.Lock()  # pages are served by several threads

    def wait_s(self, address: str, email: str) -> float:
        """Book a try: 0 when it may go ahead, else the seconds to wait (and nothing is booked)."""
        with self._lock:
            return self._book(place(address), email)

    def _book(self, address: str, email: str) -> float:
        now = self._monotonic()
        self._forget(now)
        pairs = ((address, email.casefold()), self._per_pair), ((address, ""), self._per_address)
        for pair, allowance in pairs:
            tries = self._tries.get(pair, [])
            if len(tries) >= allowance:
                return max(1.0, tries[-allowance] + self._window_s - now)
        for pair, _ in pairs:
            self._tries.setdefault(pair, []).append(now)
        return 0.0

    def forgive(self, address: str, email: str) -> None:
        """The password was right: its tries no longer count."""
        address = place(address)
        with self._lock:
            for pair in ((address, email.casefold()), (address, "")):
                tries = self._tries.get(pair)
                if tries:
                    tries.pop()
            self._tries.pop((address, email.casefold()), None)

    def _forget(self, now: float) -> None:
        for pair in list(self._tries):
            kept = [moment for moment in self._tries[pair] if moment > now - self._window_s]
            if kept:
                self._tries[pair] = kept
            else:
                del self._tries[pair]


def _hostname(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
