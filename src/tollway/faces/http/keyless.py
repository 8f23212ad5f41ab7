"""How often one address may ask without a key or a sign-in: for the doors that anybody may try.

Each such request takes from its address's allowance (`keyless_rps` a second, ten seconds' worth in reserve); when it is used
up the answer is a 429 that says when to come back, made before anything else is looked at. Who shows a valid key or a session
that was found good is not counted, so a flood of strangers does not keep them out, not even from behind the same address.

Behind a proxy all strangers have its address, unless `proxies` names it: then the last address in `X-Forwarded-For` that is
no proxy's is the caller's. Nobody else's header is believed.
"""

import ipaddress
from collections.abc import Callable
from typing import Final

from tollway.faces.console.fence import Recognised, place
from tollway.faces.http.wire import Scope, bearer, header
from tollway.kit.errors import BadRequest, RateLimited, TollwayError
from tollway.sell.access import Access

RESERVE_S: Final = 10.0
_ADDRESSES_MAX: Final = 10_000
_FORWARDED_MAX: Final = 2000
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Allowance:
    """So many requests a second for each address; of addresses that were not seen for longest nothing is known."""

    def __init__(self, per_s: float, now: Callable[[], float]) -> None:
        self._per_s, self._most, self._now = per_s, max(1.0, per_s * RESERVE_S), now
        self._left: dict[str, tuple[float, float]] = {}  # address -> (requests left, when)

    def wait_s(self, address: str) -> float:
        """Count one request: 0.0 when it may go on, else the seconds until one may (and nothing is counted)."""
        now = self._now()
        left, seen = self._left.pop(address, (self._most, now))
        left = min(self._most, left + (now - seen) * self._per_s)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._per_s
        self._left[address] = (left if wait_s else left - 1, now)
        if len(self._left) > _ADDRESSES_MAX:
            del self._left[next(iter(self._left))]
        return wait_s


class Strangers:
    """Who asks without a key or a sign-in, and how often they may."""

    def __init__(
        self, access: Access, recognised: Recognised, cookie: str, per_s: float, proxies: str, now: Callable[[], float]
    ) -> None:
        self._access, self._recognised, self._cookie = access, recognised, f"{cookie}="
        self._allowance = Allowance(per_s, now) if per_s > 0 else None
        self._proxies = networks(proxies)

    def refusal(self, scope: Scope) -> RateLimited | None:
        """Why a request has to wait, if it has to."""
        if self._allowance is None or self._known(scope):
            return None
        client = scope.get("client")
        wait_s = self._allowance.wait_s(place(client[0]) if client else "")
        if not wait_s:
            return None
        return RateLimited(
            "This address asks too often without a key or a sign-in.",
            hint="Wait a moment; with a valid key or a session there is no such limit.",
            retry_after_s=wait_s,
        )

    def put_right(self, scope: Scope) -> None:
        """Have a scope name the caller's address, where a proxy of ours tells it."""
        client = scope.get("client")
        if not self._proxies or not client or not self._is_proxy(client[0]):
            return
        told = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        for one in reversed(",".join(told)[-_FORWARDED_MAX:].split(",")):
            place = _bare(one.strip())
            if place is None:
                return
            if not self._is_proxy(place):
                scope["client"] = (place, 0)
                return

    def _is_proxy(self, address: str) -> bool:
        try:
            given = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(given in network for network in self._proxies)

    def _known(self, scope: Scope) -> bool:
        for part in header(scope, b"cookie")[:8000].split(";"):
            name = part.strip()
            if name.startswith(self._cookie) and name.removeprefix(self._cookie) in self._recognised:
                return True
        key = bearer(scope)
        if not key:
            return False
        try:
            self._access.identify(key)
        except TollwayError:
            return False
        return True


def networks(text: str) -> tuple[_Network, ...]:
    """Addresses and networks, with commas between them. Raises BadRequest."""
    try:
        return tuple(ipaddress.ip_network(one.strip()) for one in text.split(",") if one.strip())
    except ValueError as error:
        raise BadRequest(
            f"proxies = {text!r} is no list of addresses: {error}.", hint="Write it like 127.0.0.1, 10.0.0.0/8."
        ) from error


def _bare(text: str) -> str | None:
    """An address of X-Forwarded-For without its port."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
