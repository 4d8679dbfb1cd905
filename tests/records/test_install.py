"""Install hints: all made in one place, none sends to a package index that holds no such package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from narrowly.records import install
from narrowly.records.install import (
    PACKAGE,
    extra_with,
    extras,
    install_hint,
    installed_version,
    missing_requirements,
    requirements,
)

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def named(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_a_hint_works_without_a_package_on_the_index() -> None:
    assert install_hint("lab") == (
        "pip install '.[lab]' in a clone, or pip install 'narrowly[lab] @ git+URL' (URL: the clone's origin)"
    )


def test_every_hint_in_the_sources_is_made_in_one_place() -> None:
    modules = sorted((ROOT / "src").rglob("*.py"))
    elsewhere = [path for path in modules if path != Path(install.__file__).resolve()]
    assert len(elsewhere) == len(modules) - 1
    own = re.compile(r"pip install[^\n]*(narrowly|'\.\[)")
    assert [str(path) for path in elsewhere if own.search(path.read_text(encoding="utf-8"))] == []


def test_no_page_or_example_tells_to_install_the_package_from_an_index() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").iterdir(),
    ]
    from_index = re.compile(r"pip install (\S+ )*['\"]?narrowly(?!\[\w+\] @ )")
    assert len(pages) > 10
    assert from_index.search("pip install 'narrowly[lab]'") and from_index.search("pip install -U narrowly")
    assert not from_index.search("pip install 'narrowly[lab] @ git+URL'")
    texts = {page: page.read_text(encoding="utf-8") for page in pages if page.is_file()}
    assert [str(page) for page, text in texts.items() if from_index.search(text)] == []


def test_the_requirements_of_every_extra_are_those_of_the_project_file() -> None:
    assert sorted(requirements()) == sorted(map(named, PROJECT["dependencies"]))
    declared = PROJECT["optional-dependencies"]
    assert extras() == sorted(set(declared) - {"dev"})
    for extra in extras():
        own = {named(line) for line in declared[extra]} - {PACKAGE}
        shared = {
            name for of in ("spectral", "lab") if f"narrowly[{of}]" in declared[extra] for name in requirements(of)
        }
        assert set(requirements(extra)) == own | shared


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "spectral"), ("pytorch_optimizer", "spectral"), ("jinja2", "lab"), ("bitsandbytes", "nf4"),
     ("wandb", "track"), ("narrowly", None), ("pytest", None), ("nothing", None)],
)  # fmt: skip
def test_a_missing_module_is_brought_by_the_smallest_extra_that_has_it(module: str, extra: str | None) -> None:
    assert extra_with(module) == extra


def test_what_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_version("pydantic") and installed_version("not-here-at-all") is None
    monkeypatch.setattr(
        install, "_listed", lambda: [("lab", "pydantic"), ("lab", "not-here-at-all"), (None, "nor-this")]
    )
    assert missing_requirements("lab") == ["not-here-at-all"]
