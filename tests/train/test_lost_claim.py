"""A run whose claim was taken over while its process was away: nothing that it still computes is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from narrowly.records.errors import ClaimLostError
from narrowly.records.files import read_json, read_jsonl, write_json
from narrowly.runs.directory import claim_file
from narrowly.train.run import run_directory, train_run
from tiny_base import make_spec

Tiny = tuple[Path, Path]


@pytest.mark.parametrize("taken_at", [3, 6])
def test_the_next_row_the_next_state_and_done_are_refused_and_the_new_holder_keeps_its_claim(
    tiny: Tiny, tmp_path: Path, taken_at: int
) -> None:
    spec, runs = make_spec(*tiny), tmp_path / "runs"
    folder = run_directory(spec, runs)
    claim = claim_file(runs, folder.name)

    def take(step: int, total: int, row: dict[str, Any]) -> None:
        if step == taken_at:
            write_json(claim, {**read_json(claim), "token": "thief", "host": "node7", "pid": 45})

    with pytest.raises(ClaimLostError, match=r"taken over \(pid 45 on node7, .*is refused"):
        train_run(spec, runs, on_step=take)
    assert [row["step"] for row in read_jsonl(folder / "trajectory.jsonl")] == list(range(taken_at + 1))
    assert not (folder / "done").exists()
    assert not (folder / "failed.json").exists(), "the run itself has not failed"
    assert read_json(claim)["token"] == "thief"
    claim.unlink()
    done = train_run(spec, runs)
    assert (done / "done").is_file()
    assert [row["step"] for row in read_jsonl(done / "trajectory.jsonl")] == list(range(spec.steps + 1))
