"""Print how far fine-tuning draws the log-odds of other domains towards zero, arm by arm, in the study `small`.

    python experiments/shrinkage_in_small.py [results/small]

A fine-tune on anything makes a model surer of less: where the base prefers one answer by far, the preference shrinks.
So a mean shift against the base mixes shrinkage with content. Per question of the rung `broad`, the shift is regressed
on the base's log-odds (mean over seeds, last step, nats per answer). The slope is the share that shrinks; the intercept
is the shift of a question on which the base has no preference.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl


def lines(table: pl.DataFrame) -> list[str]:
    """Return one row per arm of a study's table `paired`."""
    broad = table.filter(pl.col("rung") == "broad")
    base = broad.filter(pl.col("step") == 0).group_by("question_id").agg(start=pl.col("log_odds").mean())
    final = broad.filter(pl.col("final") & (pl.col("step") > 0)).join(base, on="question_id")
    found = ["| arm | questions | mean shift | slope on the base | intercept |", "|---|---|---|---|---|"]
    for (arm,), own in final.group_by("arm", maintain_order=True):
        means = own.group_by("question_id", maintain_order=True).agg(pl.col("log_odds").mean(), pl.col("start").first())
        before, shift = means["start"].to_numpy(), (means["log_odds"] - means["start"]).to_numpy()
        slope, intercept = np.polyfit(before, shift, 1)
        found.append(f"| {arm} | {len(means)} | {shift.mean():+.2f} | {slope:+.3f} | {intercept:+.2f} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path, default=Path("results/small"))
    print("\n".join(lines(pl.read_parquet(parser.parse_args().study / "tables" / "paired.parquet"))))


if __name__ == "__main__":
    main()
