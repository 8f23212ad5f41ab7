"""Online adaptation: what buyers corrected -> dataset version -> the model's own recipe again -> gates -> canary.

    made = adapt(shop, "reviews", share=10)     # the next version answers 10 % of the calls; share=0: it stays on the shelf

The recipe is the one the package on offer was made by, on the dataset with the corrections added to its training rows,
personal data covered, and with one gate more: not worse than the version that answers now. What passes the gates goes out
as a canary: whether it is better in the field is for its callers to say. Their ratings of its answers are held against
those of the version before, beside errors and times, and decide with them (see flows/rollout_verdict.py).
"""

import base64
import binascii
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tollway.flows import versions, workshop
from tollway.flows.rollout_verdict import RolloutPolicy
from tollway.forge import recipe
from tollway.forge.data import tasks
from tollway.forge.desk import Sink
from tollway.forge.steps import Run
from tollway.kit.errors import BadRequest, Conflict, NotFound
from tollway.kit.said import Said, say
from tollway.sell import feedback
from tollway.sell.feedback import Feedback
from tollway.serve import models
from tollway.serve.deployments import Record
from tollway.shop import Shop

GATE: Final = "vs.parent"
_LEAST: Final = 10


class Adapted(msgspec.Struct, frozen=True):
    """What an adaptation made: the dataset version, how many corrections it took and left out, the run."""

    dataset: str
    taken: int
    left_out: tuple[str, ...]
    run: Run
    canary: Record | None = None  # the next version in service; None: on the shelf


def adapt(
    shop: Shop,
    name: str,
    *,
    least: int = _LEAST,
    share: int = 0,
    policy: RolloutPolicy | None = None,
    sink: Sink | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
) -> Adapted:
    """Train the next version of a model from the corrections of its answers, and let it answer `share` percent of the
    calls. Raises Conflict when there are too few of them, or when the new one is not good enough; then nothing is on the
    shelf."""
    from tollway.flows import build

    with shop.db.read() as conn:
        offered = models.get_model(conn, name)
        said = feedback.list_of(conn, model=name, corrected=True)
    old = _recipe_of(shop, offered)
    dataset, taken, left_out = collect(shop, old, said, least)
    current = f"{offered.package_name}@{offered.version}"
    gates = {GATE: ">=0.0"} | dict(old.evaluate.require)
    new = old.model_copy(
        update={
            "data": old.data.model_copy(update={"dataset": dataset, "mask": True}),
            "package": old.package.model_copy(update={"parent": current}),
            "evaluate": old.evaluate.model_copy(update={"require": gates}),
        }
    )
    text = written(new.model_dump(mode="json", exclude_unset=False, exclude_none=True))
    run = build.run_recipe(shop, recipe.parse(text), text, sink=sink, stop_asked=stop_asked)
    canary = None
    made_name, _, made_version = (run.record.package or "").partition("@")
    if share and made_version and made_name == name:
        canary = versions.start(shop, name, made_version, "canary", share, policy)
    return Adapted(dataset, taken, left_out, run, canary)


def collect(
    shop: Shop, old: recipe.Recipe, said: Sequence[Feedback], least: int = _LEAST
) -> tuple[str, int, tuple[str, ...]]:
    """Put the corrections into a new version of the recipe's dataset: (its reference, how many, what was left out)."""
    shelf = workshop.datasets(shop.settings.home, shop.clock)
    base, _, _ = old.data.dataset.partition("@")
    version = shelf.get(base)
    task = old.recipe.task
    roles = tasks.match(task, version.columns, old.data.columns, version.about.get("roles", {}), version.ref)
    tables = version.tables()
    known = _labels(tables["train"], roles.get("label", ""))
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for one in {one.event_id: one for one in said}.values():  # the last word on an answer counts
        try:
            rows.append(_row(task, roles, one, known))
        except BadRequest as error:
            left_out.append(f"{one.id}: {error.message}")
    if len(rows) < least:
        raise Conflict(
            say(
                "adaptation.too_few",
                "There are {count} corrections that can be learned; at least {least} are needed.",
                count=len(rows),
                least=least,
            ),
            code="too_little_feedback",
            hint=_how(left_out),
        )
    pa: Any = importlib.import_module("pyarrow")
    more = pa.Table.from_pylist(rows, schema=tables["train"].schema)
    tables["train"] = pa.concat_tables([tables["train"], more])
    made = shelf.add(
        base,
        tables,
        kinds={column.name: column.kind for column in version.columns},
        licence=version.licence,
        source=f"{version.source}; corrections by buyers",
        parent=version.ref,
        operation=f"feedback: {len(rows)} corrected answers",
    )
    return made.ref, len(rows), tuple(left_out)


