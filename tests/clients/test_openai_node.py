"""The unmodified `openai` package from npm, run by Node."""

import fcntl
import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.open_shop import CHAT, EMBED, OpenShop

VERSION = "6.30.1"  # the newest that Debian's Node runs
CACHE = Path(__file__).parents[1] / ".cache" / f"npm-openai-{VERSION}"


@pytest.fixture(scope="module")
def installed() -> Path:
    """A folder with the package in it, kept between runs."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / "node_modules" / "openai" / "package.json").exists():
            flags = [
                "--no-save",
                "--no-package-lock",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--loglevel=error",
            ]
            subprocess.run(["npm", "install", *flags, f"openai@{VERSION}"], cwd=CACHE, check=True, timeout=1800)
    return CACHE


def test_the_client_from_npm(installed: Path, open_shop: OpenShop, alone: None) -> None:
    given = {"BASE_URL": open_shop.base_url, "API_KEY": open_shop.key, "CHAT": CHAT, "EMBED": EMBED}
    script = Path(__file__).with_name("openai_node.mjs")
    ran = subprocess.run(
        ["node", str(script)],
        cwd=installed,
        env=_without_proxies() | given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    assert {CHAT, EMBED} <= set(told["models"])
    assert told["text"] and told["text"] == told["streamed"] == told["gathered"]
    assert told["usage"]["completion_tokens"] == told["streamedUsage"]["completion_tokens"] > 0
    assert told["dimensions"] == [384, 384] and math.isclose(told["length"], 1, abs_tol=1e-3)
    assert told["completion"] and told["requestId"].startswith("req_")
    assert set(told["shaped"]) == {"name"}
    assert told["unknownModel"] == ["NotFoundError", 404, "model_not_found", "model"]
    assert told["badValue"] == ["BadRequestError", 400, "invalid_value", "temperature"]
    assert told["wrongKey"] == ["AuthenticationError", 401, "invalid_api_key", None]


def _without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
