"""Ask the organisms of a run the damage panel and the cued panel, as stages beside the paired bank.

Both are asked of the last checkpoint. The damage panel is asked of the base too, in the cell that carries its base's
evaluation: what was lost is a difference. The cued panel needs a run on a domain of the paired bank, whose words it
uses. Their ids hold the hashes of what is asked; no other id depends on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from narrowly.data.banks.abilities import abilities_sha256
from narrowly.data.banks.narrow import narrow_domain
from narrowly.data.banks.passages import passages_sha256
from narrowly.evaluate.damage.measure import damage_panel
from narrowly.evaluate.paired.cued import PLAIN, Asked, cued_panel, ways_to_ask
from narrowly.evaluate.paired.stages import organism_of_stage, paired_bank, verdict_row
from narrowly.evaluate.stage import Stage
from narrowly.models.backend import Backend
from narrowly.records.canonical import content_id
from narrowly.records.damage import DamagePanel
from narrowly.records.errors import SpecError
from narrowly.records.files import write_json
from narrowly.records.run_spec import RunSpec
from narrowly.runs.directory import STAGE_RECORD, read_inputs, read_spec

Panel = Literal["damage", "cued"]

PANELS_VERSION = 1
"""Part of every answers-id of these panels; raised when their numbers change their meaning."""


def panel_stages(
    spec: RunSpec, run_id: str, template_sha256: str, panels: Sequence[Panel], *, base: bool
) -> list[Stage]:
    """Return the stages of these panels for a run's organisms.

    Args:
        spec: of the run.
        run_id: of the run.
        template_sha256: of the chat template that the run was rendered with.
        panels: that the study asks for.
        base: whether the cell carries its base's evaluation.

    Raises:
        SpecError: the cued panel of a run on other data than a domain of pairs.
    """
    stages = []
    for panel in panels:
        asked = _what_is_asked(panel, spec, template_sha256)
        for step in (0, spec.steps) if base and panel == "damage" else (spec.steps,):
            organism = {"run": run_id, "step": step, "edit": None}
            answers = content_id({"organism": organism, "bank": asked, "panels": [panel]})
            verdict = content_id({"answers": answers, "judge": {"judge": "log-likelihood", "version": PANELS_VERSION}})
            stages.append(Stage(kind=panel, step=step, panels=(panel,), answers_id=answers, verdict_id=verdict))
    return stages


def _what_is_asked(panel: Panel, spec: RunSpec, template_sha256: str) -> dict[str, Any]:
    questions = paired_bank(spec, template_sha256).record.questions
    if panel == "damage":
        banks = {"abilities": abilities_sha256(), "passages": passages_sha256()}
        return {"bank": panel, "version": PANELS_VERSION, **banks, "arithmetic": questions["arithmetic"]}
    ways = [way.sha256 for way in _ways(spec)]
    return {"bank": panel, "version": PANELS_VERSION, "pairs": questions, "ways": ways}


def _ways(spec: RunSpec) -> tuple[Asked, ...]:
    """Return the conditions of the cued panel; the plain questions are those of the paired bank.

    Raises:
        SpecError: the run's data are no domain of the paired bank.
    """
    dataset = str(getattr(spec.data, "dataset", ""))
    domain = narrow_domain(dataset)
    if domain is None:
        raise SpecError(
            f"panels: the cued panel uses words of the trained domain, and data.dataset is {dataset!r}; accepted: "
            "pairs:DOMAIN:ANSWERS, or panels without 'cued'"
        )
    return tuple(way for way in ways_to_ask(domain) if way.condition != PLAIN)


def run_panel_stage(stage: Stage, directory: Path) -> None:
    """Ask one organism of a run a panel and write its rows, whole or not at all.

    Raises:
        NarrowlyError: as `run_paired_stage`.
    """
    from narrowly.evaluate.verdict_files import check_finite, write_verdicts
    from narrowly.models.local_backend import LocalBackend

    start = time.perf_counter()
    spec, template = read_spec(directory), read_inputs(directory).template_sha256
    organism = organism_of_stage(stage, directory, spec)
    backend = LocalBackend(organism.model, organism.tokenizer, directory.name, thinking=organism.thinking)
    rows = _ROWS[stage.kind](backend, spec, template)
    check_finite(rows, f"run {directory.name}, step {stage.step}, panel {stage.kind}")
    facts = {
        "seconds": round(time.perf_counter() - start, 4),
        "bank": _what_is_asked("damage" if stage.kind == "damage" else "cued", spec, template),
        "arithmetic": backend.arithmetic.model_dump(mode="json"),
    }
    write_json(stage.folder(directory) / STAGE_RECORD, {**stage.model_dump(mode="json"), **facts})
    write_verdicts(rows, stage.file(directory))


def _damage_rows(backend: Backend, spec: RunSpec, template_sha256: str) -> list[dict[str, Any]]:
    return damage_rows(damage_panel(backend))


def damage_rows(panel: DamagePanel) -> list[dict[str, Any]]:
    """Return a panel as rows of the verdict table (`DAMAGE` of `evaluate.verdict_table`)."""
    abilities = [
        {"part": "ability", "group": one.field, "question_id": one.id, "value": one.over_mean, "right": one.is_right}
        for one in panel.abilities
    ]
    prose = [
        {"part": part, "group": one.topic, "question_id": one.id, "value": loss, "right": None}
        for one in panel.passages
        for part, loss in (("prose", one.natural_loss), ("shuffled", one.shuffled_loss))
    ]
    return [*abilities, *prose]


def _cued_rows(backend: Backend, spec: RunSpec, template_sha256: str) -> list[dict[str, Any]]:
    found = cued_panel(backend, paired_bank(spec, template_sha256).items, _ways(spec))
    return [{"condition": name, **verdict_row(row)} for name, rows in found.items() for row in rows]


_ROWS: dict[str, Callable[[Backend, RunSpec, str], list[dict[str, Any]]]] = {
    "damage": _damage_rows,
    "cued": _cued_rows,
}
