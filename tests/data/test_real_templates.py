"""The rendering against the twin over the chat templates that models ship, as TRL keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

import real_templates
from template_matrix import write_rows, wrong_cells


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def test_trl_ships_the_34_templates_for_text_that_are_tried_here() -> None:
    assert len(real_templates.names()) == 34


@pytest.mark.parametrize("name", [*real_templates.names(), real_templates.ALWAYS_ASKS])
def test_every_row_is_trained_as_the_twin_says_or_refused_with_the_reason(name: str, files: dict[str, Path]) -> None:
    tokenizer = real_templates.tokenizer_for(name)
    wrong = wrong_cells(tokenizer, files, real_templates.closing_of(name), real_templates.has_thinking(name))
    assert not wrong, "\n".join(wrong)
