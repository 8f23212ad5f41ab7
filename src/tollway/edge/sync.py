"""Sends a device's log to the shop. It may be tried as often as one likes: the shop takes each entry once."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

from tollway.edge.device import Device
from tollway.kit.errors import Conflict, TollwayError, Unavailable

AT_ONCE: Final = 1000
_TIMEOUT_S: Final = 60.0


def sync(device: Device, key: str, url: str = "") -> dict[str, int]:
    """Send what the shop does not have yet; how many entries were sent, and which is the last it has."""
    base = (url or device.about["url"]).rstrip("/")
    place = f"{base}/v1/edge/usage?{urllib.parse.urlencode({'device': device.about['device']})}"
    head = int(_call(place, key, None)["head"])
    sent = 0
    while True:
        entries = device.log.after(head, AT_ONCE)
        if not entries:
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
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
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
        made = TollwayError(f"The shop answered {error.code}.")
    made.status = error.code
    return made
