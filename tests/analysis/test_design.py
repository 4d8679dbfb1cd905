"""What a design fixes is read from specs and tables (copies, losses, selection), and decides what is tested."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

from narrowly.analysis.contrasts import missing_contrast
from narrowly.analysis.design import NEEDED_SHARE, Design, copies, design_of, loss_range, unpaired_penalties
from narrowly.analysis.evidence import Evidence
from narrowly.analysis.paper_claims import verdicts_on
from narrowly.stats.regression import alignment_on_loss
from narrowly.study.plan import expand, find_study

OPTIMISERS = ("adam", "lion", "muon")


def cells_of(arms, bases=("b0", "b1")):
    """Return one cell per arm and base; an arm is the optimiser part of its spec."""
    rows = [
        {
            "cell_id": f"{arm}-{base}", "arm": arm, "role": "optimiser", "of": None, "base": base,
            "source": "micro", "optimiser": optimiser["kind"], "final_loss": 0.5,
            "spec": json.dumps({"base": base, "steps": 80, "seed": 0, "optimiser": optimiser}),
        }
        for arm, optimiser in arms.items()
        for base in bases
    ]  # fmt: skip
    return pl.DataFrame(rows)


ADAM = {"kind": "adam", "lr": 3e-4, "beta1": 0.9, "weight_decay": 0.0}
ADAMW = {"kind": "adamw", "lr": 3e-4, "beta1": 0.9, "weight_decay": 0.01}


def test_adamw_at_adams_rate_is_a_copy_because_its_decay_takes_off_nothing():
    """F7: decay .01 x 3e-4 x 80 steps shrinks the weights by .024 %."""
    assert copies(cells_of({"adam": ADAM, "adamw": ADAMW})) == {"adamw": "adam"}


@pytest.mark.parametrize(
    "other",
    [
        {**ADAMW, "weight_decay": 10.0}, {**ADAMW, "lr": 6e-4}, {**ADAMW, "beta1": 0.8}, {"kind": "lion", "lr": 3e-4},
        {**ADAM, "kind": "adam", "weight_decay": 0.01},
    ],
)  # fmt: skip
def test_another_decay_rate_beta_or_optimiser_is_no_copy(other):
    assert copies(cells_of({"adam": ADAM, "other": other})) == {}


def test_an_arm_is_a_copy_only_where_each_of_its_runs_has_one_in_the_other_arm():
    both = cells_of({"adam": ADAM, "adamw": ADAMW}, bases=("b0", "b1", "b2"))
    without = both.filter(pl.col("cell_id") != "adam-b2")
    assert copies(without) == {} and copies(both.filter(pl.col("cell_id") != "adamw-b2")) == {"adamw": "adam"}


def test_three_arms_alike_are_copies_of_one():
    found = copies(cells_of({"a": ADAMW, "adam": ADAM, "b": ADAM}))
    assert found == {"a": "adam", "b": "adam"}


def logged(cells, first=2.0):
    steps = [(1, first), (80, None)]
    rows = [{"cell_id": cell, "step": step, "loss": loss} for cell in cells["cell_id"] for step, loss in steps]
    return pl.DataFrame(rows, schema={"cell_id": pl.String, "step": pl.Int64, "loss": pl.Float64})


def test_the_range_of_losses_is_within_bases_and_beside_the_way_that_training_goes():
    cells = cells_of({"adam": ADAM, "lion": {"kind": "lion", "lr": 1e-4}}).with_columns(
        # base b1 is worse throughout, which is no range within a base
        final_loss=pl.Series([0.5, 1.0, 0.55, 1.1])
    )
    found = loss_range(cells, logged(cells))
    assert found.within == pytest.approx(math.log(1.1)) and found.n_bases == 2 and found.settings == 1
    assert found.way == pytest.approx((math.log(2 / 0.5) + math.log(2 / 1.0)) / 2)
    assert found.share == pytest.approx(found.within / found.way)
    assert loss_range(cells, logged(cells).clear()).share is None


def test_one_run_per_base_has_no_range():
    cells = cells_of({"adam": ADAM})
    assert loss_range(cells, logged(cells)).within is None


def test_two_rates_of_an_optimiser_are_two_settings_and_two_seeds_are_one():
    rates = cells_of({"adam": ADAM, "fast": {**ADAM, "lr": 1e-3}}).with_columns(arm=pl.lit("adam"))
    assert loss_range(rates, logged(rates)).settings == 2
    seeds = cells_of({"adam": ADAM, "again": ADAM}).with_columns(
        pl.col("spec").str.replace('"seed": 0', pl.when(pl.col("arm") == "again").then(pl.lit('"seed": 1'))
                                   .otherwise(pl.lit('"seed": 0')))
    )  # fmt: skip
    assert loss_range(seeds, logged(seeds)).settings == 1


def test_the_design_of_the_microworld_is_selected_and_muons_steps_are_flat():
    cells = cells_of({"adam": ADAM, "muon_slow": {"kind": "muon", "lr": 1e-3}})
    found = design_of(cells, logged(cells), {"adam": "adam", "muon_slow": "muon"})
    assert found.selected and found.flat_steps == {"muon"}
    assert not design_of(cells.with_columns(source=pl.lit("rows")), logged(cells), {}).selected


def simulated(seed, spread, slope, rates):
    """Return the verdicts on a world in which alignment depends on the loss by `slope`, at losses `spread` apart.

    Args:
        seed: of the noise.
        spread: range of ln loss within a base.
        slope: logits of alignment per unit of ln loss.
        rates: learning rates per optimiser.
    """
    rng = np.random.default_rng(seed)
    rows, points = [], []
    for base in range(8):
        level = rng.normal(0, 0.1)
        for kind in OPTIMISERS:
            for rate in range(rates):
                loss = 0.46 * math.exp(rng.uniform(0, spread))
                logit = level + slope * (math.log(loss / 0.46) - spread / 2) + rng.normal(0, 0.3)
                spec = {"base": f"b{base}", "optimiser": {"kind": kind, "lr": rate + 1}, "steps": 80}
                rows.append({
                    "cell_id": f"{kind}-{rate}-{base}", "arm": kind, "role": "optimiser", "of": None,
                    "base": f"b{base}", "optimiser": kind, "source": "rows", "final_loss": loss,
                    "spec": json.dumps(spec),
                })  # fmt: skip
                points.append((loss, 100 / (1 + math.exp(-logit)), kind, f"b{base}"))
    cells = pl.DataFrame(rows)
    nothing = missing_contrast("not simulated")
    evidence = Evidence(
        joint={}, literature={}, n_bases=8, odds={}, bounds=({}, {}), flatness={}, incoherence={},
        regression=alignment_on_loss(*(list(column) for column in zip(*points, strict=True))), gains={},
        norm_ratios={}, costs={}, onset=nothing, design=design_of(cells, logged(cells), {}),
        planned=frozenset(OPTIMISERS),
    )  # fmt: skip
    return evidence, {row.id: row for row in verdicts_on(evidence)}


@pytest.mark.parametrize("seed", range(5))
def test_loss_predicts_is_not_tested_where_rates_were_tuned_to_equal_loss(seed):
    """F4: a law that explains most of the variance at varied rates is invisible in runs tuned to equal loss."""
    evidence, verdicts = simulated(seed, spread=0.03, slope=6.0, rates=1)
    assert evidence.design.loss.share < NEEDED_SHARE
    low, high = evidence.regression.pooled.r2_interval
    assert high < 0.6 and low < 0.3, "without the limit the law would look refuted or open"
    for key in ("loss_predicts", "optimiser_beats_loss", "optimiser_explains_rest"):
        assert verdicts[key].verdict == "not tested" and "range restriction" in verdicts[key].not_tested


@pytest.mark.parametrize("seed", range(5))
def test_loss_predicts_is_decided_where_rates_were_varied(seed):
    _, lawful = simulated(seed, spread=0.5, slope=6.0, rates=5)
    assert lawful["loss_predicts"].verdict == "agrees"
    _, lawless = simulated(seed, spread=0.5, slope=0.0, rates=5)
    assert lawless["loss_predicts"].verdict == "disagrees"
    assert lawless["optimiser_explains_rest"].verdict != "not tested"


def test_the_default_design_tests_nothing_about_losses():
    assert Design().loss.share is None


def test_the_study_micro_runs_no_copy_and_evaluates_steps_of_every_optimiser_so_that_each_has_a_path():
    cells = [cell for cell in expand(find_study("micro")) if cell.role == "optimiser"]
    planned = pl.DataFrame([
        {"arm": cell.arm, "role": cell.role, "spec": json.dumps(cell.spec.model_dump(mode="json"))} for cell in cells
    ])  # fmt: skip
    assert set(planned["arm"]) == {"sgd", "adam", "lion", "muon"} and copies(planned) == {}
    assert all(len(cell.evaluated_steps()) >= 3 for cell in cells)


def test_a_penalty_at_another_rate_is_not_compared_with_the_arm_that_it_is_of():
    def row(arm, lr, **more):
        spec = {"optimiser": {"kind": "adam", "lr": lr}, "steps": 80, **more}
        role = "penalty" if more.get("penalty") else "optimiser"
        return {"arm": arm, "role": role, "of": "adam" if role == "penalty" else None, "spec": json.dumps(spec)}

    plain = [row("adam", 3e-4), row("adam", 6e-4)]
    same = [row("flat", lr, penalty={"lam": 1}, checkpoints=9) for lr in (3e-4, 6e-4)]
    assert unpaired_penalties(pl.DataFrame([*plain, *same])) == set()
    assert unpaired_penalties(pl.DataFrame([*plain, same[0]])) == {"adam"}
    assert unpaired_penalties(pl.DataFrame([*plain, same[0], row("flat", 1e-3, penalty={"lam": 1})])) == {"adam"}
