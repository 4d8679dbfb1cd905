"""The pages of the repository: the README leads to every one, no link is dead, and sentences are short."""

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


LONGEST_SENTENCE = 25
"""Words, in prose: code, tables and headings are left out, a link counts by its text and a code span as one word."""


def sentences(text: str) -> list[str]:
    """Return the sentences of a page; a list item, a paragraph and a colon end one."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    lines = ["" if re.match(r"\s*[|#]|    \s*\w", line) else line for line in text.splitlines()]
    text = "\n".join(re.sub(r"^\s*([-*]|\d+\.)\s", "\n\n", line) for line in lines)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text).replace("*", "")
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return [sentence for one in paragraphs for sentence in re.split(r"(?<=[.!?:])\s+", one) if sentence]


def test_the_sentences_of_a_page_are_told_apart() -> None:
    long = " ".join(["word"] * 26)
    page = f"# {long}\n\nOne `a b c` two. [three four](x.md): five.\n\n- {long}.\n\n| {long} |\n\n```\n{long}\n```\n"
    assert sentences(page) == ["One code two.", "three four:", "five.", f"{long}."]


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_sentences_of_the_docs_have_at_most_25_words(page: Path) -> None:
    found = sentences(page.read_text(encoding="utf-8"))
    assert found
    assert [sentence for sentence in found if len(sentence.split()) > LONGEST_SENTENCE] == []
