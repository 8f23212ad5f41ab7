"""Without the factory's libraries: commands that need them say what brings them; the rest of the shop does not care."""

import subprocess
import sys

HIDE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pyarrow", "sklearn", "transformers", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from tollway.faces.cli.root import main
main(sys.argv[1:])
"""


def run(*words):
    return subprocess.run([sys.executable, "-c", HIDE, *words], capture_output=True, text=True, timeout=300)


def test_a_command_of_the_factory_names_what_is_missing(tmp_path):
    home = str(tmp_path / "home")
    assert run("status", "--home", home).returncode == 6  # no shop yet: the floor works without the factory
    (tmp_path / "home").mkdir()
    done = run("dataset", "sample", "breast-cancer", "--home", home)
    assert done.returncode in (6, 9)
    assert "Traceback" not in done.stderr
    data = tmp_path / "rows.csv"
    data.write_text("text,label\na,b\nc,d\n")
    done = run("dataset", "import", str(data), "--name", "rows", "--home", home)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "make setup-factory" in done.stderr


def test_models_and_plans_need_no_factory(tmp_path):
    (tmp_path / "home").mkdir()
    for words in (("model", "list"), ("plan", "list"), ("run", "list"), ("recipe", "list"), ("dataset", "list")):
        done = run(*words, "--home", str(tmp_path / "home"))
        assert done.returncode == 0, done.stderr


def test_what_a_tuning_can_try_is_asked_without_the_factory():
    """`make run` brings llama.cpp alone, which has formats enough to choose from."""
    ask = "from tollway.forge.convert import gguf_variants, openvino_lm; print(openvino_lm.missing, gguf_variants.write)"
    done = subprocess.run(
        [sys.executable, "-c", HIDE.partition("from tollway")[0] + ask], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
