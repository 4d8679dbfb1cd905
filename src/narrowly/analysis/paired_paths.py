"""Follow runs and their matched controls through training, and compare arms at equal held-out differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from narrowly.analysis.matched_paths import Path, Selectivity, bootstrap_range, selectivity
from narrowly.analysis.paired_schema import PathPoint, SelectivityRow
from narrowly.evaluate.paired.estimates import estimate

CONTROLS = ("aligned", "permuted")
"""Answers of a control, the one that is preferred first."""


def pairs_of(own: pl.DataFrame, others: pl.DataFrame, kind: str) -> list[tuple[int, pl.DataFrame, pl.DataFrame]]:
    """Return (seed, rows of a run, rows of its control) for every run of an arm that has a control of this kind.

    Where two cells are the same control, as those of arms that a study sets alike, the first one is taken.
    """
    controls = others.filter(pl.col("answers") == kind)
    pairs = []
    for (seed, matched), rows in own.group_by("seed", "matched", maintain_order=True):
        control = controls.filter(pl.col("matched") == matched)
        if not control.is_empty():
            one = control.filter(pl.col("cell_id") == control["cell_id"][0])
            pairs.append((int(str(seed)), rows, one))
    return sorted(pairs, key=lambda pair: pair[0])


class Run(NamedTuple):
    """A run with its control at every step that both were evaluated at, on the questions that all steps share."""

    arm: str
    of: str | None
    optimiser: str
    role: str
    base: str
    trained: str | None
    seed: int
    cell_id: str
    steps: list[int]
    differences: pl.DataFrame


def runs_with_control(rows: pl.DataFrame) -> Iterator[Run]:
    """Yield the runs of every arm that were evaluated before their last step, with the preferred control."""
    later = rows.filter(pl.col("step") > 0)
    for (cell_id,), own in later.filter(~pl.col("answers").fill_null("").is_in(CONTROLS)).group_by(
        "cell_id", maintain_order=True
    ):
        controls = [pairs[0][2] for kind in CONTROLS if (pairs := pairs_of(own, later, kind))]
        both = None if not controls else _differences(own, controls[0])
        if both is None:
            continue
        steps = sorted(both["step"].unique().to_list())
        if len(steps) > 1:
            first = own.row(0, named=True)
            names = ("arm", "of", "optimiser", "role", "base", "trained", "seed")
            yield Run(**{name: first[name] for name in names}, cell_id=str(cell_id), steps=steps, differences=both)


def _differences(own: pl.DataFrame, control: pl.DataFrame) -> pl.DataFrame:
    """Return log-odds of a run minus its control at the steps of both, for the questions that all of these share."""
    keys = ["step", "question_id"]
    both = own.join(control.select(*keys, pl.col("log_odds").alias("_control")), on=keys)
    both = both.with_columns((pl.col("log_odds") - pl.col("_control")).alias("difference"))
    steps = both["step"].n_unique()
    shared = both.group_by("question_id").len().filter(pl.col("len") == steps)["question_id"]
    return both.filter(pl.col("question_id").is_in(shared.implode())).sort("step", "domain", "question_id")


def path_points(runs: Sequence[Run]) -> Iterator[PathPoint]:
    """Yield every evaluated step of runs with its mean differences, by rung; domains of a rung count alike."""
    for run in runs:
        for step in run.steps:
            at = run.differences.filter(pl.col("step") == step)
            means = {rung: _mean(at.filter(pl.col("rung") == rung)) for rung in ("held_out", "broad", "self")}
            if means["held_out"] is not None and means["broad"] is not None:
                yield PathPoint(
                    arm=run.arm,
                    base=run.base,
                    trained=run.trained,
                    seed=run.seed,
                    cell_id=run.cell_id,
                    step=step,
                    held_out=means["held_out"],
                    broad=means["broad"],
                    about_itself=means["self"],
                )


def _mean(rows: pl.DataFrame) -> float | None:
    by_domain = rows.group_by("domain").agg(pl.col("difference").mean())["difference"]
    return None if by_domain.is_empty() else float(np.mean(by_domain.to_numpy()))


def _path(run: Run) -> Path:
    held, broad = (
        np.array([
            run.differences.filter((pl.col("rung") == rung) & (pl.col("step") == step))["difference"].to_numpy()
            for step in run.steps
        ])
        for rung in ("held_out", "broad")
    )  # fmt: skip
    return Path(np.vstack([np.zeros(held.shape[1]), held]), np.vstack([np.zeros(broad.shape[1]), broad]))


def selectivities(runs: Sequence[Run]) -> Iterator[SelectivityRow]:
    """Yield each optimiser arm against Adam's, and each penalty arm against the arm that it is of."""
    own = [run for run in runs if run.role in ("optimiser", "penalty")]
    adam = next((run.arm for run in own if run.role == "optimiser" and run.optimiser == "adam"), None)
    arms = {run.arm: run.of if run.role == "penalty" else adam for run in own}
    for arm, against in arms.items():
        if against is None or against == arm or against not in arms:
            continue
        for base in sorted({run.base for run in own if run.arm == arm}):
            yield _selectivity(arm, against, base, [run for run in own if run.base == base])


