"""The unmodified LiteLLM SDK. It pins an older `openai`, so where this environment lacks it, it gets one of its own."""

import fcntl
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.open_shop import CHAT, EMBED, OpenShop

VERSION = "1.102.4"
CACHE = Path(__file__).parents[1] / ".cache" / f"litellm-{VERSION}"


@pytest.fixture(scope="module")
def python() -> Path:
    """A Python that has LiteLLM: this one, or one made once and kept between runs."""
    try:
        if importlib.metadata.version("litellm") == VERSION:
            return Path(sys.executable)
    except importlib.metadata.PackageNotFoundError:
        pass
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / "bin" / "python"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / "installed").exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(CACHE)], check=True, timeout=1800)
            pip = [sys.executable, "-m", "pip", "--python", str(made), "--disable-pip-version-check", "install"]
            few = ["--quiet", "--no-compile"]  # of its thousands of modules some hundreds are imported
            subprocess.run([*pip, *few, f"litellm=={VERSION}"], check=True, timeout=1800)
            (CACHE / "installed").touch()
    return made


@pytest.mark.slow
@pytest.mark.timeout(600)  # the first run installs it
def test_the_sdk(python: Path, open_shop: OpenShop, alone: None) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    given = {"BASE_URL": open_shop.base_url, "API_KEY": open_shop.key, "CHAT": CHAT, "EMBED": EMBED}
    script = Path(__file__).with_name("litellm_round.py")
    ran = subprocess.run(
        [str(python), str(script)], env=kept | given, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.strip().splitlines()[-1])
    assert told["text"] and told["text"] == told["streamed"] == told["asynchronous"]
    assert told["output_tokens"] > 0 and told["dimensions"] == [384, 384] and told["text_completion"]
    assert told["wrong_key"] == ["AuthenticationError", 401]
    assert told["unknown_model"] == ["NotFoundError", 404]
    assert told["bad_value"] == ["BadRequestError", 400]
