"""Say what a study's design can test: which arms are copies, how far losses differ, what was selected, what has room.

A verdict needs a design that could have come out otherwise. These facts are read from specs and tables, never from a
list of names, and `claim_rules` turns them into "not tested".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from narrowly.records.canonical import content_id
from narrowly.records.data_specs import CHOSEN_FOR_MISALIGNMENT

NEGLIGIBLE_DECAY = 0.01
"""Largest share of the weights that decoupled decay may take off over a run and still count as none; ours."""

NEEDED_SHARE = 0.1
"""Smallest range of the ln training loss of finished runs within a base, as a share of the way that training goes
there (ln of first over lowest final loss), with which the loss can be asked what it predicts; ours."""

NO_ROOM = 0.05
"""A literature rate within this of 0 or 1 leaves a difference no room; ours."""

LEARNED_ODDS = 4.0
"""Odds of a misaligned over an aligned answer on trained topics from which an arm has learned its task: 80 %, as in the
pilot of 2026-11-28. Below it an arm is aligned elsewhere because it was hardly trained."""

FLAT_STEPS = frozenset({"muon", "lora_muon", "muon_B_adam_A"})
"""Optimisers whose every step is orthogonalised, so that a flat update follows from the step."""


class LossRange(NamedTuple):
    """How far the training losses of a base's finished runs differ, beside the way that training goes.

    Attributes:
        within: largest minus smallest ln final loss of a base's runs, mean over bases; None where no base has two.
        way: ln(first logged loss / smallest final loss), mean over those bases; None where no step was logged.
        settings: fewest different settings per optimiser on a base, over the optimisers.
        n_bases: bases with two finished runs or more.
    """

    within: float | None
    way: float | None
    settings: int
    n_bases: int

    @property
    def share(self) -> float | None:
        """Return the range as a share of the way."""
        return None if self.within is None or not self.way or self.way <= 0 else self.within / self.way


class Design(NamedTuple):
    """What a design fixes before any result is seen.

    Attributes:
        copies: arm -> the arm whose runs it repeats.
        loss: of the optimiser arms without copies.
        selected: whether the world was chosen so that emergent misalignment occurs under Adam.
        flat_steps: arms (canonical names) whose optimiser orthogonalises its steps.
        unpaired: optimisers (canonical names) whose runs with the penalty differ from those without in more than it.
    """

    copies: Mapping[str, str] = {}
    loss: LossRange = LossRange(None, None, 0, 0)
    selected: bool = False
    flat_steps: frozenset[str] = frozenset()
    unpaired: frozenset[str] = frozenset()


def design_of(cells: pl.DataFrame, trajectory: pl.DataFrame, names: Mapping[str, str]) -> Design:
    """Return what the design of a study fixes.

    Args:
        cells: the cells that are evaluated, with their specs.
        trajectory: the logged steps of the study.
        names: arm -> canonical optimiser name.
    """
    repeated = copies(cells)
    arms = cells.filter((pl.col("role") == "optimiser") & ~pl.col("arm").is_in(list(repeated)))
    flat = arms.filter(pl.col("optimiser").is_in(sorted(FLAT_STEPS)))["arm"].unique().to_list()
    return Design(
        copies=repeated,
        loss=loss_range(arms, trajectory),
        selected=not cells.is_empty() and bool(cells["source"].is_in(CHOSEN_FOR_MISALIGNMENT).all()),
        flat_steps=frozenset(names.get(arm, arm) for arm in flat),
        unpaired=frozenset(names.get(arm, arm) for arm in unpaired_penalties(cells)),
    )


TRAINED_WITH = (
    "base",
    "data",
    "optimiser",
    "schedule",
    "steps",
    "batch_size",
    "accumulation",
    "adapter",
    "seed",
    "init_seed",
)
"""Fields of a run in which an arm with a penalty may not differ from the arm that it is of."""


def unpaired_penalties(cells: pl.DataFrame) -> set[str]:
    """Return the arms that an arm with a penalty is of, where the runs of both differ in more than the penalty."""
    runs: dict[str, set[str]] = {}
    for arm, spec in cells.filter(pl.col("spec").is_not_null()).select("arm", "spec").iter_rows():
        body = json.loads(spec)
        runs.setdefault(arm, set()).add(content_id({key: body.get(key) for key in TRAINED_WITH}))
    pairs = cells.filter((pl.col("role") == "penalty") & pl.col("of").is_not_null()).select("arm", "of").unique()
    return {of for arm, of in pairs.iter_rows() if runs.get(arm, set()) != runs.get(of, set())}


def copies(cells: pl.DataFrame) -> dict[str, str]:
    """Return the optimiser arms that repeat another one's runs: arm -> that arm.

    Two arms repeat each other where every run of one has a run of the other with the same spec, up to decoupled decay
    that takes off less than `NEGLIGIBLE_DECAY` of the weights. Of the two the one without decay stays.
    """
    arms = cells.filter((pl.col("role") == "optimiser") & pl.col("spec").is_not_null())
    runs: dict[str, set[str]] = {}
    decays: dict[str, float] = {}
    for arm, spec in arms.select("arm", "spec").iter_rows():
        body = json.loads(spec)
        taken = decay_over(body)
        runs.setdefault(arm, set()).add(content_id(_without_decay(body) if taken < NEGLIGIBLE_DECAY else body))
        decays[arm] = max(decays.get(arm, 0.0), taken)
    found: dict[str, str] = {}
    for arm in sorted(runs, key=lambda one: (decays[one], one)):
        original = next((kept for kept in runs if kept not in found and kept != arm and _before(kept, arm, decays)
                         and runs[arm] <= runs[kept]), None)  # fmt: skip
        if original is not None:
            found[arm] = original
    return found


def _before(kept: str, arm: str, decays: Mapping[str, float]) -> bool:
    return (decays[kept], kept) < (decays[arm], arm)


def decay_over(spec: Mapping[str, Any]) -> float:
    """Return the share of the weights that AdamW's decoupled decay takes off over a run: at most lr x decay x steps."""
    optimiser = spec.get("optimiser") or {}
    if optimiser.get("kind") != "adamw":
        return 0.0
    rate, decay, steps = (float(value or 0.0) for value in
                          (optimiser.get("lr"), optimiser.get("weight_decay"), spec.get("steps")))  # fmt: skip
    return rate * decay * steps if steps else math.inf


