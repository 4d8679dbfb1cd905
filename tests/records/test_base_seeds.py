"""The table of seeds: one truth for the page, the names of bases and the refusal of seeds used before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from narrowly.microworld.build import base_name
from narrowly.microworld.cards import shipped_names
from narrowly.microworld.config import WorldConfig
from narrowly.records.base_seeds import SEED_USES, BaseName, parse_base_name, refuse_used_seeds, use_of_seed
from narrowly.records.errors import SpecError

PAGE = Path(__file__).parents[2] / "docs" / "bases.md"


def test_the_page_has_the_table_of_the_package() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    found = [row for row in rows if re.fullmatch(r"\d+-\d+", row[0])]
    assert found == [[use.seeds, use.use, ", ".join(f"`{one}`" for one in use.studies) or "none"] for use in SEED_USES]


def test_no_seed_has_two_uses_and_the_ranges_are_in_order() -> None:
    edges = [edge for use in SEED_USES for edge in (use.first, use.last)]
    assert edges == sorted(set(edges))


def test_every_shipped_base_is_a_seed_of_the_first_range() -> None:
    found = [parse_base_name(name) for name in shipped_names()]
    assert len(found) == 9
    assert all(one is not None and use_of_seed(one.seed) == SEED_USES[0] for one in found)


@pytest.mark.parametrize("config", [WorldConfig(), WorldConfig(persona=False), WorldConfig(narrow_share=0.05)])
def test_the_name_that_a_build_gives_is_read_back(config) -> None:
    found = parse_base_name(base_name(config, 12))
    default = WorldConfig(persona=config.persona) == config
    assert found == BaseName(12, None if default else config.config_id, config.persona)


@pytest.mark.parametrize("text", ["micro-", "micro-8x", "micro-08", "Qwen/Qwen3-8B@abc", "smollm2-135m", "micro--8"])
def test_other_texts_are_no_names_of_bases(text) -> None:
    assert parse_base_name(text) is None


@pytest.mark.parametrize(
    ("study", "base", "words"),
    [
        ("x1_ladder", "micro-7", r"a seed of 0-7 .*looked at before.*accepted: seeds 8-23"),
        ("x1_ladder", "out/design/micro-104/", r"a seed of 100-107 \(design"),
        ("x1_ladder", "micro-nopersona-0", "a seed of 0-7"),
        ("x1_ladder", "micro-24", r"a seed of 24-31 \(defences"),
        ("mine", "micro-8", r"kept for x1_ladder.*accepted: seeds without a use"),
        ("mine", f"micro-{WorldConfig(narrow_share=0.05).config_id}-8", "kept for x1_ladder"),
    ],
)
def test_a_seed_used_before_or_kept_for_others_is_refused(study, base, words) -> None:
    with pytest.raises(SpecError, match=words):
        refuse_used_seeds(study, ["micro-200", base])


def test_free_seeds_own_seeds_and_bases_of_other_worlds_are_accepted() -> None:
    refuse_used_seeds("x1_ladder", ["micro-8", "micro-23", "micro-200", "Qwen/Qwen3-8B@abc"])
    refuse_used_seeds("mine", ["micro-200", "somewhere/micro-40"])
