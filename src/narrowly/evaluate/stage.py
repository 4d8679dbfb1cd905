"""Describe evaluations: one stage is one organism asked one bank, with ids of its own. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from narrowly.evaluate.banks import BankRecord
from narrowly.records.canonical import content_id
from narrowly.records.edits import EditSpec
from narrowly.runs.directory import answers_folder, verdicts_file

Kind = Literal["exact", "samples", "paired", "damage", "cued"]


class Stage(BaseModel):
    """Describe one evaluation of one organism: exact verdicts on panels, sampled answers, or paired answers.

    Attributes:
        kind: exact (class probabilities), samples (shown answers), paired (log-likelihoods of given answers), damage
            or cued (panels beside the paired bank).
        step: checkpoint of the organism.
        edit: edit of its adapter, or None.
        panels: question panels, in order.
        per_panel: answers per panel; 0 where none are sampled.
        answers_id: organism-id + question bank + sampling.
        verdict_id: answers-id + judge.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    step: int
    edit: EditSpec | None = None
    panels: tuple[str, ...]
    per_panel: int = 0
    answers_id: str
    verdict_id: str

    @property
    def edit_id(self) -> str:
        """Return the edit's id, or "none"."""
        return "none" if self.edit is None else self.edit.edit_id

    def folder(self, run_directory: Path) -> Path:
        """Return the folder of the answers."""
        return answers_folder(run_directory, self.answers_id)

    def file(self, run_directory: Path) -> Path:
        """Return the file of the verdicts; it exists when the stage is done."""
        return verdicts_file(run_directory, self.answers_id, self.verdict_id)


def stages_of(
    run_id: str,
    bank: BankRecord,
    steps: Sequence[int],
    edits: Sequence[EditSpec] = (),
    *,
    final: int,
    samples: int = 0,
    seed: int = 0,
) -> list[Stage]:
    """Return the evaluation stages of a run's organisms, each with its own ids.

    Args:
        run_id: of the run.
        bank: what is asked, and who judges.
        steps: checkpoints that are asked: the base and the last one all panels, the others `panels_before`.
        edits: of the final adapter, which are asked the light panels.
        final: step of the final checkpoint.
        samples: shown answers per panel of the final organism; 0 for none.
        seed: of the samples.
    """
    before = bank.panels_before or bank.panels
    asked: list[tuple[Kind, int, EditSpec | None, tuple[str, ...], int]] = [
        (bank.kind, step, None, bank.panels if step in (0, final) else before, 0) for step in steps
    ]
    asked += [(bank.kind, final, edit, bank.light_panels, 0) for edit in edits]
    if samples:
        asked.append(("samples", final, None, bank.panels, samples))
    stages = []
    for kind, step, edit, panels, count in asked:
        organism = {"run": run_id, "step": step, "edit": None if edit is None else edit.model_dump(mode="json")}
        sampling = {"kind": kind, "per_panel": count, "seed": seed if kind == "samples" else None}
        answers_id = content_id({"organism": organism, "bank": bank.questions, "panels": panels, "sampling": sampling})
        verdict_id = content_id({"answers": answers_id, "judge": bank.judge})
        stages.append(
            Stage(
                kind=kind,
                step=step,
                edit=edit,
                panels=panels,
                per_panel=count,
                answers_id=answers_id,
                verdict_id=verdict_id,
            )
        )
    return stages
