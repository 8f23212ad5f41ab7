"""`tollway recipe …`: write, check and list recipes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tollway.faces.cli import next_step, tables
from tollway.faces.cli.desk import Desk, command, group, nearest, quoted
from tollway.flows import workshop
from tollway.kit.errors import BadRequest, Conflict, NotFound

app = group("Recipes: how a model is made, in one TOML file.")


@command(app, "new")
def new(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="The model's name: what buyers will call.", metavar="NAME")],
    dataset: Annotated[str, typer.Option("--dataset", help="A dataset here, such as movies or movies@2.")],
    task: Annotated[str | None, typer.Option("--task", help="Default: what the dataset's columns fit.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="Start from a pre-trained model.")] = None,
    architecture: Annotated[str | None, typer.Option("--architecture", help="Train this one from scratch.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Default: recipes/NAME.toml in the home.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
) -> None:
    """Write a recipe that works for a dataset: a starting point to edit. Prints its path."""
    from tollway.forge import drafts

    version = workshop.datasets(desk.shop.settings.home, desk.shop.clock).get(dataset)
    text = drafts.draft(name, task, version, base=base or "", architecture=architecture or "")
    path = out or _folder(desk) / f"{name}.toml"
    if path.exists() and not force and path.read_text(encoding="utf-8") != text:
        raise Conflict(f"{path} is there already.", hint="Edit it, or overwrite it with --force.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    desk.answer({"name": name, "path": str(path)}, lambda: str(path))
    desk.then(f"tollway run start {name if out is None else quoted(str(path))}")


@command(app, "check")
def check(
    desk: Desk, recipe: Annotated[str, typer.Argument(help="A recipe's file or name.", metavar="RECIPE")]
) -> None:
    """Read a recipe and name every problem, without running anything."""
    from tollway.flows import build

    path = recipe_path(desk, recipe)
    found = build.read(desk.shop, path)
    build.check(desk.shop, found)
    desk.answer({"path": str(path), "recipe": found.model_dump(mode="json")}, lambda: f"{path}: no problems found.")
    desk.then(f"tollway run start {quoted(recipe)}")


@command(app, "list")
def list_(desk: Desk) -> None:
    """The recipes in this home."""
    from tollway.forge import recipe as recipes

    rows: list[dict[str, Any]] = []
    for path in sorted(_folder(desk).glob("*.toml")):
        try:
            found = recipes.load(path)
            rows.append({"name": path.stem, "task": found.recipe.task, "dataset": found.data.dataset, "problems": ""})
        except BadRequest as error:
            rows.append({"name": path.stem, "task": "", "dataset": "", "problems": error.message.splitlines()[0]})
    columns = {"name": "recipe", "task": "task", "dataset": "dataset", "problems": "problems"}
    desk.answer(rows, lambda: tables.table(rows, columns, empty="No recipes yet."))
    fine = [row["name"] for row in rows if not row["problems"]]
    if fine:
        desk.then(f"tollway run start {quoted(fine[0])}")
    else:
        desk.then(*next_step.draft_recipe(desk))


@command(app, "schema")
def schema(desk: Desk) -> None:
    """Every setting of a recipe, with its default and meaning."""
    from tollway.forge import recipe as recipes

    rows = recipes.settings()
    columns = {"part": "part", "name": "setting", "default": "default", "help": "meaning"}
    desk.answer(rows, lambda: tables.table(rows, columns))
    desk.then(*next_step.draft_recipe(desk))


def recipe_path(desk: Desk, recipe: str) -> Path:
    """The file meant: a path, or a name in the home's `recipes/`. Raises NotFound with the nearest name."""
    path = Path(recipe)
    if path.is_file():
        return path
    named = _folder(desk) / f"{recipe.removesuffix('.toml')}.toml"
    if named.is_file():
        return named
    known = [one.stem for one in _folder(desk).glob("*.toml")]
    raise NotFound(
        f"There is no recipe {recipe}.{nearest(recipe, known)}",
        code="recipe_not_found",
        hint="Write one: tollway recipe new NAME --dataset DATASET.",
    )


def _folder(desk: Desk) -> Path:
    return desk.shop.settings.home / "recipes"
