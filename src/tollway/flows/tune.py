"""Tuning: which way of serving a package is the cheapest on this machine, measured and kept. Read `tune` downwards.

    made = tune(shop, "smollm2-135m-instruct", tell=print)     made.rows, made.choice
    undo(shop, "smollm2-135m-instruct")                        as its manifest says again
    measured(shop, "smollm2-135m-instruct")                    the stored table, for the console

Every candidate (engine, format, rounding, threads) is started as it would be served. What it answers is held against the
float model; what answers too differently, or begins too late, is out; of the rest the cheapest per token (or call) stays.
A running gateway brings the choice beside what it serves and moves over without losing a call.
"""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from tollway.artifacts import tuning
from tollway.artifacts.store import ModelPackage
from tollway.artifacts.tuning import Choice
from tollway.flows import tune_candidates, versions
from tollway.flows.tune_candidates import Candidate
from tollway.insight import economics
from tollway.kit import log
from tollway.kit.errors import Conflict, TollwayError
from tollway.kit.said import coded
from tollway.sell import revision
from tollway.serve import deployments, models, trial
from tollway.shop import Shop

_log = log.get("flows.tune")
AGREEMENT: Final = {"chat": 0.4}  # of a text, letter for letter: eight bits reach 0.46 to 0.7, four bits 0.1
AGREEMENT_OF_ROWS: Final = 0.98
_DOORS: Final = {"embedding": "/embeddings", "object-detection": "/detect"}
CALLERS: Final = 8
_HOUR_S: Final = 3600
_ENOUGH: Final = 0.5  # of the texts must be there for their agreement to say anything
_MORE: Final = 3  # of the best are tried with other threads
_FAILED: Final = "failed"
_WORTH: Final = 1.03  # a change must bring this; less is noise
Tell = Callable[[str, int, int], None]
"""What is being done, and how many of how many candidates are through."""


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was measured of one candidate. Cost is in micros per million tokens, or per thousand calls."""

    engine: str
    format: str
    threads: int
    options: dict[str, str | int] = {}
    agreement: float = 0.0
    per_second_1: float = 0.0
    per_second: float = 0.0
    first_ms: float = 0.0
    memory_bytes: int = 0
    cost_micros: int = 0
    verdict: str = ""  # chosen | as it was | passes | why it is out
    own: bool = False  # the package as its manifest says
    lost: tuple[str, ...] = ()  # parameters of calls that the package's own engine takes, and this one refuses
    why: str = ""  # it failed
    said: dict[str, Any] = {}  # why, as code and figures


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: all rows, the chosen one first, and what it is served with from now on."""

    name: str
    version: str
    unit: str  # tokens | calls
    currency: str
    agreement: float
    first_token_ms: float
    rows: list[Row]
    choice: Choice | None  # kept; None: the package as its manifest says
    gain: float  # of the chosen over the package's own, in tokens (or calls) a second
    left_out: str = ""  # what could not be tried here, and why