def written(recipe_: Mapping[str, Any]) -> str:
    """A recipe as TOML."""
    lines = []
    for part, fields in recipe_.items():
        if isinstance(fields, Mapping):
            lines += [f"[{part}]", *(f"{_key(key)} = {_value(value)}" for key, value in fields.items()), ""]
    return "\n".join(lines)


def _recipe_of(shop: Shop, offered: models.Model) -> recipe.Recipe:
    """The recipe that made what is on offer."""
    made = shop.store.get(offered.package_name, offered.version).manifest.lineage
    path = workshop.runs(shop.settings.home, shop.clock).root / made.run / "recipe.toml" if made.run else None
    if path is None or not path.is_file():
        raise NotFound(
            say("adaptation.not_made_here", "{name} was not made by a run of this home.", name=offered.name),
            hint=say("adaptation.factory_only", "Only models of the factory can be adapted here."),
        )
    return recipe.parse(path.read_text(encoding="utf-8"), str(path))


def _row(task: str, roles: Mapping[str, str], one: Feedback, known: set[str]) -> dict[str, Any]:
    """A correction as a row of the dataset. Raises BadRequest saying why it cannot be one."""
    given: Any = one.input
    if task in ("text-classification", "text-regression"):
        text = given.get("text") if isinstance(given, dict) else given
        if not isinstance(text, str) or not text.strip():
            raise BadRequest("its input is no text")
        return {roles["text"]: text} | _answer(task, roles, one.correction, known)
    if task in ("tabular-classification", "tabular-regression"):
        if not isinstance(given, dict):
            raise BadRequest("its input is no row")
        return given | _answer(task, roles, one.correction, known)
    if task == "image-classification":
        return {roles["image"]: _picture(given)} | _answer(task, roles, one.correction, known)
    if task == "chat":
        asked = given if isinstance(given, list) else [{"role": "user", "content": given}]
        turns = [{"role": str(turn.get("role")), "content": str(turn.get("content"))} for turn in asked]
        return {roles["messages"]: [*turns, {"role": "assistant", "content": str(one.correction)}]}
    raise BadRequest(f"corrections of {task} cannot be learned yet")


def _how(left_out: list[str]) -> Said:
    """Where corrections come from, and which were of no use."""
    how = say("adaptation.send", "Buyers send them with POST /v1/feedback: the answer's id, input and correction.")
    if not left_out:
        return how
    return say("adaptation.send_left_out", "{how} Left out: {left_out}.", how=how, left_out=left_out[:5])


def _answer(task: str, roles: Mapping[str, str], correction: Any, known: set[str]) -> dict[str, Any]:
    if task.endswith("regression"):
        try:
            return {roles["target"]: float(correction)}
        except (TypeError, ValueError):
            raise BadRequest("its correction is no number") from None
    if str(correction) not in known:
        raise BadRequest(f"its correction is none of {', '.join(sorted(known)[:20])}")
    return {roles["label"]: str(correction)}


def _picture(given: Any) -> bytes:
    text = given.get("image") if isinstance(given, dict) else given
    head, comma, body = str(text).partition(",")
    try:
        if comma and head.startswith("data:image/") and head.endswith(";base64"):
            return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise BadRequest("its input is no picture")


def _labels(table: Any, column: str) -> set[str]:
    return {str(one) for one in table.column(column).unique().to_pylist() if one is not None} if column else set()


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
