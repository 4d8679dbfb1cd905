"""The picture of the rooms: drawn from the imports as they are, and checked to be the one that is committed."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from test_architecture import ROOMS

ROOT = Path(__file__).parents[1]

spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "figures" / "rooms.py")
rooms = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rooms)


def test_the_committed_picture_is_the_one_that_the_imports_give() -> None:
    committed = rooms.PICTURE.read_text(encoding="utf-8")
    assert committed == rooms.drawn_now(), f"imports between rooms have changed: run `{rooms.COMMAND}` and look at it"


def test_the_list_in_contributing_has_every_room_in_the_order_that_is_checked() -> None:
    present = {folder.parent.name for folder in (ROOT / "src" / "narrowly").glob("*/__init__.py")}
    listed = rooms.order_of_rooms((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert listed == [room for room in ROOMS if room in present]


def test_an_import_that_others_imply_is_not_drawn_and_a_circle_is_refused() -> None:
    chain = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert rooms.reduced(chain) == {"a": {"b"}, "b": {"c"}, "c": set()}
    with pytest.raises(ValueError, match="a -> b -> a"):
        rooms.reduced({"a": {"b"}, "b": {"a"}})


def test_imports_are_found_inside_functions_and_in_every_form(tmp_path) -> None:
    files = {
        "top/__init__.py": "",
        "top/one.py": "def f():\n    from house.middle import x\n",
        "middle/__init__.py": "from ..low.deep import y",
        "middle/two.py": "import house.side\nfrom house import low\nfrom . import one",
        "low/__init__.py": "import os",
        "side/__init__.py": "",
        "__init__.py": "from house.top import one",
    }
    for name, text in files.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = rooms.imports_between(tmp_path / "house")
    assert found == {"top": {"middle"}, "middle": {"low", "side"}, "low": set(), "side": set()}


def test_a_room_without_a_place_and_an_arrow_upwards_are_named() -> None:
    with pytest.raises(ValueError, match="no place for attic"):
        rooms.picture({"attic": set()}, ["attic"])
    with pytest.raises(ValueError, match="records imports cli"):
        rooms.picture({"cli": set(), "records": {"cli"}}, ["records", "cli"])


def test_the_picture_is_plain_svg_that_loads_nothing() -> None:
    text = rooms.PICTURE.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert {element.tag.rsplit("}")[-1] for element in root.iter()} == {
        "svg", "title", "style", "marker", "path", "rect", "text",
    }  # fmt: skip
    assert "prefers-color-scheme: dark" in text
    assert not [word for word in ("href", "@import", "font-face", "<script") if word in text]
