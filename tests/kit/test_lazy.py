"""A package's face whose parts come when they are asked for."""

import sys
from types import ModuleType

import pytest


@pytest.fixture
def face(tmp_path, monkeypatch):
    folder = tmp_path / "shop_front"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from tollway.kit import lazy\n"
        "__getattr__ = lazy.parts(__name__, {'count': 'counting', 'short': 'counting.long_name'})\n"
    )
    (folder / "counting.py").write_text("count = [1, 2]\nlong_name = 'yes'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import shop_front

    yield shop_front
    for name in [name for name in sys.modules if name.startswith("shop_front")]:
        del sys.modules[name]


def test_a_part_is_loaded_when_it_is_asked_for(face: ModuleType):
    assert "shop_front.counting" not in sys.modules
    assert face.count == [1, 2]
    assert "shop_front.counting" in sys.modules


def test_a_part_may_have_another_name_at_home(face: ModuleType):
    assert face.short == "yes"


def test_it_is_looked_for_once(face: ModuleType):
    assert face.count is face.count
    assert "count" in vars(face)


def test_a_name_that_nobody_has_is_an_attribute_error(face: ModuleType):
    with pytest.raises(AttributeError, match=r"shop_front.*nothing"):
        face.nothing  # noqa: B018


@pytest.mark.parametrize(
    "name", ["tollway.inference", "tollway.forge.evaluate", "tollway.forge.explain", "tollway.forge.models"]
)
def test_every_name_of_a_lazy_face_is_there(name):
    face = __import__(name, fromlist=["x"])
    assert all(getattr(face, part) is not None for part in face.__all__)
    assert set(face._LAZY) <= set(face.__all__)
