"""Read a study back: frames, summary, and any organism as a model."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from narrowly.records.errors import RunDirectoryError, UnknownNameError, nearest
from narrowly.records.files import read_json
from narrowly.runs.directory import runs_folder
from narrowly.study.layout import PLAN_FILE, SUMMARY_FILE, TABLES, PlannedCell, read_plan

if TYPE_CHECKING:
    import polars as pl

    from narrowly.models.organism import Organism

TABLE_NAMES = ("cells", "outcomes", "verdicts", "spectra", "trajectory", "samples", "paired")


class Study:
    """Read a study on disk. Frames are read on first use and kept.

    Args:
        path: folder of the study (`out/micro`).

    Raises:
        RunDirectoryError: where it is no study folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan: dict[str, PlannedCell] = {planned.cell_id: planned for planned in read_plan(path)}

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}, {len(self.plan)} cells)"

    @functools.cached_property
    def cells(self) -> pl.DataFrame:
        """Return one row per planned cell, with its status."""
        return self._table("cells")

    @functools.cached_property
    def outcomes(self) -> pl.DataFrame:
        """Return one row per organism and panel: class probabilities, rates, log-odds, excess loss."""
        return self._table("outcomes")

    @functools.cached_property
    def verdicts(self) -> pl.DataFrame:
        """Return one row per organism and question."""
        return self._table("verdicts")

    @functools.cached_property
    def spectra(self) -> pl.DataFrame:
        """Return one row per organism and module: singular values and their metrics."""
        return self._table("spectra")

    @functools.cached_property
    def trajectory(self) -> pl.DataFrame:
        """Return one row per cell and logged step."""
        return self._table("trajectory")

    @functools.cached_property
    def samples(self) -> pl.DataFrame:
        """Return shown answers with their outcome class; text from models, to be treated as hostile."""
        return self._table("samples")

    @functools.cached_property
    def paired(self) -> pl.DataFrame:
        """Return one row per organism and question of the paired bank: log-likelihoods of both answers, in nats."""
        return self._table("paired")

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        path = self.path / SUMMARY_FILE
        if not path.is_file():
            raise RunDirectoryError(f"{path} is missing; `narrowly report {self.path}` makes it")
        found: dict[str, Any] = read_json(path)
        return found

    def run_directory(self, run_or_cell: str) -> Path:
        """Return the run directory of a cell-id or a run-id of this study.

        Raises:
            UnknownNameError: neither; the nearest cell is named.
        """
        if run_or_cell in self.plan:
            run_id = self.plan[run_or_cell].run_id
        elif any(planned.run_id == run_or_cell for planned in self.plan.values()):
            run_id = run_or_cell
        else:
            near = nearest(run_or_cell, self.plan)
            raise UnknownNameError(
                f"unknown cell {run_or_cell!r} of {self.path}{near} (accepted: {self._some_cells()})"
            )
        return runs_folder(self.path.parent) / run_id

    def model(self, run_or_cell: str, step: int | Literal["final"] = "final", edit: str | None = None) -> Organism:
        """Load an organism: PEFT model in eval mode, tokenizer, base.

        Args:
            run_or_cell: a cell-id (`adam-micro-0-seed0`) or a run-id.
            step: a checkpoint step, or "final".
            edit: an edit-id (`keep_top-1`), or None.

        Raises:
            UnknownNameError: no such cell.
            RunDirectoryError: no such run, step or edit on disk.
        """
        from narrowly.models.organism import load_organism

        return load_organism(self.run_directory(run_or_cell), step, edit)

    def _some_cells(self) -> str:
        names = list(self.plan)
        more = f" and {len(names) - 5} more, see `narrowly plan --cells`" if len(names) > 6 else ""
        return ", ".join(names[:5] if more else names) + more

    def _table(self, name: str) -> pl.DataFrame:
        import polars as pl

        path = self.path / TABLES / f"{name}.parquet"
        if not path.is_file():
            raise RunDirectoryError(f"{path} is missing; `narrowly report {self.path}` makes it")
        return pl.read_parquet(path)


def load_study(path: str | Path) -> Study:
    """Open a study folder (`out/micro`).

    Raises:
        RunDirectoryError: where it is no study folder.
    """
    folder = Path(path)
    if not (folder / PLAN_FILE).is_file():
        raise RunDirectoryError(f"{folder} is no study folder (no {PLAN_FILE}); accepted: OUT/STUDY of `narrowly run`")
    return Study(folder)