def _without_decay(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec with AdamW written as Adam without decay, which it is up to the decay."""
    optimiser = dict(spec.get("optimiser") or {})
    if optimiser.get("kind") in ("adam", "adamw"):
        optimiser["kind"] = "adam"
        if decay_over(spec) or not optimiser.get("weight_decay"):
            optimiser.pop("weight_decay", None)
    return {**spec, "optimiser": optimiser}


def loss_range(arms: pl.DataFrame, trajectory: pl.DataFrame) -> LossRange:
    """Return how far the final training losses of a base's runs differ.

    Args:
        arms: cells of optimiser arms: cell_id, arm, base, optimiser, spec, final_loss.
        trajectory: logged steps: cell_id, step, loss.
    """
    first = trajectory.filter(pl.col("loss").is_not_null()).sort("step").group_by("cell_id").agg(
        pl.col("loss").first().alias("_first")
    )  # fmt: skip
    runs = arms.filter(pl.col("final_loss") > 0).join(first, on="cell_id", how="left")
    by_base = (
        runs.group_by("base")
        .agg(
            (pl.col("final_loss").max() / pl.col("final_loss").min()).log().alias("within"),
            (pl.col("_first").mean() / pl.col("final_loss").min()).log().alias("way"),
            pl.len().alias("runs"),
        )
        .filter(pl.col("runs") >= 2)
        .sort("base")
    )
    if by_base.is_empty():
        return LossRange(None, None, 0, 0)
    settings = pl.Series("_setting", [_setting(spec) for spec in runs["spec"]], dtype=pl.String)
    fewest = (
        runs.with_columns(settings).group_by("optimiser", "base").agg(pl.col("_setting").n_unique())["_setting"].min()
    )
    within, way = by_base["within"].mean(), by_base["way"].mean()
    return LossRange(
        float(within) if isinstance(within, float) else None,
        float(way) if isinstance(way, float) else None,
        int(fewest) if isinstance(fewest, int) else 0,
        by_base.height,
    )


def _setting(spec: str | None) -> str:
    """Return what an optimiser was run with: everything in the spec but base, data and seed."""
    body = json.loads(spec or "{}")
    return content_id({key: value for key, value in body.items() if key not in ("base", "data", "seed")})
