from __future__ import annotations

import polars as pl

from narrowly.analysis.frames import ways


def checkpoint(cell_id: str, arm: str, base: str, step: int, final: bool, alignment: float) -> dict:
    row = {"cell_id": cell_id, "arm": arm, "base": base, "step": step, "final": final, "alignment": alignment}
    return {**row, "broad": 0.1, "excess_loss": 1.0, "held_out": 0.1}


PATH = pl.DataFrame(
    [
        checkpoint("sgd-0", "sgd", "micro-0", 0, False, 99.0),
        checkpoint("sgd-0", "sgd", "micro-0", 80, True, 8.0),
        checkpoint("adam-0", "adam", "micro-0", 10, False, 95.0),
        checkpoint("adam-0", "adam", "micro-0", 80, True, 30.0),
        checkpoint("lion-0", "lion", "micro-0", 80, True, 40.0),
    ]
)


def steps(arm: str) -> list[int]:
    return ways(PATH).filter(pl.col("arm") == arm)["step"].to_list()


def test_a_run_evaluated_in_between_starts_at_its_base_although_another_arm_carries_it():
    assert steps("adam") == [0, 10, 80]
    start = ways(PATH).filter((pl.col("arm") == "adam") & (pl.col("step") == 0))
    assert start["alignment"].to_list() == [99.0]
    assert start["cell_id"].to_list() == ["adam-0"]


def test_a_run_without_checkpoints_in_between_keeps_only_its_end():
    assert steps("sgd") == [80]
    assert steps("lion") == [80]


def test_a_base_that_was_never_evaluated_gives_no_start():
    assert ways(PATH.filter(pl.col("step") > 0)).filter(pl.col("step") == 0).is_empty()
