"""The step: the chain of `[compress] steps`, each measured before and after on held-out rows.

What comes out is a model folder like the one that went in, smaller, and `compression.json` with the table. Steps that are
about 8 bits also say so there, and conversion carries it out in the engine's own arithmetic.
"""

import copy
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from tollway.forge import models
from tollway.forge.compress import plan, prune, rounding, structured, students
from tollway.forge.compress.learning import Ground, Taught
from tollway.forge.compress.plan import Step
from tollway.forge.models import encoded, measure
from tollway.forge.models.measure import Quality, Sample
from tollway.kit.errors import BadRequest, Conflict
from tollway.kit.said import say

_WEIGHTS: Final = "model.safetensors"
_ROWS: Final = 1000
_DISTIL_EPOCHS: Final = 3.0


@dataclass
class Chain:
    """The model on its way."""

    part: Any
    prepared: Any
    desk: Any
    folder: Path
    net: Any
    first: Any  # as it came: the yardstick of speed, and the teacher
    sample: Sample
    forms: dict[str, str] = field(default_factory=dict)  # parameter -> how it is stored
    quantise: str = ""
    kept: prune.Masks = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    _ground: Ground | None = None

    @property
    def ground(self) -> Ground:
        if self._ground is None:
            self._ground = Ground(self.net, self.prepared, self.part.options, self.desk)
        return self._ground


def shrink(part: Any, folder: Path, prepared: Any, desk: Any) -> dict[str, Any]:
    """Carry out the steps; `desk.out` becomes the smaller model's folder. Returns the table as figures."""
    steps = plan.check(part, prepared.task)
    torch.set_num_threads(max(1, desk.threads))
    torch.manual_seed(desk.seed)
    net = models.load(folder, home=desk.home)
    rows = measure.rows_of(prepared, "validation", int(part.options.get("rows", _ROWS)), desk.seed)
    chain = Chain(part, prepared, desk, folder, net, copy.deepcopy(net), Sample.of(net.features, rows))
    before = _look(chain, net)
    chain.rows.append({"step": "source", "what": "as trained", **before, "speedup": 1.0, "seconds": 0.0})
    for number, step in enumerate(steps, 1):
        desk.progress(number - 1, len(steps), unit="compressions")
        began = time.monotonic()
        what = _STEPS[step.kind](chain, step, f"{number}-{step.kind}")
        _write_down(chain, step, what, time.monotonic() - began)
    desk.progress(len(steps), len(steps), unit="compressions")
    _save(chain, Path(desk.out))
    return _figures(chain)


# -- one function for each step; each says in words what it did


def _prune(chain: Chain, step: Step, name: str) -> str:
    kept = prune.masks(chain.net, step.amount, each_layer=step.detail == "layer")
    if not kept:
        raise Conflict(f"{step.text}: the model has no weights that can be pruned.", code="nothing_to_compress")
    prune.apply(chain.net, kept)
    chain.kept = kept
    if chain.part.recovery_epochs:
        with prune.held(chain.net, kept):
            chain.ground.train(chain.net, chain.part.recovery_epochs, name)
    return f"{prune.zeros(chain.net):.1%} of the weights are zero"


def _structured(chain: Chain, step: Step, name: str) -> str:
    kinds = (step.detail,) if step.detail else plan.GROUPS
    for parameter in chain.net.parameters():
        parameter.requires_grad_(True)
    gone = structured.prune(chain.net, step.amount, kinds, chain.ground.losses(chain.net))
    if not gone:
        raise Conflict(
            f"{step.text}: the model has no {' or '.join(kinds)} that can be removed.", code="nothing_to_compress",
            hint="Transformers have heads and neurons, networks for pictures channels and neurons.",
        )  # fmt: skip
    chain.kept = {}
    if chain.part.recovery_epochs:
        chain.ground.train(chain.net, chain.part.recovery_epochs, name)
    return "removed " + ", ".join(f"{count} {kind}" for kind, count in gone.items())


def _distil(chain: Chain, step: Step, name: str) -> str:
    options = chain.part.options
    teacher = _teacher(chain)
    if step.detail:
        student = students.other_architecture(chain.net, step.detail, dict(options.get("student", {})), chain.desk.seed)
    else:
        student = students.fewer_layers(chain.net, int(step.amount))
    answers = chain.ground.teach(teacher)
    if answers is None:
        raise Conflict(
            f"{step.text}: a model that answers token by token cannot be distilled here.", code="nothing_to_compress"
        )
    pairs = [] if step.detail else students.pairs(student, teacher)
    objective = Taught(
        chain.ground.objective,
        teacher,
        pairs,
        float(options.get("temperature", 2.0)),
        float(options.get("hidden", 0.1)),
    )
    chain.ground.train(
        student, float(options.get("epochs", _DISTIL_EPOCHS)), name, objective=objective, extra={"teacher": answers},
        pretrained=not step.detail,
    )  # fmt: skip
    chain.net, chain.kept = objective.forget(student), {}
    return f"a student of {chain.net.count() / 1e6:.2f} M parameters, taught by {teacher.count() / 1e6:.2f} M"


def _teacher(chain: Chain) -> Any:
    given = chain.part.options.get("teacher")
    if not given:
        return copy.deepcopy(chain.net)
    teacher = models.load(Path(given))
    if list(teacher.features.labels) != list(chain.net.features.labels):
        raise BadRequest("The teacher knows other labels than the student.", param="teacher")
    return teacher


def _qat(chain: Chain, step: Step, name: str) -> str:
    with rounding.felt(chain.net):
        chain.ground.train(chain.net, step.amount, name)
    chain.quantise = "int8-dynamic"
    return f"{step.amount:g} epochs with rounded weights and inputs"


