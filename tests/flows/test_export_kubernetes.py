"""The folder holds the manifests as they are meant, and is not written over another."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.proof.house import tollway_program
from tollway.flows import export_kubernetes
from tollway.kit.errors import BadRequest, Conflict
from tollway.kubernetes import Wanted, manifests


def test_the_command_writes_what_it_says(tmp_path: Path) -> None:
    out, wanted = tmp_path / "cluster", Wanted(image="r.example/t:1", vllm={"big": "example/big"})
    words = ["export", "kubernetes", "--home", str(tmp_path / "home"), "--out", str(out), "--image", "r.example/t:1"]
    told = subprocess.run(
        [*tollway_program(), *words, "--vllm", "big=example/big", "--json"], capture_output=True, text=True, check=True
    )
    made = json.loads(told.stdout)
    assert sorted(path.name for path in out.iterdir()) == sorted(made["files"])
    read = [
        one for name in made["files"] if name.endswith(".yaml") for one in yaml.safe_load_all((out / name).read_text())
    ]
    assert read == [one for objects in manifests(wanted).values() for one in objects]
    assert len(read) == made["objects"]
    readme = (out / "README.md").read_text()
    assert "--upstream http://vllm-big:8000/v1" in readme
    for taken in (out, out / "README.md"):
        with pytest.raises(Conflict, match="not an empty folder"):
            export_kubernetes.export(wanted, taken)
    with pytest.raises(BadRequest, match="cannot be made"):
        export_kubernetes.export(wanted, Path("/proc/none"))
