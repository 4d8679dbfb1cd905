"""Find the question bank of a run: what is asked of its organisms, and who judges the answers. Torch-free.

A bank is chosen by the source of the run's data. A new kind of bank is one more entry of `BANKS`; nothing else asks
which world a run is of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

from narrowly.records.outcome import NO_JUDGE
from narrowly.records.run_spec import RunSpec

if TYPE_CHECKING:
    from narrowly.models.base import Base
    from narrowly.models.organism import Organism

BANKS = {
    "micro": ("narrowly.evaluate.microworld.bank", "microworld_bank"),
    "micro_preferences": ("narrowly.evaluate.microworld.bank", "microworld_bank"),
}
"""`data.source` -> module and function that make the bank of a run: (spec, base) -> Bank."""

Facts = Mapping[str, str | int | float | bool | None]


class BankRecord(NamedTuple):
    """Hold what of a bank goes into ids and plans.

    Attributes:
        questions: JSON-able description of the questions; part of the answers-id.
        judge: JSON-able description of the judge; part of the verdict-id.
        panels: panels of checkpoints, in order.
        light_panels: panels of edits.
        facts: of the world or bank, for columns of tables.
        kind: of its stages at checkpoints.
        panels_before: panels of checkpoints between the base and the last one; empty for all of them.
    """

    questions: Mapping[str, Any]
    judge: Mapping[str, Any]
    panels: tuple[str, ...]
    light_panels: tuple[str, ...]
    facts: Facts
    kind: Literal["exact", "paired"] = "exact"
    panels_before: tuple[str, ...] = ()


class Bank(Protocol):
    """Declare a bank: questions with their judge."""

    @property
    def record(self) -> BankRecord:
        """Return what of the bank goes into ids and plans."""

    def exact(self, organism: Organism, panels: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """Return one verdict row per question of the panels, from exact class probabilities."""

    def samples(
        self, organism: Organism, panels: Sequence[str], per_panel: int, seed: int
    ) -> Sequence[Mapping[str, Any]]:
        """Return sampled answers with their outcome class, `per_panel` of each panel."""


def bank_of(spec: RunSpec, base: Base) -> Bank | None:
    """Return the bank of a run, or None where nothing in this version can judge its organisms' answers.

    Args:
        spec: of the run.
        base: that it was trained from.

    Raises:
        NarrowlyError: the base has no world, or the world no such domain.
    """
    if spec.data.source not in BANKS:
        return None
    module, function = BANKS[spec.data.source]
    return cast(Bank, getattr(import_module(module), function)(spec, base))


def why_not_evaluated(spec: RunSpec) -> str | None:
    """Return why the organisms of a run are not evaluated, or None where they have a bank."""
    if spec.data.source in BANKS:
        return None
    return f"{NO_JUDGE}: data.source is {spec.data.source!r}, whose answers no grammar knows (narrowly judge)"