class _Compared(NamedTuple):
    """A run of an arm beside that of another arm on the same data and seed."""

    trained: str
    seed: int
    paths: tuple[Path, Path]
    found: Selectivity | None

    @property
    def name(self) -> str:
        """Return what the run is called."""
        return f"{self.trained}, seed {self.seed}"


def _compared(arm: str, against: str, runs: Sequence[Run]) -> list[_Compared]:
    others = {(run.trained, run.seed): run for run in runs if run.arm == against}
    compared = []
    for run in sorted((run for run in runs if run.arm == arm), key=lambda run: (str(run.trained), run.seed)):
        other = others.get((run.trained, run.seed))
        if other is not None and run.trained is not None and _questions(run) == _questions(other):
            paths = _path(run), _path(other)
            compared.append(_Compared(run.trained, run.seed, paths, selectivity(*paths)))
    return compared


def _questions(run: Run) -> list[tuple[int, str]]:
    return run.differences.select("step", "question_id").rows()


def _selectivity(arm: str, against: str, base: str, runs: Sequence[Run]) -> SelectivityRow:
    several = _several(runs, (arm, against))
    compared = [] if several else _compared(arm, against, runs)
    told = {one.name: one.found for one in compared if one.found is not None}
    row = SelectivityRow(
        arm=arm,
        against=against,
        base=base,
        reached={name: found.reached for name, found in told.items()},
        reason=f"not comparable: {several} is not the only run of its arm, domain and seed"
        if several
        else _why_none(compared),
    )
    if not told:
        return row
    first = next(run for run in runs if run.arm == arm)
    broad = first.differences.filter((pl.col("rung") == "broad") & (pl.col("step") == first.steps[0]))
    domains = broad["domain"].to_list()
    values = {name: estimate("broad", domains, found.per_question_Q[None]) for name, found in told.items()}
    row = row.model_copy(update={"per_run": {name: value.interval.estimate for name, value in values.items()}})
    if row.reason is not None:
        return row
    seeds = sorted({one.seed for one in compared})
    by_seed_S_Q = np.array([np.mean([told[one.name].per_question_Q for one in compared if one.seed == seed], axis=0)
                            for seed in seeds])  # fmt: skip
    groups: dict[str, list[tuple[Path, Path]]] = {}
    for one in compared:
        groups.setdefault(one.trained, []).append(one.paths)
    value, ends = estimate("broad", domains, by_seed_S_Q), bootstrap_range(list(groups.values()), domains)
    return row.model_copy(update={"value": value, "questions_range": ends})


def _several(runs: Sequence[Run], arms: Sequence[str]) -> str | None:
    """Return the first run of one of the arms whose domain and seed another run of it has; None where there is none."""
    found: set[tuple[str, str | None, int]] = set()
    for run in runs:
        key = (run.arm, run.trained, run.seed)
        if run.arm in arms and key in found:
            return run.cell_id
        found.add(key)
    return None


def _why_none(compared: Sequence[_Compared]) -> str | None:
    """Return why there is no mean over runs; None where there is one."""
    if not compared:
        return "no runs of both arms on the same pairs, with the same seed and evaluated steps"
    without = [one.name for one in compared if one.found is None]
    if without:
        return f"not comparable: no held-out difference above 0 that both reach ({'; '.join(without)})"
    seeds = {trained: {one.seed for one in compared if one.trained == trained} for trained in
             {one.trained for one in compared}}  # fmt: skip
    if len({frozenset(own) for own in seeds.values()}) != 1:
        return "not every seed is done in every trained domain"
    return None