def tune(
    shop: Shop,
    name: str,
    version: str | None = None,
    *,
    agreement: float | None = None,
    first_token_ms: float = 0.0,
    keep: bool = True,
    quick: bool = False,
    lose_nothing: bool = False,
    tell: Tell = lambda what, done, total: None,
) -> Tuned:
    """Measure and, with `keep`, serve with the cheapest from now on; with `lose_nothing` with the cheapest that takes all
    parameters which the package's own engine takes. Raises Conflict where there is nothing to choose."""
    package = _package(shop, name, version)
    language = package.manifest.kind == "chat"
    bar = agreement if agreement is not None else AGREEMENT.get(package.manifest.kind, AGREEMENT_OF_ROWS)
    price = economics.machine_price(shop.settings)
    scratch = tuning.tuned_folder(package).with_name(f".{package.manifest.version}.trial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        bench = _Bench(package, bar, first_token_ms, price.micros_per_hour, 1.0 if quick else 3.0, tell)
        found, left_out = tune_candidates.of(
            shop.settings, package, scratch, quick=quick, lose_nothing=lose_nothing, tell=lambda what: tell(what, 0, 1)
        )
        rows = asyncio.run(bench.languages(found) if language else bench.rows(found))
        rows, best = _judged(rows)
        if keep:
            _keep(shop, package, found, best, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    own = next((row for row in rows if row.own), None)
    chosen = rows[0] if rows and rows[0].verdict in ("chosen", "as it was") else own
    gain = chosen.per_second / own.per_second if chosen and own and own.per_second else 1.0
    kept = tuning.choice(package) if keep else None
    made = Tuned(
        name=package.manifest.name, version=package.manifest.version, unit="tokens" if language else "calls",
        currency=price.currency, agreement=bar, first_token_ms=first_token_ms, rows=rows,
        choice=kept, gain=round(gain, 3), left_out=left_out,
    )  # fmt: skip
    if keep:
        _note(shop, package, made)
    return made


def undo(shop: Shop, name: str, version: str | None = None) -> bool:
    """Serve the package as its manifest says again; whether it was served otherwise."""
    package = shop.store.get(*_place(shop, name, version))
    return tuning.forget(package) | _serve_as_measured(shop, package)


def measured(shop: Shop, name: str, version: str | None = None) -> dict[str, Any]:
    """The table stored with a version: {"tuned": {...}, "tried": [rows], "choice": {...}}; {} when it was never tuned."""
    table = tuning.read(shop.store.get(*_place(shop, name, version)))
    return {part: table[part] for part in ("tuned", "tried", "choice") if part in table}


class _Bench:
    """Runs candidates one after the other and writes down what they do."""

    def __init__(
        self, package: ModelPackage, bar: float, first_ms: float, micros_per_hour: int, seconds: float, tell: Tell
    ) -> None:
        self._package, self._seconds, self._tell = package, seconds, tell
        self._bar, self._first_ms, self._price = bar, first_ms, micros_per_hour

    async def languages(self, found: list[Candidate]) -> list[Row]:
        """The float reference writes first; what writes otherwise is not timed. Of the formats that pass, the best are
        tried with other threads."""
        rows: list[Row] = []
        reference: list[str] = []
        first = [one for one in found if one.first]
        later = [one for one in found if not one.first]
        total = len(found)
        for number, one in enumerate(first):
            self._tell(str(one), number, total)
            if one.reference:
                async with trial.running(one.engine) as place:
                    reference = await trial.writes(place)
                if not any(reference):
                    raise Conflict("The float model wrote nothing in time.", hint="Try again on a quiet machine.")
                continue
            rows.append(await self._language(one, reference))
        passed = sorted((row for row in rows if not row.verdict), key=lambda row: -row.per_second)
        worth = [
            *passed[:_MORE],
            *(row for row in rows if row.verdict == _FAILED),
        ]  # one thread alone ends some of them
        same = {(row.engine, row.format, *row.options.values()) for row in worth}
        for number, one in enumerate(later):
            if (one.choice.engine, one.choice.format, *one.choice.options.values()) in same:
                self._tell(str(one), len(first) + number, total)
                rows.append(await self._language(one, reference))
        return rows

    async def _language(self, one: Candidate, reference: list[str]) -> Row:
        row = _blank(one)
        try:
            async with trial.running(one.engine) as place:
                texts = await trial.writes(place)
                alike = trial.agreement(texts, reference)
                row = msgspec.structs.replace(row, agreement=round(alike, 3))
                if sum(map(bool, texts)) < _ENOUGH * len(texts):
                    return msgspec.structs.replace(row, verdict="too slow to tell")
                if alike < self._bar:
                    return msgspec.structs.replace(row, verdict="answers too differently")
                alone = await trial.language(place, 1)
                together = await trial.language(place, CALLERS)
        except TollwayError as error:
            return _failed(row, one, error)
        per_million = round(self._price * 1_000_000 / (_HOUR_S * max(together.per_second, 1e-6)))
        return self._timed(row, alone, together, per_million)

    async def rows(self, found: list[Candidate]) -> list[Row]:
        """The float format answers first; the others are held against it."""
        from tollway import inference  # lazy: reads with numpy and tokenizers

        examples = tune_candidates.examples(inference.load_features(self._package.folder))
        path = _DOORS.get(self._package.manifest.kind, "/classify")
        rows: list[Row] = []
        reference: list[dict[str, Any]] = []
        for number, one in enumerate(found):
            self._tell(str(one), number, len(found))
            row = _blank(one)
            try:
                async with trial.running(one.engine) as place:
                    answers = await trial.answers(place, path, examples)
                    reference = reference or answers
                    alike = trial.same_answers(answers, reference)
                    row = msgspec.structs.replace(row, agreement=round(alike, 3))
                    if alike < self._bar:
                        rows.append(msgspec.structs.replace(row, verdict="answers too differently"))
                        continue
                    alone = await trial.rows(place, path, examples, 1, seconds=self._seconds / 2)
                    together = await trial.rows(place, path, examples, CALLERS, seconds=self._seconds)
            except TollwayError as error:
                rows.append(_failed(row, one, error))
                continue
            per_thousand = round(self._price * 1_000 / (_HOUR_S * max(together.per_second, 1e-6)))
            rows.append(self._timed(row, alone, together, per_thousand))
        return rows

    def _timed(self, row: Row, alone: trial.Speed, together: trial.Speed, cost_micros: int) -> Row:
        late = bool(self._first_ms) and together.first_ms > self._first_ms
        return msgspec.structs.replace(
            row,
            per_second_1=round(alone.per_second, 1),
            per_second=round(together.per_second, 1),
            first_ms=round(together.first_ms, 1),
            memory_bytes=together.memory_bytes,
            cost_micros=cost_micros,
            verdict="begins too late" if late else "",
        )


def _blank(one: Candidate) -> Row:
    return Row(
        engine=one.choice.engine, format=one.choice.format, threads=one.choice.threads, options=one.choice.options,
        own=one.own, lost=one.lost,
    )  # fmt: skip


def _failed(row: Row, one: Candidate, error: TollwayError) -> Row:
    _log.warning("a candidate failed", candidate=str(one), why=error.message)
    return msgspec.structs.replace(row, verdict=_FAILED, why=error.message, said=coded(error.said) or {})


def _judged(rows: list[Row]) -> tuple[list[Row], Row | None]:
    """The chosen row first, then by cost, then what is out. Staying as it is wins where a change brings little."""
    passing = sorted((row for row in rows if not row.verdict), key=lambda row: -row.per_second)
    best = passing[0] if passing else None
    own = next((row for row in passing if row.own), None)
    if best is not None and own is not None and best.per_second < _WORTH * own.per_second:
        best = own
    shown = []
    for row in passing:
        word = "passes" if row is not best else "as it was" if row.own else "chosen"
        shown.append(msgspec.structs.replace(row, verdict=word))
    shown.sort(key=lambda row: row.verdict == "passes")
    return shown + [row for row in rows if row.verdict], best


def _keep(shop: Shop, package: ModelPackage, found: list[Candidate], best: Row | None, scratch: Path) -> None:
    """Move the winner's weights into place and note it; the gateway looks at its next refresh."""
    if best is None:
        return
    won = next(one for one in found if not one.reference and _key(_blank(one)) == _key(best))
    if won.own:
        tuning.forget(package)
        return
    if won.choice.folder:
        place = tuning.tuned_folder(package)
        place.mkdir(exist_ok=True)
        shutil.rmtree(place / won.choice.folder, ignore_errors=True)
        (scratch / won.choice.folder).rename(place / won.choice.folder)
    tuning.keep(shop.store, package, won.choice)


def _key(row: Row) -> tuple[Any, ...]:
    return row.engine, row.format, row.threads, row.options


def _note(shop: Shop, package: ModelPackage, made: Tuned) -> None:
    told = {
        "at_ms": shop.clock.now_ms(), "unit": made.unit, "currency": made.currency, "agreement": made.agreement,
        "first_token_ms": made.first_token_ms, "gain": made.gain, "callers": CALLERS,
    }  # fmt: skip
    tuning.write(package, {"tuned": told, "tried": [_flat(row) for row in made.rows]})
    _serve_as_measured(shop, package)


def _serve_as_measured(shop: Shop, package: ModelPackage) -> bool:
    """Running gateways look again. Where an engine was chosen by name for what answers, that is a step of the model's history,
    as choosing it was. Whether there was one."""
    name, version = package.manifest.name, package.manifest.version
    with shop.db.write() as conn:
        deployments.alone(conn, name)
        stable = deployments.running(conn, name).get("stable")
        had = stable is not None and stable.version == version and bool(stable.chosen_engine)
        if had:
            model = models.get_model(conn, name)
            versions.move_in(conn, shop.clock.now_ms(), model, version, model.engine, "")
        revision.touch(conn)
    return had


def _flat(row: Row) -> dict[str, Any]:
    """A row as the stored table has it: options as one text, and what was said, for TOML has no tables in a row."""
    plain: dict[str, Any] = {name: getattr(row, name) for name in Row.__struct_fields__}
    options = " ".join(f"{name}={value}" for name, value in row.options.items())
    return plain | {"options": options, "said": msgspec.json.encode(row.said).decode()}


def _package(shop: Shop, name: str, version: str | None) -> ModelPackage:
    package = shop.store.get(*_place(shop, name, version))
    shop.store.verify(package).require()
    return package


def _place(shop: Shop, name: str, version: str | None) -> tuple[str, str | None]:
    """The package behind a model's name: the version on offer unless one is named."""
    with shop.db.read() as conn:
        offered = next((one for one in models.list_models(conn) if one.name == name), None)
    if offered is None:
        return name, version
    if offered.engine == "upstream":
        raise Conflict(f"{name} is answered by another server.", hint="Tune it where it runs.")
    return offered.package_name, version or offered.version
