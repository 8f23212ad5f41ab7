"""What a run made becomes a package: signed, with its lineage and what making it cost."""

import contextlib
import hashlib
from pathlib import Path
from typing import Final

from tollway.artifacts import store
from tollway.artifacts.manifest import Lineage
from tollway.forge.recipe import Recipe
from tollway.forge.steps import Run
from tollway.kit.errors import NotFound
from tollway.kit.formats import FORMATS
from tollway.shop import Shop

KINDS: Final = {
    "text-classification": "classification",
    "text-regression": "regression",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "translation": "translation",
    "language-modeling": "chat",
    "chat": "chat",
    "preference": "chat",
    "sentence-embedding": "embedding",
    "image-classification": "image-classification",
    "image-generation": "image-generation",
    "object-detection": "object-detection",
    "recommendation": "recommendation",
    "tabular-classification": "classification",
    "tabular-regression": "regression",
}
"""What a package of each task can be asked for."""
INPUTS: Final = {
    "image-classification": "image",
    "image-generation": "image",
    "object-detection": "image",
    "tabular-classification": "row",
    "tabular-regression": "row",
    "recommendation": "row",
}


def register(shop: Shop, recipe: Recipe, run: Run, files: Path, text: str) -> None:
    """Sign what was made and put it on the shelf: the same files again are the same version."""
    package = _made_before(shop, run) or _made(shop, recipe, run, files, text)
    run.record.package = package.ref
    run.save()
    run.emit({"kind": "note", "text": f"{package.ref} is on the shelf, signed: {package.folder}"})


def _made(shop: Shop, recipe: Recipe, run: Run, files: Path, text: str) -> store.ModelPackage:
    from tollway import __version__

    record, hours = run.record, run.record.made_seconds / 3600
    lineage = Lineage(
        parent=recipe.package.parent,
        recipe=recipe.recipe.name,
        recipe_digest="sha256:" + hashlib.sha256(text.encode()).hexdigest(),
        run=record.id,
        code_version=__version__,
        training_cost_micros=round(hours * run.cost.micros_per_hour),
        cost_currency=run.cost.currency,
        training_ms=round(record.made_seconds * 1000),
        energy_mwh=round(hours * run.cost.watts * 1000),
        datasets={record.dataset: record.dataset_digest},
    )
    card = run.folder / "card.md"
    return shop.store.add_package(
        recipe.recipe.name,
        files,
        store.About(
            task=recipe.recipe.task,
            kind=KINDS[recipe.recipe.task],
            input=INPUTS.get(recipe.recipe.task, "text"),
            serves=_served(run),
            embedding_dimensions=int(run.figures("convert").get("embedding_dimensions", 0)),
            title=recipe.package.title or recipe.recipe.name,
            description=recipe.package.description,
            licence=recipe.package.licence,
            metrics={name: value for name, value in record.metrics.items() if isinstance(value, (int, float, str))},
            parity={
                name: value for name, value in run.figures("convert").items() if isinstance(value, (int, float, str))
            },
            lineage=lineage,
            card=card.read_text(encoding="utf-8") if card.is_file() else "",
        ),
        files=_example(run),
    )


def _made_before(shop: Shop, run: Run) -> store.ModelPackage | None:
    """The package of an earlier run whose every step came out of the same folders: nothing is copied a second time."""
    steps = run.record.steps
    folders = [step["folder"] for step in steps]
    if not all(step["cached"] for step in steps):
        return None
    for old in reversed(run.runs.list()):
        if old.package and old.recipe == run.record.recipe and [step["folder"] for step in old.steps] == folders:
            with contextlib.suppress(NotFound):  # removed since
                found = shop.store.get(*old.package.split("@", 1))
                return found if shop.store.verify(found).ok else None
    return None


def _example(run: Run) -> dict[str, Path]:
    """One input to copy, where the evaluation found one: it travels with the package."""
    scores = run.runs.output(run.record, "evaluate")
    path = scores / "example.json" if scores is not None else None
    return {"example.json": path} if path is not None and path.is_file() else {}


def _served(run: Run) -> str:
    """The format that the conversion chose and the evaluation measured; the shelf's choice where there was none."""
    chosen = str(run.figures("convert").get("serve", ""))
    return chosen if chosen in FORMATS else ""
