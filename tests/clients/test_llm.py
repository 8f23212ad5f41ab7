"""The unmodified `llm` command line, told about the shop in its extra-openai-models.yaml."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.open_shop import CHAT, OpenShop


@pytest.fixture
def llm(open_shop: OpenShop, tmp_path: Path):  # type: ignore[no-untyped-def]
    """`llm(words…) -> standard output`, with a home of its own."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: smol\n  model_name: {CHAT}\n  api_base: {open_shop.base_url}\n  api_key_name: tollway\n",
        encoding="utf-8",
    )
    (tmp_path / "keys.json").write_text(json.dumps({"tollway": open_shop.key}), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment = kept | {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}

    def run(*words: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "llm", *words],
            env=environment,
            input="",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


def test_the_model_is_listed(llm) -> None:  # type: ignore[no-untyped-def]
    assert "smol" in llm("models")


@pytest.mark.parametrize("stream", ["--no-stream", ""])
def test_a_prompt_is_answered_and_logged(llm, stream: str) -> None:  # type: ignore[no-untyped-def]
    options = ["-m", "smol", "-o", "temperature", "0", "-o", "max_tokens", "12", "-o", "seed", "3"]
    said = llm("prompt", *options, *filter(None, [stream]), "-s", "Be brief.", "Say hello.").strip()
    assert said
    logged = json.loads(llm("logs", "--json"))[0]
    assert logged["response"].strip() == said and logged["model"] == "smol"
    assert logged["output_tokens"] > 0
