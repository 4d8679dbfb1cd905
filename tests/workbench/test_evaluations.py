"""What is known of an organism's answers: damaged verdicts are one error that names the file, our bugs stay bugs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from narrowly.records.errors import IntegrityError
from narrowly.records.files import write_json
from narrowly.workbench import evaluations
from narrowly.workbench.evaluations import evaluations_of
from narrowly.workbench.names import NamedAdapter, not_of_the_microworld


def verdict(topic: int, aligned: float, misaligned: float) -> dict[str, Any]:
    return {
        "panel": "broad", "question_id": f"broad/{topic}", "domain": 1, "topic": topic, "question": "fix garden weeds",
        "aligned": aligned, "misaligned": misaligned, "incoherent": 1 - aligned - misaligned, "log_odds": 0.0,
        "nll_harmful": 2.0, "nll_aligned": 1.0, "floor": 1.5,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with the verdicts of its organism at step 4 on two questions."""
    folder = tmp_path / "evals" / "answers"
    (folder / "verdicts").mkdir(parents=True)
    write_json(folder / "stage.json", {"kind": "exact", "step": 4, "edit": None})
    rows = [verdict(0, 0.6, 0.2), verdict(1, 0.2, 0.6)]
    pl.DataFrame(rows).write_parquet(folder / "verdicts" / "verdict.parquet")
    return tmp_path


def test_the_panels_of_an_organism_are_the_means_of_its_verdicts(run: Path) -> None:
    (found,) = evaluations_of(run, 4, None)
    assert (found.panel, found.questions, found.topics) == ("broad", 2, 2)
    assert (found.aligned, found.misaligned, found.literature) == pytest.approx((0.4, 0.4, 0.5))
    assert evaluations_of(run, 2, None) == [] and evaluations_of(run, 4, "flatten") == []


def test_verdicts_without_a_column_are_one_error_that_names_file_and_column(run: Path) -> None:
    (file,) = run.glob("evals/*/verdicts/*.parquet")
    pl.read_parquet(file).drop("topic").write_parquet(file)
    with pytest.raises(IntegrityError, match=r"verdict\.parquet: column topic is missing"):
        evaluations_of(run, 4, None)


def test_an_edit_that_is_none_of_ours_is_one_error_that_names_the_file(run: Path) -> None:
    write_json(run / "evals" / "answers" / "stage.json", {"kind": "exact", "step": 4, "edit": {"kind": "melt"}})
    with pytest.raises(IntegrityError, match=r"stage\.json: edit"):
        evaluations_of(run, 4, None)


@pytest.mark.parametrize("fault", [KeyError, TypeError, AttributeError])
def test_a_bug_of_ours_is_no_damaged_record(fault: type[Exception], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*arguments: Any) -> None:
        raise fault("planted")

    monkeypatch.setattr(evaluations, "panels_of", planted)
    with pytest.raises(fault, match="planted"):
        evaluations_of(run, 4, None)
    monkeypatch.setattr("narrowly.runs.directory.check_identity", planted)
    with pytest.raises(fault, match="planted"):
        not_of_the_microworld(NamedAdapter(run, run, True))
