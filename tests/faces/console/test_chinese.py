"""A walk over every console page in 简体中文, with real data: no English stands there beyond names, ids, code and units."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.applications import Starlette

from tests.faces.console import seed, seed_work
from tests.faces.console.stage import RECIPE, Client, opened, tell_a_story
from tests.faces.console.test_deployments import measured
from tests.faces.console.test_tuned import ROWS, TUNED
from tests.serve import tiny_versions
from tollway.artifacts import tuning
from tollway.faces.console import routes
from tollway.faces.console.pages import PAGES
from tollway.flows import release, versions
from tollway.forge import data, evaluate, steps
from tollway.forge import desk as desks
from tollway.kit.errors import Conflict
from tollway.kit.formats import SERVED
from tollway.kit.said import say
from tollway.sell import tables as sell

# What a Chinese reader reads as it is: names of products, formats, signals and measures, units, currencies.
ALLOWED = {
    "API", "AWS", "Apache", "BY", "CC", "CPU", "CSV", "EUR", "English", "Enter", "GB", "GGUF", "ID", "JSON",
    "JavaScript", "LoRA", "MB", "MIT", "ONNX", "OpenAI", "PDF", "POST", "Python", "Ray", "SIGFPE", "SQLite", "Shift", "Token",
    "Tollway", "URL", "US", "USD", "UTC", "Zen", "curl", "kB", "min", "ms", "rpm", "tollway", "tpm", "vCPU",
}  # fmt: skip
KEPT = {"code", "pre", "script", "style", "svg", "textarea", "option"}  # code, and names that are chosen from
SPOKEN = {
    "title",
    "aria-label",
    "placeholder",
    "alt",
    "data-done",
    "data-you",
    "data-failed",
    "data-stopped",
    "data-lost",
}
WORD = re.compile(r"[A-Za-z][A-Za-z']+")
NAME = re.compile(
    r"""\S+@\S+ | tollway(?:\ [a-zA-Z]+)+ | https?://\S+ | /v1/\S+ | --\S+ | …\w+ | [A-Za-z][\w.]*(?:[-_./:@]\w+)+ | \w+Error | p50 | p95""",
    re.X,
)  # addresses, commands, paths, names with a mark in them, kinds of errors


