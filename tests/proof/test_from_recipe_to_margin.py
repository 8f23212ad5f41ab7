"""The whole road, for text, pictures and tables: real data -> recipe -> package -> deploy -> paid call -> margin.

Through the command line and HTTP only, as a seller and a buyer would; nothing is reached from inside.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.proof.house import GatewayProcess, start_gateway

pytestmark = pytest.mark.slow

RECIPE = """
[recipe]
name = "{name}"
task = "{task}"
[data]
dataset = "{dataset}"
rows_max = {rows}
split = {{validation = 0.1, test = 0.2}}
[model]
architecture = "{architecture}"
[train]
epochs = {epochs}
learning_rate = {rate}
threads = 1
[convert]
formats = ["onnx"]
[evaluate]
bootstrap = 100
noise = []
require = {{accuracy = ">={bar}", "vs.majority" = ">=-0.1"}}
"""
LINES: dict[str, dict[str, Any]] = {
    "film-mood": {"task": "text-classification", "dataset": "movies", "architecture": "bilstm", "rows": 1500, "epochs": 6,
                  "rate": 0.003, "bar": 0.6, "meter": "input_tokens", "price": "2000"},
    "digits": {"task": "image-classification", "dataset": "digits", "architecture": "mlp", "rows": 2000, "epochs": 8,
               "rate": 0.003, "bar": 0.9, "meter": "images", "price": "3000"},
    "credit": {"task": "tabular-classification", "dataset": "credit", "architecture": "linear", "rows": 2000, "epochs": 30,
               "rate": 0.005, "bar": 0.6, "meter": "rows", "price": "5000"},
}  # fmt: skip


def cli(home: Path, *words: str, code: int = 0) -> Any:
    command = [sys.executable, "-m", "tollway", *words, "--home", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == code, f"{words}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, dict[str, Any]]]:
    """Three models made, each deployed with its price in the same command, and the gateway that sells them."""
    home = tmp_path_factory.mktemp("home")
    gateway = start_gateway(home, starter=False)
    runs = {}
    for name, line in LINES.items():
        cli(home, "dataset", "sample", line["dataset"])
        recipe = home / f"{name}.toml"
        recipe.write_text(RECIPE.format(name=name, **line))
        runs[name] = cli(home, "run", "start", str(recipe))
        price = f"{line['meter']}={line['price']}"
        offered = cli(home, "deploy", name, "--plan", "made-here", "--price", price, "--move-subscribers")
        runs[name]["curl"] = offered["curl"]
    cli(home, "org", "create", "buyer")
    cli(home, "subscription", "start", "buyer", "made-here")
    cli(home, "wallet", "top-up", "buyer", "5")
    yield gateway, runs
    gateway.stop()


def examples(home: Path, line: dict[str, Any]) -> list[Any]:
    """Rows of the dataset as a caller would send them."""
    import pyarrow.parquet as pq

    shown = cli(home, "dataset", "show", line["dataset"])
    rows = pq.read_table(Path(shown["folder"]) / "train.parquet").slice(0, 20).to_pylist()
    if line["task"].startswith("text"):
        return [row["text"] for row in rows]
    if line["task"].startswith("image"):
        return [{"image": "data:image/png;base64," + base64.b64encode(row["image"]).decode()} for row in rows]
    return [{name: value for name, value in row.items() if name != "label"} for row in rows]


@pytest.mark.parametrize("name", LINES)
def test_from_recipe_to_margin(made: tuple[GatewayProcess, dict[str, Any]], name: str) -> None:
    gateway, runs = made
    line, run, home = LINES[name], runs[name], gateway.home
    # the recipe's run: gates passed, a signed package, a report, what it cost
    assert run["package"] == f"{name}@1"
    assert run["metrics"]["accuracy"] >= line["bar"]
    assert run["cost_micros"] > 0
    assert Path(run["report"]).stat().st_size > 10_000
    assert all(one["ok"] for one in cli(home, "model", "verify", name))
    # a paid call
    key = cli(home, "key", "create", "buyer", "--name", name)["key"]
    before = cli(home, "wallet", "show", "buyer")
    with httpx.Client(
        base_url=gateway.url, headers={"authorization": f"Bearer {key}"}, timeout=300, trust_env=False
    ) as http:
        reply = answer_of(http, name, examples(home, line))
    paid = balance(before) - balance(cli(home, "wallet", "show", "buyer"))
    # the call that was printed is pasted as it is
    pasted = ["bash", "-c", run["curl"].replace("curl ", "curl -s --noproxy '*' ", 1)]
    environment = os.environ | {"TOLLWAY_KEY": key}
    said = subprocess.run(pasted, env=environment, capture_output=True, text=True, timeout=300, check=True).stdout
    assert len(json.loads(said)["data"]) == 1, said
    spent = balance(before) - balance(cli(home, "wallet", "show", "buyer"))
    answer = reply.json()
    assert reply.status_code == 200, answer
    assert len(answer["data"]) == 20
    assert all(0 <= one["score"] <= 1 for one in answer["data"])
    used = answer["usage"]["prompt_tokens"] if line["meter"] == "input_tokens" else 20
    assert paid == used * int(line["price"])
    # the margin: earned, less what the engine's time cost and what the making costs this hour
    found = economics_of(home, name)
    assert found["revenue_micros"] == spent > paid
    assert found["busy_us"] > 0
    assert found["margin_micros"] == found["revenue_micros"] - found["cost_micros"] - found["training_micros"]
    # and back from the answer to the rows
    version = reply.headers["x-tollway-model-version"]
    walked = cli(home, "model", "lineage", f"{name}@{version}")["steps"][0]
    dataset = cli(home, "dataset", "show", line["dataset"])
    assert walked["run"] == run["id"]
    assert walked["datasets"] == {f"{line['dataset']}@1": dataset["digest"]}


def answer_of(http: httpx.Client, model: str, rows: list[Any]) -> httpx.Response:
    """The answer, once the new key and the new replica are known to the gateway."""
    for _ in range(600):
        reply = http.post("/v1/classify", json={"model": model, "input": rows, "top_k": 1})
        if reply.status_code not in (401, 404, 503):
            break
        time.sleep(0.1)
    return reply


def economics_of(home: Path, model: str) -> Any:
    """The model's line of the P&L; engine time is written down about a second after a call."""
    for _ in range(200):
        rows = {one["model"]: one for one in cli(home, "economics", "report")["rows"]}
        if rows.get(model, {}).get("busy_us"):
            break
        time.sleep(0.3)
    return rows[model]


def balance(shown: Any) -> int:
    return int(shown["balance_micros"])


def test_a_second_run_takes_everything_from_the_cache(made: tuple[GatewayProcess, dict[str, Any]]) -> None:
    gateway, runs = made
    again = cli(gateway.home, "run", "start", str(gateway.home / "digits.toml"))
    assert all(step["cached"] for step in again["steps"])
    assert (again["package"], again["cost_micros"]) == (runs["digits"]["package"], 0)


def test_a_model_that_misses_its_gates_never_reaches_the_shelf(made: tuple[GatewayProcess, dict[str, Any]]) -> None:
    gateway, _ = made
    recipe = gateway.home / "strict.toml"
    text = (gateway.home / "digits.toml").read_text().replace('name = "digits"', 'name = "strict"')
    recipe.write_text(text.replace('accuracy = ">=0.9"', 'accuracy = ">=0.9999", ece = "<=0.00001"'))
    told = cli(gateway.home, "run", "start", str(recipe), code=7)["error"]["message"]
    assert "accuracy" in told and "ece" in told
    assert "strict" not in {one["name"] for one in cli(gateway.home, "model", "list", "--all")}
    assert cli(gateway.home, "run", "show", "strict")["state"] == "failed"
