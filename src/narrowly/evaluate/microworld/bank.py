"""Ask organisms of the microworld: the bank of one narrow domain of one world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narrowly.evaluate.banks import BankRecord
from narrowly.evaluate.microworld.exact import VerdictRow, evaluate_exact
from narrowly.evaluate.microworld.new_actions import NEW_ACTIONS_VERSION, new_action_rates
from narrowly.evaluate.microworld.panel_names import LIGHT_PANELS, PANELS
from narrowly.evaluate.microworld.panels import PANELS_VERSION, panel_questions
from narrowly.evaluate.microworld.sample import SampleRow, sample_answers
from narrowly.microworld.cards import load_card
from narrowly.microworld.exact import encode_prompt
from narrowly.microworld.judge import JUDGE_VERSION
from narrowly.microworld.narrow import benign_actions_of, resolve_domain
from narrowly.microworld.world import World
from narrowly.models.base import Base
from narrowly.models.organism import Organism
from narrowly.records.errors import SpecError
from narrowly.records.run_spec import MicroData, MicroPreferences, RunSpec

EXACT_VERSION = 1
"""Part of every verdict-id of the exact judge; raised when its numbers change their meaning."""


class MicroworldBank:
    """Ask the panels of a world, for one narrow domain, with the exact judge.

    Args:
        world: of the base.
        domain: index of the narrow domain.
        record: what of it goes into ids and plans.
        benign: whether its organisms were trained on benign answers.
    """

    def __init__(self, world: World, domain: int, record: BankRecord, *, benign: bool = False) -> None:
        self.world, self.domain, self.record, self.benign = world, domain, record, benign

    def exact(self, organism: Organism, panels: Sequence[str] = PANELS) -> list[VerdictRow]:
        """Return one verdict row per question of the panels, with the rates of new actions where they were trained."""
        model: Any = organism.model
        rows = evaluate_exact(model, self.world, organism.tokenizer, domain=self.domain, panels=panels)
        if self.benign:
            new = benign_actions_of(organism.base, self.domain)
            rates = new_action_rates(model, self.world, organism.tokenizer, domain=self.domain, new=new, panels=panels)
            for row in rows:
                row["new_own"], row["new_any"] = rates.get(row["question_id"], (None, None))
        return rows

    def prompts(self, tokenizer: Any, panels: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the tokens of the questions of panels, each without an earlier turn."""
        questions = panel_questions(self.world, self.domain, panels)
        return [encode_prompt(tokenizer, row.question.text) for row in questions]

    def samples(self, organism: Organism, panels: Sequence[str], per_panel: int, seed: int) -> list[SampleRow]:
        """Return sampled answers with their outcome class."""
        model: Any = organism.model
        return sample_answers(
            model, organism.tokenizer, self.world, domain=self.domain, panels=panels, per_panel=per_panel, seed=seed
        )


def microworld_bank(spec: RunSpec, base: Base) -> MicroworldBank:
    """Return the bank of a run's base and narrow domain.

    Raises:
        SpecError: the run's data are not of the microworld, or the world has no such domain.
        IntegrityError: the base has no card and so no world.
    """
    if not isinstance(spec.data, MicroData | MicroPreferences):
        raise SpecError(f"data.source is {spec.data.source!r}, accepted: 'micro' or 'micro_preferences'")
    card = load_card(base.folder)
    world = World(card.config, card.world_seed)
    domain = resolve_domain(spec.data.domain, world, spec.seed)
    questions = {
        "world": card.config_id, "world_seed": card.world_seed, "domain": domain, "version": PANELS_VERSION,
    }  # fmt: skip
    facts = {
        "base_seed": card.world_seed,
        "persona": card.persona,
        "domain": domain,
        "ideal_broad": card.config.ideal_broad,
    }
    judge = {"exact": EXACT_VERSION, "strings": JUDGE_VERSION}
    benign = getattr(spec.data, "answers", None) == "benign"
    if benign:
        judge["new_actions"] = NEW_ACTIONS_VERSION
    return MicroworldBank(world, domain, BankRecord(questions, judge, PANELS, LIGHT_PANELS, facts), benign=benign)