def _int8(chain: Chain, step: Step, name: str) -> str:
    chain.quantise = step.kind
    chain.forms = rounding.forms(chain.net, 8)
    rounding.snap(chain.net, chain.forms)
    how = "by calibrated scales" if step.kind == "int8-static" else "at run time"
    return f"{len(chain.forms)} tensors in 8 bits; inputs are rounded {how}"


def _four_bits(chain: Chain, step: Step, name: str) -> str:
    chain.forms = rounding.forms(chain.net, 4)
    rounding.snap(chain.net, chain.forms)
    chain.quantise = "int4"
    count = sum(form == "int4" for form in chain.forms.values())
    return f"{count} tensors in 4 bits (blocks of {encoded.BLOCK}), {len(chain.forms) - count} in 8"


def _sparse(chain: Chain, step: Step, name: str) -> str:
    state = chain.net.state_dict()
    chain.forms |= {name: "sparse" for name, one in state.items() if name not in chain.forms and encoded.form_of(one)}
    count = sum(form == "sparse" for form in chain.forms.values())
    if not count:
        chain.desk.warn(say("compress.nothing", "sparse: no tensor has enough zeros; nothing gets smaller. Prune first."))
    return f"{count} tensors without their zeros"


_STEPS: Final[dict[str, Callable[[Chain, Step, str], str]]] = {
    "prune": _prune, "structured": _structured, "distil": _distil, "qat": _qat, "int8-dynamic": _int8, "int8-static": _int8,
    "4bit": _four_bits, "sparse": _sparse,
}  # fmt: skip


# -- measuring and writing


def _look(chain: Chain, net: Any) -> dict[str, Any]:
    """Size as stored, parameters, and quality on the held-out rows."""
    aside = Path(chain.desk.work) / "measured"
    _save_weights(chain, net, aside)
    found: Quality | None = measure.quality(chain.sample.outputs(models.TorchPredictor(net).run), chain.sample)
    size = measure.size(aside / _WEIGHTS)
    shutil.rmtree(aside)
    return {
        "bytes": size, "parameters": net.count(), "nonzero": _nonzero(net), "metric": found.name if found else "",
        "quality": found.value if found else None,
    }  # fmt: skip


def _write_down(chain: Chain, step: Step, what: str, seconds: float) -> None:
    row = _look(chain, chain.net)
    sides = {"first": models.TorchPredictor(chain.first).run, "now": models.TorchPredictor(chain.net).run}
    if step.kind.startswith("int8"):
        engine = rounding.running8(chain.net)
        if engine is not None:
            engine.features = chain.net.features
            sides["now"] = models.TorchPredictor(engine).run  # type: ignore[arg-type]
    speeds = measure.speeds(sides, chain.sample)
    row |= {"rows_per_s": speeds["now"], "speedup": speeds["now"] / speeds["first"], "seconds": round(seconds, 2)}
    last, source = chain.rows[-1], chain.rows[0]
    chain.rows.append({"step": step.text, "what": what, **row})
    quality = f", {row['metric']} {last['quality']:.4f} -> {row['quality']:.4f}" if row["quality"] is not None else ""
    chain.desk.note(
        say("compress.step", "{step}: {what}; {before} -> {after} MB ({times} smaller than the source), {speed} its speed{quality}",
            step=step.text, what=what, before=f"{last['bytes'] / 1e6:.2f}", after=f"{row['bytes'] / 1e6:.2f}",
            times=f"{source['bytes'] / row['bytes']:.2f}x", speed=f"{row['speedup']:.2f}x", quality=quality)
    )  # fmt: skip


def _save(chain: Chain, out: Path) -> None:
    for file in chain.folder.iterdir():  # what a Hugging Face folder has besides
        if file.is_file() and file.name not in (
            _WEIGHTS,
            "step.json",
            "adapter_model.safetensors",
            "adapter_config.json",
        ):
            shutil.copyfile(file, out / file.name)
    chain.net.spec.made_by = " ".join(filter(None, [chain.net.spec.made_by, f"compress {', '.join(chain.part.steps)}"]))
    _save_weights(chain, chain.net, out)
    note = {"steps": chain.rows, "quantise": chain.quantise}
    (out / "compression.json").write_text(json.dumps(note, ensure_ascii=False, indent=1), encoding="utf-8")


def _save_weights(chain: Chain, net: Any, out: Path) -> None:
    """The model folder, its weights stored as the steps so far say."""
    models.save(net, out)
    if not chain.forms:
        return
    path = out / _WEIGHTS
    state = encoded.read(path)
    names = {_saved_name(name, state): form for name, form in chain.forms.items()}
    encoded.write(state, path, {name: form for name, form in names.items() if name})


def _saved_name(name: str, state: dict[str, Any]) -> str:
    """A parameter's name in the file: Hugging Face models are written without our prefix, tied weights once."""
    if name in state:
        return name
    bare = name.partition(".")[2]
    return bare if bare in state else ""


def _nonzero(net: Any) -> int:
    return sum(int((one != 0).sum()) for one in net.parameters())


def _figures(chain: Chain) -> dict[str, Any]:
    first, last = chain.rows[0], chain.rows[-1]
    found = {
        "bytes_before": first["bytes"], "bytes_after": last["bytes"], "times_smaller": round(first["bytes"] / last["bytes"], 3),
        "speedup": round(last["speedup"], 3), "metric": last["metric"], "quantise": chain.quantise,
    }  # fmt: skip
    if last["quality"] is not None:
        found |= {"quality_before": first["quality"], "quality_after": last["quality"]}
    return found | {"steps": chain.rows}
