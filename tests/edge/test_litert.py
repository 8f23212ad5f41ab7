"""A LiteRT model on a device that has numpy and LiteRT, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.proof.house import make_customer
from tests.serve.test_rows_formats import to_litert
from tollway.artifacts.store import About
from tollway.flows import export_edge
from tollway.kit.settings import Settings
from tollway.shop import Shop


def test_a_litert_model_answers_with_numpy_and_litert_alone(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    import ai_edge_litert
    import numpy

    (tmp_path / "m").mkdir()
    source = to_litert(tmp_path / "m")
    owner = make_customer(tmp_path / "home")
    with Shop.open(Settings(tmp_path / "home", environment={})) as shop:
        about = About(kind="classification", task="tabular-classification", input="row")
        shop.store.add_package("table", tmp_path / "m", about)
        made = export_edge.export(shop, "table", owner.org_id, tmp_path / "device")
    assert (made.format, made.needs) == ("litert", ("numpy", "ai-edge-litert"))
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for package in (numpy, ai_edge_litert):
        place = Path(str(package.__file__)).parent
        for name in (place.name, f"{place.name}.libs"):
            if (place.parent / name).exists():
                (libraries / name).symlink_to(place.parent / name)
    start = f"import runpy,sys; sys.path.append({str(libraries)!r}); sys.argv[0] = 'edge.py'; "
    start += f"runpy.run_path({str(tmp_path / 'device' / 'edge.py')!r}, run_name='__main__')"
    row = {"x": 0.3, "y": 0.9}
    command = [sys.executable, "-I", "-S", "-c", start, "classify", json.dumps(row)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer, expected = json.loads(done.stdout)["data"][0], source.predict([row])[0]
    assert answer["label"] == expected["label"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-5)
