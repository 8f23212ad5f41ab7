"""Nothing here is ever unpickled: a pickle runs any program of whoever wrote it.

Looks at the syntax trees of all our code for the calls that unpickle, plainly or on the way, and at the libraries' own
doors that do so unless told not to.
"""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "tollway"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"torch.load", "torch.save", "torch.jit.load", "pd.read_pickle", "pandas.read_pickle", "np.loads"}


def sins(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in MODULES else []
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in CALLS and keywords.get("weights_only") != "True":
                found.append(called)
            if keywords.get("allow_pickle", "False") != "False" or keywords.get("trust_remote_code", "False") != "False":
                found.append(f"{called} with {keywords}")
            if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"):
                found.append(called)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_unpickles(path: Path):
    assert sins(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "torch.jit.load(path)",
        "yaml.load(text)",
    ],
)
def test_the_look_out_sees(line: str):
    assert sins(ast.parse(line))


def test_the_look_out_lets_safe_calls_pass():
    assert not sins(ast.parse("torch.load(path, weights_only=True)\nnp.load(path, allow_pickle=False)\nyaml.safe_load(text)"))
