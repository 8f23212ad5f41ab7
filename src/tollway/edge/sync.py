"""Sends a device's log to the shop. It may be tried as often as one likes: the shop takes each entry once."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

from tollway.edge.device import Device
from tollway.kit.errors import BadRequest, Conflict, TollwayError, Unavailable

AT_ONCE: Final = 1000
_TIMEOUT_S: Final = 60.0


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere: the key is for the shop alone."""

    def redirect_request(self, *asked: Any) -> None:
        """No other request."""


_ELSEWHERE: Final = "It sends callers elsewhere; give the address itself: --url."
_STRAIGHT: Final = urllib.request.build_opener(_Straight)


def sync(device: Device, key: str, url: str = "") -> dict[str, int]:
    """Send what the shop does not have yet; how many entries were sent, and which is the last it has."""
    base = (url or device.about["url"]).rstrip("/")
    if not base.lower().startswith(("http://", "https://")):
        raise BadRequest(f"{base[:80]!r} is no address of a shop.", hint="It begins with https:// (or http://): --url.")
    place = f"{base}/v1/edge/usage?{urllib.parse.urlencode({'device': device.about['device']})}"
    head = int(_call(place, key, None)["head"])
    sent = 0
    while True:
        entries = device.log.after(max(head - 1, 0), AT_ONCE)  # the last that it has shows whether this is its log
        if head and not entries:
            raise Conflict(
                f"The shop has {head} entries of this device, which are not all in this log: it is an older copy.",
                code="log_forked",
                hint="Restore the newest copy of state/, or have the model exported anew.",
            )
        if not entries or entries[-1]["n"] == head:
            break
        body = {"device": device.about["device"], "sent_at_ms": time.time_ns() // 1_000_000, "entries": entries}
        told = _call(place.partition("?")[0], key, body)
        if int(told["head"]) <= head:
            raise Conflict("The shop takes no more of this log.", code="log_tampered")
        sent, head = sent + int(told["accepted"]), int(told["head"])
    device.log.note_synced(head)
    return {"sent": sent, "head": head}


def _call(url: str, key: str, body: dict[str, Any] | None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode("ascii")
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310 - the shop's own address
    try:
        with _STRAIGHT.open(request, timeout=_TIMEOUT_S) as answer:
            told: dict[str, Any] = json.load(answer)
            return told
    except urllib.error.HTTPError as error:
        raise _refusal(error) from None
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"The shop cannot be reached ({error}).", hint="Nothing is lost: try again when there is a connection."
        ) from error


def _refusal(error: urllib.error.HTTPError) -> TollwayError:
    try:
        told = json.load(error)["error"]
        made = TollwayError(str(told["message"]), code=str(told["code"]))
    except (OSError, ValueError, KeyError, TypeError):
        made = TollwayError(f"The shop answered {error.code}.", hint=_ELSEWHERE if 300 <= error.code < 400 else "")
    made.status = error.code
    return made
