"""Imports: a room is entered by its front door. The direction (down only) is import-linter's; see pyproject.toml."""

from tests.shape.source import ROOT, SOURCE, imports, modules

ROOMS = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}


def room_of(name: str) -> str:
    """The room a module lives in; faces has a room for each face."""
    parts = name.split(".")
    depth = 3 if parts[1:2] == ["faces"] else 2
    return ".".join(parts[:depth])


def test_other_rooms_are_entered_by_the_front_door():
    """`from tollway.sell import ledger` or `from tollway.sell.ledger import X`, never deeper, never a private name."""
    wrong = []
    for module in modules():
        for source, name, line in imports(module):
            if room_of(source) == room_of(module.name):
                continue
            deep = len(source.split(".")) > len(room_of(source).split(".")) + 1
            private = any(
                part.startswith("_") and not part.startswith("__") for part in (*source.split("."), name or "")
            )
            if deep or private:
                wrong.append(f"{module.shown}:{line}: {source}{'.' + name if name else ''}")
    assert not wrong


def test_the_floor_imports_nothing_of_ours():
    floor = [module for module in modules() if room_of(module.name) == "tollway.kit"]
    assert not [source for module in floor for source, _, _ in imports(module) if room_of(source) != "tollway.kit"]


def test_every_room_says_what_it_is_for():
    silent = [room for room in ROOMS if not (SOURCE / room / "__init__.py").read_text().strip().startswith('"""')]
    assert not silent


def test_tests_mirror_the_source():
    """A folder of tests has the name of a room, or is one of the few that look at the whole."""
    whole = {"shape", "proof", "clients", "fakes", "end_to_end"}
    folders = {
        path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith((".", "_"))
    }
    assert folders <= ROOMS | whole
