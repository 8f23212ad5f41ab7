"""The traps of the engines, each found the hard way somewhere: what keeps us out of them must not go away unnoticed.

Others stand in the contract that every engine inherits: no TCP port, a process started fresh and not forked, errors that are
errors (`engine_contract.py`, `test_engines.py`); adapters that never cross organizations are in `test_adapters.py`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serve import tiny_models
from tests.serve.engine_contract import connections
from tollway.artifacts import signing, store, tuning
from tollway.forge.convert import starter
from tollway.kit.clock import SystemClock
from tollway.kit.settings import Settings
from tollway.serve import assembly
from tollway.serve.engines import Engine, LlamaCpp, OpenVinoGenai, Rows, child, cpu_cores, cpu_threads
from tollway.serve.models import Model


def spec_of(engine: Engine) -> dict[str, Any]:
    launch = engine.launch(Path("/tmp/x.sock"))
    assert launch is not None
    found: dict[str, Any] = json.loads(launch.first_line)
    return found


@pytest.mark.parametrize("engine", [LlamaCpp(Path("x"), "m"), OpenVinoGenai(Path("x"), "m")])
def test_spinning_threads_leave_a_core_to_the_others(engine: Engine) -> None:
    """Two spinning threads on two busy cores write a tenth of what one writes."""
    assert spec_of(engine)["threads"] == cpu_threads() == max(1, cpu_cores() - 1)
    assert 1 <= cpu_cores() <= len(os.sched_getaffinity(0))


def test_no_engine_is_ever_loaded_into_the_gateway() -> None:
    """A step of one holds the interpreter's lock for its whole length; a child forked after another is loaded hangs."""
    code = (
        "import sys, tollway.flows.gateway, tollway.serve.engines, tollway.serve.assembly\n"
        "print([n for n in ('xllamacpp', 'openvino', 'openvino_genai', 'onnxruntime', 'torch', 'ctranslate2') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_base_with_adapters_is_never_on_the_engine_that_mixes_them_up(tmp_path: Path) -> None:
    """OpenVINO GenAI answers a call with the adapter of whoever was before it: a tuned base goes back when it gets one."""
    weights = tmp_path / "tiny.gguf"
    tiny_gguf(weights)
    shelf = store.Store(tmp_path / "packages", signing.Signer(b"s" * 32), SystemClock())
    package = shelf.import_gguf(weights, "base")
    folder = tuning.tuned_folder(package) / "openvino-int8"
    folder.mkdir(parents=True)
    (folder / "openvino_model.xml").write_text("<net/>")
    tuning.keep(
        shelf,
        package,
        tuning.Choice(engine="openvino_genai", format="openvino-int8", folder="openvino-int8", threads=1),
    )
    model = Model("base", "chat", "Base", "llama_cpp", package.manifest.version, None, 0)
    settings = Settings(tmp_path)
    assert isinstance(assembly.engine(model, package, settings), OpenVinoGenai)
    assert isinstance(assembly.engine(model, package, settings, [tmp_path / "lora.gguf"]), LlamaCpp)


@pytest.mark.engine
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("name", ["llama_cpp", "rows"])
def test_no_engine_calls_anybody(name: str, tmp_path: Path) -> None:
    """From its start to its first answer it opens no connection but to our own sockets."""
    calls = connections(engine_named(name, tmp_path), tmp_path)
    assert not [line for line in calls if re.search(r"AF_INET6?\b", line)], "\n".join(calls)


def test_every_engine_is_told_to_keep_to_itself() -> None:
    told = child.QUIET
    assert told["ORT_DISABLE_TELEMETRY"] == told["HF_HUB_DISABLE_TELEMETRY"] == told["VLLM_NO_USAGE_STATS"] == "1"


def engine_named(name: str, folder: Path) -> Engine:
    if name == "rows":
        tiny_models.text_classifier(folder / "tiny")
        return Rows(folder / "tiny", "tiny")
    weights = starter.locate_smollm2()
    assert weights is not None, "the starter model is not installed: make setup"
    return LlamaCpp(weights, "smol", slots=1, context_tokens=512)


def tiny_gguf(path: Path) -> None:
    """The smallest file that the shelf takes for a language model."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_an_engine_takes_no_more_memory_than_it_was_given_however_large_its_weights() -> None:
    """What a model asks for by its size is more than the machine has: whoever is not root could not even ask, and would not
    start."""
    given, asked = 3 << 30, 40 << 30
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({given}, {given}));"
        f"from tollway.serve.engines import child; child.limit(1, {asked});"
        "print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(told.stdout) == given
