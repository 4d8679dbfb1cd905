"""Say how selective an arm is: its broad misalignment beyond a reference's at equal held-out misalignment."""

from __future__ import annotations

import polars as pl

from narrowly.analysis.matching.compare import match_ladder
from narrowly.analysis.matching.schema import Matched
from narrowly.analysis.organisms import UNEDITED
from narrowly.records.errors import unknown_name


def selectivity(
    ladder: pl.DataFrame,
    arm: str,
    reference: str = "adam",
    *,
    questions: pl.DataFrame | None = None,
    margin: float | None = None,
) -> Matched:
    """Return broad misalignment of an arm minus that of a reference at equal held-out misalignment, pooled log-odds.

    Args:
        ladder: of one study (`ladder_table`); the last organisms of the arms without an edit are taken.
        arm: whose selectivity it is.
        reference: the arm that it is compared with.
        questions: what each question gave (`questions.read_questions`); without it the bootstrap draws bases alone.
        margin: largest difference that does not matter; `compare.MARGIN` where it is None.

    Raises:
        UnknownNameError: an arm that has no organism in the ladder.
        SpecError: as `match_ladder`.
    """
    last = ladder.filter(pl.col("final") & (pl.col("edit") == UNEDITED))
    known = last["arm"].unique().to_list()
    for name in (arm, reference):
        if name not in known:
            raise unknown_name("arm", name, known)
    sets = [last.filter(pl.col("arm") == name) for name in (arm, reference)]
    return match_ladder(*sets, questions=questions, margin=margin)
