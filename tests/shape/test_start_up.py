"""The command line starts light: what is not needed for an answer is not loaded. (The time itself is a bench's figure.)"""

import subprocess
import sys

import pytest

HEAVY = (
    "fastapi",
    "starlette",
    "sqlalchemy",
    "numpy",
    "uvicorn",
    "xllamacpp",
    "cryptography",
    "reportlab",
    "alembic",
    "gguf",
)


def loaded_by(*arguments: str) -> set[str]:
    script = (
        f"import sys\nfrom tollway.faces.cli import main\ntry: main({list(arguments)!r})\nexcept SystemExit: pass\n"
    )
    return _loaded_after(script)


@pytest.mark.parametrize("arguments", [("--help",), ("version",), ("nonsense",)], ids=" ".join)
def test_it_loads_nothing_heavy(arguments):
    assert not loaded_by(*arguments) & set(HEAVY)


def test_importing_the_package_loads_nothing_heavy():
    script = "import tollway, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert not {name.split(".")[0] for name in run.stdout.split()} & set(HEAVY)


def test_a_gateway_loads_none_of_the_libraries_of_models():
    """They take hundreds of megabytes, and belong into the processes that use them."""
    script = "from tollway.faces.http import app, console, server\nimport tollway.flows.gateway\n"
    assert not _loaded_after(script) & {
        "numpy",
        "torch",
        "onnx",
        "onnxruntime",
        "openvino",
        "pandas",
        "ray",
        "transformers",
        "gguf",
    }


def test_a_run_that_finds_everything_in_the_cache_loads_no_library_of_models():
    """The rooms it walks through are entered without what only their work needs; a second is what it takes."""
    script = (
        "from tollway.flows import build\n"
        "from tollway.forge import compress, convert, data, evaluate, explain, models, report\n"
        "evaluate.read, evaluate.enforce_figures, explain.read, report.write, models.check, data.Shelf\n"
    )
    assert not _loaded_after(script) & {
        "numpy",
        "torch",
        "sklearn",
        "pyarrow",
        "onnx",
        "onnxruntime",
        "transformers",
        "pandas",
        "PIL",
    }


def _loaded_after(script: str) -> set[str]:
    """The packages that a program has loaded at its end."""
    script += "import sys\nprint('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    return set(run.stdout.split("LOADED")[-1].split())
