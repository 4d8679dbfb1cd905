"""The pages of the repository: the README leads to every one, and no link of theirs is dead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("[!.]*/README.md")])


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures that lie in the repository, without their anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target.partition("#")[0] for target in targets if "://" not in target and not target.startswith("#")]


def test_the_readme_links_every_page() -> None:
    linked = {(ROOT / target).resolve() for target in links(ROOT / "README.md")}
    assert len(PAGES) > 8
    assert {str(page.relative_to(ROOT)) for page in PAGES if page.resolve() not in linked} == {"README.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []
