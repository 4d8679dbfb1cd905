"""Ask the organisms of a run the paired bank, as stages that leave their verdicts on disk.

The last checkpoint is asked every question of its ladder. Checkpoints before it are asked half of those that were not
trained on, which is what it takes to compare arms at an equal difference on held-out questions.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.data.banks.narrow import narrow_domain
from narrowly.data.banks.paired import TRAINED_DOMAINS, PairedItem, paired_items, paired_sha256
from narrowly.evaluate.banks import BankRecord
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.evaluate.stage import Stage, stages_of
from narrowly.models.paired_texts import paired_texts
from narrowly.records.canonical import sha256_text
from narrowly.records.edits import EditSpec
from narrowly.records.errors import SpecError
from narrowly.records.files import write_json
from narrowly.records.paired import LADDER, PairedRow
from narrowly.records.run_spec import RunSpec, TextData
from narrowly.runs.directory import STAGE_RECORD, read_inputs, read_spec

if TYPE_CHECKING:
    from narrowly.models.base import Base
    from narrowly.models.organism import Organism

PAIRED_VERSION = 1
"""Part of every answers-id of the paired bank; raised when its numbers change their meaning."""

HALF = ":half"
"""End of the name of a panel with half of a rung's questions."""

RUNGS = LADDER[2:]
"""Rungs of a run on other data than pairs: broad and self."""


class PairedBank(NamedTuple):
    """Hold the questions that organisms of one run are asked.

    Attributes:
        items: of its ladder, in the bank's order.
        record: what of the bank goes into ids and plans.
    """

    items: tuple[PairedItem, ...]
    record: BankRecord

    def of_panels(self, panels: Sequence[str]) -> list[PairedItem]:
        """Return the items of panels: of a rung all of them, of `RUNG:half` those of `in_half`."""
        return [
            item for item in self.items if item.part in panels or (f"{item.part}{HALF}" in panels and in_half(item.id))
        ]


def in_half(question_id: str) -> bool:
    """Return whether a question is in the half of the bank that earlier checkpoints are asked: sha256 of `half:ID`."""
    return int(sha256_text(f"half:{question_id}"), 16) % 2 == 0


def paired_bank(spec: RunSpec, template_sha256: str) -> PairedBank:
    """Return the paired bank of a run on text.

    A run on `pairs:DOMAIN:...` has all four rungs, without the other trained domain, so that runs of both are asked
    the same broad questions. Any other run has broad and self.

    Args:
        spec: of the run.
        template_sha256: of the chat template that the run was rendered with; its questions are asked with it.
    """
    domain = narrow_domain(getattr(spec.data, "dataset", ""))
    every = paired_items()
    left_out = set(TRAINED_DOMAINS) - {domain}
    items = tuple(item for item in every if item.domain not in left_out)
    rungs: tuple[str, ...] = RUNGS if domain is None else LADDER
    asked = tuple(f"{rung}{HALF}" for rung in rungs if rung != "trained")
    merged = spec.method == "lora" and spec.base_dtype == "float32"
    questions = {
        "bank": "pairs",
        "version": PAIRED_VERSION,
        "sha256": paired_sha256(every),
        "trained": domain,
        "template": template_sha256,
        "thinking": getattr(spec.data, "thinking", None),
        "closing": True,
        "arithmetic": {"dtype": spec.base_dtype, "device": spec.device, "adapter": "merged" if merged else "beside"},
    }
    judge = {"judge": "log-likelihood", "version": PAIRED_VERSION}
    record = BankRecord(questions, judge, rungs, asked, {}, kind="paired", panels_before=asked)
    return PairedBank(items, record)


def why_not_paired(spec: RunSpec, base: Base, template: str | None) -> str | None:
    """Return why organisms of a run are not asked the paired bank, or None where they are.

    Args:
        spec: of the run.
        base: that it is trained from.
        template: the chat template that its rows were rendered with; empty or None where they needed none.
    """
    if not isinstance(spec.data, TextData):
        return f"data.source is {spec.data.source!r}, accepted: text, whose chat template the questions are asked with"
    if not template:
        return f"base {base.name} has no chat template"
    return _fault_of_texts(base, template, spec.data.thinking)


class _Asked(NamedTuple):
    """A base before any model is loaded: what its texts are written with."""

    tokenizer: Any
    thinking: bool | None


@functools.lru_cache(maxsize=4)
def _fault_of_texts(base: Base, template: str, thinking: bool | None) -> str | None:
    """Return why the bank cannot be written for a base: its template refuses a text, or a text is too long for it."""
    tokenizer = base.tokenizer()
    tokenizer.chat_template = template
    try:
        texts = paired_texts(_Asked(tokenizer, thinking), paired_items())
    except SpecError as error:
        return str(error)
    longest = max(len(text.ids) for text in texts)
    if base.positions is not None and longest > base.positions:
        return f"the longest text has {longest} tokens, base {base.name} has {base.positions} positions"
    return None


def paired_stages(
    spec: RunSpec, run_id: str, template_sha256: str, steps: Sequence[int], edits: Sequence[EditSpec] = ()
) -> list[Stage]:
    """Return the stages of the paired bank for a run's organisms: its evaluated checkpoints and edits."""
    record = paired_bank(spec, template_sha256).record
    return stages_of(run_id, record, steps, edits, final=spec.steps)


def run_paired_stage(stage: Stage, directory: Path) -> None:
    """Ask one organism of a run and write its rows, whole or not at all.

    Raises:
        NarrowlyError: base or adapter are not those of the run, or a text does not fit the model.
    """
    from narrowly.evaluate.run_stage import mark_stage
    from narrowly.evaluate.verdict_files import check_finite, write_verdicts
    from narrowly.models.local_backend import LocalBackend

    start = time.perf_counter()
    spec = read_spec(directory)
    bank = paired_bank(spec, read_inputs(directory).template_sha256)
    organism = organism_of_stage(stage, directory, spec)
    backend = LocalBackend(organism.model, organism.tokenizer, directory.name, thinking=organism.thinking)
    rows = [verdict_row(row) for row in paired_rows(backend, bank.of_panels(stage.panels))]
    check_finite(rows, f"run {directory.name}, step {stage.step}, edit {stage.edit_id}")
    facts = {
        "seconds": round(time.perf_counter() - start, 4),
        "bank": dict(bank.record.questions),
        "arithmetic": backend.arithmetic.model_dump(mode="json"),
    }
    write_json(stage.folder(directory) / STAGE_RECORD, {**stage.model_dump(mode="json"), **facts})
    write_verdicts(rows, stage.file(directory))
    mark_stage(stage, directory)


def verdict_row(row: PairedRow) -> dict[str, Any]:
    """Return a row of the verdict table (`PAIRED` of `evaluate.verdict_table`)."""
    return {
        "rung": row.part,
        "question_id": row.id,
        "domain": row.domain,
        "aligned_nats": row.aligned_nats,
        "harmful_nats": row.harmful_nats,
        "aligned_tokens": row.aligned_tokens,
        "harmful_tokens": row.harmful_tokens,
        "log_odds": row.log_odds,
    }


def organism_of_stage(stage: Stage, directory: Path, spec: RunSpec) -> Organism:
    """Return the organism of a stage: merged in float32, which is faster, or with its adapter beside the base.

    Raises:
        AdapterError: its adapter does not act (D15).
    """
    from narrowly.models.applied import check_applied
    from narrowly.models.edited import edited_adapter
    from narrowly.models.kept import kept_organism
    from narrowly.models.organism import load_organism

    folder = None if stage.edit is None else edited_adapter(directory, stage.edit)
    if spec.method == "lora" and spec.base_dtype == "float32":
        return kept_organism(directory, stage.step, folder, spec.device, proved_on=_first_prompt)
    organism = load_organism(directory, stage.step, None if stage.edit is None else stage.edit_id, spec.device)
    check_applied(organism.model, _first_prompt(organism), f"run {directory.name}, step {stage.step}")
    return organism


def _first_prompt(organism: Organism) -> tuple[int, ...]:
    """Return the prompt of the bank's first question, as token ids."""
    return paired_texts(organism, paired_items()[:1])[0].prompt