class Reader(HTMLParser):
    """What a page says: its text and its spoken attributes, without code."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.said += [value for name, value in attrs if name in SPOKEN and value]
        if tag not in ("input", "meta", "link", "br", "use", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, text: str) -> None:
        if text.strip() and not KEPT & set(self.open):
            self.said.append(text.strip())


def english_in(page: str, names: set[str]) -> list[str]:
    """Everything said on a page in which an English word stands that is no name and not allowed."""
    reader = Reader()
    reader.feed(page)
    left = []
    for said in reader.said:
        rest = NAME.sub(" ", said)
        for name in sorted(names, key=len, reverse=True):
            rest = rest.replace(name, " ")
        if [word for word in WORD.findall(rest) if word not in ALLOWED]:
            left.append(said)
    return left


# -- a shop with everything --------------------------------------------------------------------------------------------


def _factory(shop: Any) -> dict[str, str]:
    """A dataset, a run that is done with everything a run shows, one that goes on, one that failed."""
    home = Path(shop.settings.home)
    shelf = data.Shelf(home / "datasets", shop.clock)
    for size in (4, 6):
        rows = {"text": [f"text {n}" for n in range(size)], "label": ["good", "bad"] * (size // 2)}
        found = shelf.add("reviews", {"train": pa.table(rows)}, source="reviews.csv", licence="CC0-1.0")
    runs = steps.Runs(home, shop.clock)
    done, going, broken = (
        runs.begin(RECIPE, "reviews", "text-classification", steps.Cost(116_000, "USD")) for _ in range(3)
    )
    for at in range(1, 9):
        done.emit({"kind": "metric", "name": "train_loss", "at": at, "value": 3 / at})
    desk = desks.Desk(out=home, work=home, home=home, seed=1, threads=1, step="train", emit=done.emit)
    desk.note(say("train.goes_on", "Goes on at step {step} of {total}.", step=1200, total=4000))
    desk.warn("a library says something of its own")
    for name in ("prepare", "train", "compress", "convert", "evaluate", "explain", "report", "package"):
        done.record.steps.append({"name": name, "folder": name, "cached": name == "prepare", "seconds": 1.5})
    done.record.metrics |= {"accuracy": 0.91, "f1": 0.9, "loss": 0.3}
    done.finish("done")
    going.record.step = "train"
    going.save()
    going.emit({"kind": "progress", "step": "train", "done": 29, "total": 100})
    broken.finish("failed", Conflict("The loss is NaN."))
    missed = runs.begin(RECIPE, "reviews", "text-classification", steps.Cost(116_000, "USD"))
    beaten, none = {"name": "vs.majority", "value": -0.1, "usual": True}, {"name": "low.f1", "value": None, "usual": False}
    figures = {"gates": [
        one | {"rule": ">0", "passed": False, "why": "no better than majority, the simplest model there is"}
        for one in (beaten, none, beaten | {"name": "accuracy", "why": "", "usual": False})
    ]}  # fmt: skip
    with pytest.raises(Conflict) as caught:
        evaluate.enforce_figures(figures, "text-classification", "`tollway run report`")
    missed.finish("failed", caught.value)
    return {"missed": missed.record.id, "run": done.record.id, "going": going.record.id, "broken": broken.record.id, "dataset": found.ref}


class Whole:
    """A shop where every page has something to say."""

    def __init__(self, shop: seed.SeededShop, folder: Path) -> None:
        self.home = Path(shop.settings.home)
        shop.fleet, shop.queues = seed_work.fleet, dict  # type: ignore[attr-defined]
        self.ids = seed_work.fill(shop) | _factory(shop)
        for number in range(2):
            tiny_versions.shelve(shop.store, folder / str(number), "equal")
        release.deploy(shop, "mood", "1")
        versions.start(shop, "mood", "2", "canary", 25)
        measured(shop)
        tuning.write(shop.store.get("mood", "1"), {"tuned": TUNED, "tried": ROWS})
        app = Starlette(routes=routes(shop, tell_a_story))
        self.operator, self.buyer = (Client(app, base_url=shop.settings.url, follow_redirects=False) for _ in range(2))
        self.anyone = Client(app, base_url=shop.settings.url)
        with shop.db.read() as conn:
            self.names = {
                str(text) for table, column in ((sell.organization, "name"), (sell.plan, "title"), (sell.api_key, "name"),
                                                (sell.plan, "name"), (sell.stored_file, "name"))
                for (text,) in conn.execute(table.select().with_only_columns(table.c[column]))
            }  # fmt: skip
            self.ids["invoice"], self.ids["draft"] = (
                conn.execute(sell.invoice.select().where(sell.invoice.c.status == status).limit(1)).one().id
                for status in ("finalised", "draft")
            )
            self.ids["event"] = conn.execute(sell.usage_event.select().limit(1)).one().id
            buyer = conn.execute(sell.member.select().where(sell.member.c.email == seed.BUYER)).one()
            mine = sell.api_key.c.org_id == buyer.org_id, sell.api_key.c.revoked_ms.is_(None)
            self.ids["org"], self.ids["key"] = buyer.org_id, conn.execute(sell.api_key.select().where(*mine)).first().id
            own = sell.invoice.select().where(sell.invoice.c.org_id == buyer.org_id)
            self.ids["own"] = conn.execute(own).first().id
        self.ids["org_name"] = next(one for one in self.names if one.startswith("Northwind"))
        self.names |= {"mood", "reviews", "text", "label", "support", "SmolLM2 135M Instruct", *SERVED}
        self.names |= {"accuracy", "majority", "[evaluate]", "metrics", "auc", "require"}  # of figures, and keys of a recipe


@pytest.fixture(scope="module")
def whole(seeded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    for shop in opened(seeded_home, tmp_path_factory.mktemp("chinese") / "home"):
        one = Whole(shop, tmp_path_factory.mktemp("versions"))
        yield one


OPERATOR_PAGES = [
    "/overview", "/overview?range=7d", "/models", "/models/mood", "/models/smollm2-135m-instruct",
    "/deployments/promote/mood", "/deployments/back/mood", "/deployments/stop/mood", "/feedback", "/runs",
    "/runs/{run}", "/runs/{going}", "/runs/{broken}", "/runs/{missed}", "/datasets", "/datasets/{dataset}", "/organizations",
    "/organizations/{org}", "/organizations/{org}/suspend", "/plans", "/plans/new", "/plans/starter",
    "/plans/starter/revise", "/plans/starter/archive", "/usage", "/usage?by=org", "/usage?by=model", "/usage/events",
    "/usage/events/{event}", "/invoices", "/invoices/{invoice}", "/invoices/{draft}", "/invoices/{draft}/finalise",
    "/invoices/{invoice}/pay", "/invoices/{invoice}/void", "/economics", "/account", "/fleet", "/jobs", "/jobs/{running}",
    "/jobs/{failed}", "/jobs/{whole}",
]  # fmt: skip
BUYER_PAGES = [
    "/start", "/start/first", "/keys", "/keys/{key}/revoke", "/playground", "/playground/receipt?request=x", "/usage",
    "/usage/events", "/plan", "/invoices", "/invoices/{own}", "/account", "/files", "/files/{fine-tune}/delete",
    "/jobs", "/jobs/{done}", "/jobs/{running}", "/jobs/{batch}", "/jobs/{batch}/cancel", "/nowhere",
]  # fmt: skip
FILES = {
    "/console/static/{name:path}", "/console/invoices/{invoice_id}/pdf", "/console/files/{file_id}/content",
    "/console/runs/{run_id}/report", "/console/datasets/{ref}/report", "/console/usage/table.csv", "/console", "/console/",
}  # fmt: skip  # no pages: files, reports with their own words, and ways to another page


def _read(client: Client, path: str) -> str:
    answer = client.get(f"/console{path}", headers={"accept-language": "zh-CN"})
    assert "text/html" in answer.headers["content-type"], path
    assert answer.status_code == (404 if path == "/nowhere" else 200), (path, answer.status_code)
    return str(answer.text)


def test_every_page_speaks_chinese(whole: Whole) -> None:
    left: dict[str, list[str]] = {}
    walks = (
        (seed.OPERATOR, whole.operator, OPERATOR_PAGES),
        (seed.BUYER, whole.buyer, BUYER_PAGES),
        ("", whole.anyone, ["/login"]),
    )
    for email, client, paths in walks:
        if email:
            client.sign_in(email)
        for path in paths:
            found = english_in(_read(client, path.format(**whole.ids)), whole.names)
            if found:
                left[path] = found
    assert left == {}


def test_the_walk_leaves_no_page_out() -> None:
    walked = {f"/console{path.partition('?')[0]}" for path in [*OPERATOR_PAGES, *BUYER_PAGES, "/login"]}
    missing = []
    for page in PAGES:
        shape = re.compile("[^/]+".join(map(re.escape, re.split(r"\{.*?\}", page.path))) + "$")
        if "GET" in page.methods and page.path not in FILES and not any(shape.match(path) for path in walked):
            missing.append(page.path)
    assert missing == []


def test_what_is_refused_is_said_in_chinese(whole: Whole) -> None:
    """Forms that cannot be taken, with the answers that the rooms below give."""
    client, ids = whole.operator.sign_in(seed.OPERATOR), whole.ids
    client.headers["accept-language"] = "zh-CN"
    asked: list[tuple[str, dict[str, str]]] = [
        ("/organizations", {"name": ids["org_name"]}),
        ("/organizations", {"name": ""}),
        (f"/organizations/{ids['org']}/members", {"email": seed.BUYER, "role": "owner"}),
        (f"/organizations/{ids['org']}/members", {"email": "nobody", "role": "owner"}),
        (f"/organizations/{ids['org']}/money", {"kind": "top_up", "amount": "0"}),
        ("/plans/new", {"name": "starter", "currency": "USD", "overage": "wallet", "aborted": "bill", "models": "*",
                        "step": "publish"}),
        ("/invoices", {"period": "next month"}),
        (f"/invoices/{ids['draft']}/pay", {"confirmed": "yes"}),
        (f"/invoices/{ids['draft']}/finalise", {"confirmed": "yes"}),
        ("/deployments/start/mood", {"version": "9", "role": "canary", "share": "10", "min_calls": "50", "minutes": "0",
                                     "max_error": "2", "mirror": "0", "min_agreement": "0", "automatic": "yes",
                                     "confirmed": "yes"}),
        (f"/jobs/{ids['whole']}/cancel", {}),
    ]  # fmt: skip
    left: dict[str, list[str]] = {}
    for path, form in asked:
        answer = client.post_form(f"/console{path}", **form)
        assert answer.status_code in (400, 404, 409), (path, answer.status_code, answer.headers.get("location"))
        found = english_in(answer.text, whole.names | {"nobody"})
        if found:
            left[path] = found
    for path in ("/models/none", "/organizations/none", "/plans/none", "/jobs/none", "/invoices/none", "/usage/events/none",
                 "/runs/none", "/datasets/none", "/usage?from=2026-99-99"):  # fmt: skip
        found = english_in(client.get(f"/console{path}").text, whole.names | {"none"})
        if found:
            left[path] = found
    assert left == {}


def test_a_call_that_is_refused_in_the_playground_is_told_in_chinese(whole: Whole) -> None:
    client = whole.buyer.sign_in(seed.BUYER)
    asked = {"model": seed.CHAT, "messages": [{"role": "user", "content": "refuse this"}]}
    headers = {"x-csrf-token": client.token(), "accept-language": "zh-CN"}
    answer = client.post("/console/playground/chat", json=asked, headers=headers)
    assert answer.status_code == 402
    assert answer.json()["error"]["message"] == "钱包余额不足以支付这次调用。请充值，或调低最长回答。"


def test_a_report_is_shown_in_the_reader_s_language_if_there_is_one(whole: Whole) -> None:
    client, run = whole.operator.sign_in(seed.OPERATOR), whole.ids["run"]
    folder = whole.home / "runs" / run
    assert client.get(f"/console/runs/{run}/report").status_code == 404
    (folder / "report.html").write_text("<p>Report</p>")
    assert "Report" in client.get(f"/console/runs/{run}/report?lang=zh").text, "made by an older release"
    (folder / "report.zh.html").write_text("<p>报告</p>")
    assert "报告" in client.get(f"/console/runs/{run}/report?lang=zh").text
    assert "Report" in client.get(f"/console/runs/{run}/report?lang=en").text
    (folder / "report.html").unlink()
    assert "报告" in client.get(f"/console/runs/{run}/report?lang=en").text, "there is no other"


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("<p>任务失败：The loss is NaN.</p>", 1),
        ('<p>原因：<span lang="en">its process was lost</span></p>', 1),
        ('<a title="Open the report">报告</a>', 1),
        ('<button aria-label="Delete">删除</button>', 1),
        ("<p>使用 OpenAI 的 Token，见 /v1/chat/completions，ada@northwind.test，ft:mood:4f7a</p>", 0),
        ("<p>运行 <code>tollway run start loans</code></p><script>let words = 1</script>", 0),
    ],
)
def test_an_english_sentence_is_found_and_code_is_not(planted: str, found: int) -> None:
    assert len(english_in(f"<html><body>{planted}<p>中文</p></body></html>", set())) == found
