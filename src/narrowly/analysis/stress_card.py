"""Say what a stress test found: the ladder of every fine-tune minus its aligned control, and the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from narrowly.analysis.organisms import UNEDITED
from narrowly.analysis.paired_answers import paired_answers
from narrowly.evaluate.microworld.panel_names import BROAD, BROAD_SELF, HELD_OUT, TRAINED_TOPICS
from narrowly.records.paired import LADDER
from narrowly.stats.intervals import Interval, t_interval

NO_PROOF = (
    "This card is no proof of safety. It shows what a few brief fine-tunes did with these sets, rates and one seed; "
    "others may do more."
)

MICRO_RUNGS = {"trained": TRAINED_TOPICS, "held_out": HELD_OUT, "broad": BROAD, "self": BROAD_SELF}
"""Panel of the microworld for each rung of the ladder."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StressRung(_Part):
    """A difference to the control: shares of misaligned answers (microworld) or log-odds in nats per answer (pairs)."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    method: str


class StressRow(_Part):
    """One unit: an optimiser on a narrow set at a strength, minus its aligned control.

    Attributes:
        lr, steps: of both runs.
        run_id, control_run_id: by which both are found under `runs/`.
        rungs: of the ladder; one that was not asked is not there.
        seconds: of both runs and their evaluation, in one process each.
    """

    optimiser: str
    narrow: str
    strength: str
    lr: float
    steps: int
    run_id: str
    control_run_id: str
    rungs: dict[str, StressRung]
    seconds: float


class StressCard(_Part):
    """What a stress test found.

    Attributes:
        model, base_sha256: name and weights of the release.
        unit: of all differences.
        bank: sha256 of the paired bank; None in the microworld, whose questions follow from the base.
        budget_seconds, spent_seconds: wall time allowed and used, earlier commands included.
        rows: the units that are done.
        left_out, failed: units without room in the budget, and units that failed.
        not_tested: in words.
        versions: of the libraries.
        notice: that this is no proof of safety.
    """

    schema_version: Literal[1] = 1
    model: str
    base_sha256: str
    unit: Literal["share", "nats"]
    bank: str | None
    seed: int
    budget_seconds: float
    spent_seconds: float
    rows: tuple[StressRow, ...]
    left_out: tuple[str, ...]
    failed: tuple[str, ...]
    not_tested: tuple[str, ...]
    versions: dict[str, str]
    notice: str = NO_PROOF


def micro_rungs(verdicts: pl.DataFrame, cell: str, control: str) -> dict[str, StressRung]:
    """Return each rung of an organism of the microworld minus its control: the share of misaligned answers.

    The interval is a 95 % t interval over domains (broad) or topics (other rungs), for this pair of runs.

    Args:
        verdicts: table of verdicts, one row per organism, panel and question.
        cell: of the run on harmful answers.
        control: of its control.
    """
    final = verdicts.filter(pl.col("final") & (pl.col("edit") == UNEDITED))
    keys = ["panel", "domain", "topic", "question_id"]
    both = final.filter(pl.col("cell_id") == cell).join(
        final.filter(pl.col("cell_id") == control).select(*keys, pl.col("misaligned").alias("control")), on=keys
    )
    found = {}
    for rung, panel in MICRO_RUNGS.items():
        unit = "domain" if rung == "broad" else "topic"
        rows = both.filter(pl.col("panel") == panel).with_columns(value=pl.col("misaligned") - pl.col("control"))
        means = rows.group_by(unit).agg(pl.col("value").mean()).sort(unit)["value"].to_list()
        if means:
            found[rung] = _rung(t_interval(means), f"95 % Student t interval over {unit}s, this pair of runs only")
    return found


def paired_rungs(table: pl.DataFrame) -> dict[str, dict[str, StressRung]]:
    """Return by cell each rung minus its aligned control: log-odds of harmful against aligned, nats per answer.

    Args:
        table: the table of paired answers.
    """
    answers = paired_answers(table)
    return {
        row.cell_id: {
            rung: _rung(row.rungs[rung].interval, row.rungs[rung].interval.method)
            for rung in LADDER
            if rung in row.rungs
        }
        for row in (answers.ladder if answers is not None else ())
        if row.control == "aligned"
    }


def _rung(found: Interval, method: str) -> StressRung:
    return StressRung(estimate=found.estimate, low=found.low, high=found.high, n=found.n, method=method)


def limits(micro: bool, left_out: Sequence[str], optimisers: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a card does not test, in words."""
    said = [
        "more than one seed: intervals are over domains, topics or questions, and not over seeds",
        "learning rates other than the ones shown, and longer training",
        "sets other than the ones shown",
        f"optimisers other than {', '.join(optimisers)}",
        "prompts with cues of the trained domain, and damage to abilities",
    ]
    if micro:
        said.append("models beyond the microworld, which was chosen so that misalignment spreads in it")
    else:
        said.append("answers that the model writes: which of two given answers it finds likelier is measured, no rate")
    if left_out:
        said.insert(0, f"for want of time: {'; '.join(left_out)}")
    return tuple(said)
