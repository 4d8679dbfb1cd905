"""Epochs beside steps, and a default warm-up that refuses nothing: what a run is does not depend on how it was said."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowly.records.errors import SpecError
from narrowly.records.mappings import merge
from narrowly.records.run_spec import ResolvedInputs, RunSpec, load_run_spec, run_id
from narrowly.records.study_spec import parse_study
from narrowly.study.cost import estimated_rows
from narrowly.study.pace import default_seconds
from narrowly.study.plan import expand, not_evaluated
from narrowly.train.inputs import load_inputs
from narrowly.train.run import train_run
from tiny_base import SHORT_RUN

Tiny = tuple[Path, Path]
ADAM = {"optimiser": {"kind": "adam", "lr": 1e-3}}
TEXT = {"source": "text", "dataset": "rows.jsonl"}
INPUTS = ResolvedInputs(**{name: "a" * 64 for name in ResolvedInputs.model_fields})


def spec(**fields: Any) -> RunSpec:
    return RunSpec.model_validate(ADAM | fields)


@pytest.mark.parametrize(
    ("epochs", "rows", "batch", "steps"),
    [(1, 640, 8, 80), (0.1, 640, 8, 8), (2.5, 33, 8, 11), (0.001, 40, 8, 1), (3, 7, 8, 3)],
)
def test_epochs_are_rounded_up_to_whole_steps_in_exact_arithmetic(
    epochs: float, rows: int, batch: int, steps: int
) -> None:
    assert spec(epochs=epochs, batch_size=batch, data={"rows": rows, "source": "micro"}).steps == steps
    assert spec(epochs=epochs, batch_size=batch, data=TEXT).counted(rows).steps == steps


@given(st.integers(1, 400), st.integers(1, 1000), st.integers(1, 16), st.integers(1, 4))
def test_no_row_of_an_epoch_is_left_out_and_no_step_more_than_needed(
    tenths: int, rows: int, batch: int, accumulation: int
) -> None:
    wanted = spec(epochs=tenths / 10, batch_size=batch, accumulation=accumulation, data=TEXT).counted(rows).steps
    assert (wanted - 1) * batch * accumulation * 10 < tenths * rows <= wanted * batch * accumulation * 10
    assert wanted == ceil(Fraction(tenths, 10) * rows / (batch * accumulation))


def test_the_run_id_is_that_of_the_steps() -> None:
    by_epochs, by_steps = spec(epochs=1), spec(steps=80)
    assert by_epochs == by_steps
    assert run_id(by_epochs, INPUTS) == run_id(by_steps, INPUTS) == run_id(spec(), INPUTS)
    assert spec(epochs=2, data=TEXT).counted(40) == spec(steps=10, data=TEXT)


def test_what_is_not_counted_yet_survives_json_and_has_no_checkpoints() -> None:
    written = spec(epochs=2, data=TEXT)
    assert "steps" not in written.model_dump()
    again = RunSpec.model_validate_json(written.model_dump_json())
    assert again == written
    assert again.counted(12).schedule.warmup_steps == 2  # 3 steps
    with pytest.raises(SpecError, match="epochs is 2"):
        written.checkpoint_steps()


def test_a_typed_warm_up_is_not_shortened_by_epochs_either_also_once_it_was_written_as_json() -> None:
    typed = spec(epochs=1, data=TEXT, schedule={"warmup_steps": 5})
    for one in (typed, RunSpec.model_validate_json(typed.model_dump_json())):
        assert one.counted(48).schedule.warmup_steps == 5
        with pytest.raises(SpecError, match=r"schedule.warmup_steps is 5, accepted: less than steps \(3\)"):
            one.counted(24)


def test_both_at_once_are_refused_and_an_override_takes_the_place_of_the_other(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"steps is 40 and epochs is 2, accepted: one of them"):
        RunSpec(**ADAM, steps=40, epochs=2)
    file = tmp_path / "run.yaml"
    file.write_text("optimiser: {kind: adam, lr: 1e-3}\nsteps: 40\nepochs: 2\n")
    with pytest.raises(SpecError, match=r"steps is 40 and epochs is 2, accepted: one of them"):
        load_run_spec(file)
    file.write_text("optimiser: {kind: adam, lr: 1e-3}\nsteps: 40\n")
    assert load_run_spec(file, ["epochs=0.5"]).steps == 40
    assert load_run_spec(file, ["epochs=1"]).steps == 80
    assert load_run_spec(file, ["epochs=1", "steps=7"]).steps == 7
    assert merge({"steps": 4}, {"steps": 4, "epochs": 1}) == {"steps": 4, "epochs": 1}


@pytest.mark.parametrize("value", [0, -1, "two", float("nan")])
def test_epochs_that_are_no_length_are_refused(value: Any) -> None:
    with pytest.raises(SpecError, match="epochs: found"):
        RunSpec(**ADAM, epochs=value)


@pytest.mark.parametrize("steps", [1, 2, 5, 6, 80])
def test_the_default_warm_up_fits_every_length(steps: int) -> None:
    assert spec(steps=steps).schedule.warmup_steps == min(5, steps - 1)
    assert spec(steps=steps, schedule={"kind": "cosine"}).schedule.warmup_steps == min(5, steps - 1)


def test_a_warm_up_of_the_optimisers_own_takes_the_default_ones_place_and_two_typed_ones_are_refused() -> None:
    own = {"optimiser": {"kind": "schedulefree_adamw", "lr": 1e-3, "warmup_steps": 10}}
    assert RunSpec(**own).schedule.warmup_steps == 0
    with pytest.raises(SpecError, match="accepted: one warm-up"):
        RunSpec(**own, schedule={"warmup_steps": 3})


def test_everything_that_does_not_fit_together_is_said_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec(**ADAM, method="full", adapter={"r": 4}, penalty={"lam": 0.1}, base_dtype="nf4")
    assert all(words in str(caught.value) for words in ("nf4 with data.source micro", "adapter.r", "penalty is given"))


def test_a_study_sweeps_epochs_over_batch_sizes() -> None:
    study = {
        "name": "tiny",
        "run": {"epochs": 1, **ADAM},
        "grid": {"batch_size": [4, 16], "seed": [0]},
        "arms": {"adam": {"role": "optimiser"}, "twice": {"set": {"epochs": 2}}, "steps": {"set": {"steps": 30}}},
        "exclude": [{"epochs": 2, "batch_size": 16}],
    }
    cells = expand(parse_study(study, "tiny.yaml"))
    assert {cell.cell_id: cell.spec.steps for cell in cells} == {
        "adam-batch_size4-seed0": 160,
        "adam-batch_size16-seed0": 40,
        "twice-batch_size4-seed0": 320,
        "steps-batch_size4-seed0": 30,
        "steps-batch_size16-seed0": 30,
    }


def test_a_plan_of_epochs_over_text_estimates_the_rows_it_can_count(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n' * 10)
    data = {**TEXT, "dataset": str(file), "holdout": 2}
    study = {"name": "t", "run": {"epochs": 1, "data": data, **ADAM}, "arms": {"adam": {"role": "optimiser"}}}
    (cell,) = expand(parse_study(study, "t.yaml"))
    assert estimated_rows(cell.spec.data) == 8
    assert default_seconds(cell) is not None
    assert "answers at the last step" in str(not_evaluated(cell))
    (unknown,) = expand(parse_study({**study, "run": {"epochs": 1, "data": TEXT, **ADAM}}, "t.yaml"))
    assert default_seconds(unknown) is None


def test_a_run_of_epochs_counts_its_rows_and_is_the_run_of_those_steps(tiny: Tiny, tmp_path: Path) -> None:
    fields = {**SHORT_RUN, "base": str(tiny[0]), "data": {"source": "rows", "path": str(tiny[1])}}
    by_steps = RunSpec.model_validate({**fields, "steps": 5})
    del fields["steps"]
    by_epochs = RunSpec.model_validate({**fields, "epochs": 0.5})  # of 40 rows, in batches of 4
    assert load_inputs(by_epochs).spec == by_steps
    run = train_run(by_epochs, tmp_path)
    assert train_run(by_steps, tmp_path) == run
    assert '"steps": 5' in (run / "spec.json").read_text()
