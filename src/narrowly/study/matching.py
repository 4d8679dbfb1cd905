"""Compare two sets of runs of studies on disk at equal values of a matching variable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from narrowly.study.layout import TABLES

if TYPE_CHECKING:
    from narrowly.analysis.matching.schema import Matched


def match_runs(
    study: str | Path,
    first: str,
    second: str,
    *,
    other: str | Path | None = None,
    at: str = "held-out",
    of: str = "broad",
    scale: str | None = None,
    dial: str | None = None,
    margin: float | None = None,
    over: Literal["base", "seed"] = "base",
    between: tuple[float, float] | None = None,
) -> Matched:
    """Compare two sets of runs where they have equal held-out misalignment, norm, loss or step.

    Args:
        study: folder of a study, with its tables.
        first: a set: an arm, an optimiser, `field=value`, or several of these joined by `+`.
        second: the other set; every difference is the first minus the second.
        other: the study of the second set; None for the same one.
        at: held-out, norm, trained-loss, excess-trained or step.
        of: outcome that is compared: broad, self, held-out or trained.
        scale: pooled (default) or per-question log-odds of the microworld; pairs are in nats.
        dial: what orders the points of a curve: lr, step, a numeric field of runs, or `at` for what is matched on,
            which makes no branches; chosen where it is None.
        margin: largest difference that does not matter; .35 log-odds where it is None, and none for nats.
        over: base, or seed where there is one base only.
        between: levels of the matching variable that count, in its own unit; all where it is None.

    Raises:
        RunDirectoryError: a folder without tables.
        IntegrityError: a table that cannot be read.
        SpecError, UnknownNameError: an unknown arm, field, outcome or matching variable; runs without what is matched;
            no base in common, or one only; studies whose scales differ.
    """
    from narrowly.analysis.matching.runs import match_tables, read_organisms

    folders = Path(study), Path(study if other is None else other)
    own = read_organisms(folders[0] / TABLES, folders[0].name)
    against = own if other is None else read_organisms(folders[1] / TABLES, folders[1].name)
    return match_tables(
        (own, against), (first, second), at=at, of=of, scale=scale, dial=dial, margin=margin, over=over, between=between
    )
