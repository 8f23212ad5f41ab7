"""A key is digested once for a connection that is kept; what it opens is looked up for each request."""

import time
from typing import Any

import httpx

from tests.clients.open_shop import OpenShop
from tollway.kit.db import Database
from tollway.sell import api_keys


def told(client: httpx.Client, key: str) -> tuple[int, Any]:
    """Status and organization on the client's one connection."""
    answer = client.get("/v1/key", headers={"authorization": f"Bearer {key}"} if key else {})
    return answer.status_code, answer.json().get("organization", {}).get("id")


def test_each_request_of_a_connection_is_its_own_keys(fortress: OpenShop) -> None:
    one, other = fortress.customer(), fortress.customer()
    limits = httpx.Limits(max_connections=1)
    with httpx.Client(base_url=fortress.url, trust_env=False, timeout=300, limits=limits) as client:
        for _ in range(2):
            assert told(client, one.key) == (200, one.org_id)
            assert told(client, other.key) == (200, other.org_id)
            assert told(client, one.key[:-1] + ("a" if one.key[-1] != "a" else "b")) == (401, None)
            assert told(client, "") == (401, None)
            assert told(client, one.key) == (200, one.org_id)


def test_a_key_revoked_while_its_connection_is_kept_is_refused(fortress: OpenShop) -> None:
    customer = fortress.customer()
    limits = httpx.Limits(max_connections=1)
    with httpx.Client(base_url=fortress.url, trust_env=False, timeout=300, limits=limits) as client:
        assert told(client, customer.key) == (200, customer.org_id)
        db = Database(str(fortress.home / "tollway.db"))
        with db.write() as conn:
            api_keys.revoke_key(conn, round(time.time() * 1000), customer.key_id)
        db.close()
        end = time.monotonic() + 120  # a quarter of a second, where nothing else runs
        while told(client, customer.key)[0] != 401:
            assert time.monotonic() < end
            time.sleep(0.02)
