"""Write a study's report: one self-contained HTML file, and the figures beside it; collect its tables before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from narrowly.analysis.frames import Frames, read_frames
from narrowly.analysis.summary_schema import Summary
from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.files import read_json, read_record
from narrowly.report.drawings import Subject, drawings
from narrowly.report.kit import write_page
from narrowly.report.page import page
from narrowly.report.paired_section import paired_drawing
from narrowly.report.points import Points
from narrowly.report.reach_drawings import reach_drawings
from narrowly.report.repeat_section import StudyFiles
from narrowly.report.training_drawings import CAVEAT as TRAINING_CAVEAT
from narrowly.report.training_drawings import training_drawings
from narrowly.runs.directory import ENVIRONMENT, runs_folder
from narrowly.study.current import current_report, record_report, report_origin
from narrowly.study.layout import PLAN_FILE, REPORT_FILE, STUDY_FILE, SUMMARY_FILE, TABLES
from narrowly.study.preregistered import dial_table
from narrowly.study.results import collect, summarise_study

MICROWORLD_CAVEAT = "Microworld: demonstrates a mechanism; no evidence about rates in large models."
"""Of every figure made of answers, which only the microworld has in this version."""


def report_study(study_dir: str | Path, on_part: Callable[[str], None] = lambda part: None) -> Path:
    """Collect the tables of a study from its runs, summarise them and write the report: the last step of a study.

    Nothing is trained or evaluated. A report that is there and whose runs, code and files are what they were when it
    was made is left as it is.

    Args:
        study_dir: the folder of a study (`out/micro`), beside the folder of its runs.
        on_part: called with the name of each part as it begins, for progress displays.

    Returns:
        The path of the report.

    Raises:
        RunDirectoryError: where the folder is no study's, its runs are not beside it, or it cannot be written.
        IntegrityError: where a record of a run is damaged.
    """
    study_dir = Path(study_dir)
    runs = runs_folder(study_dir.parent)
    if (study_dir / PLAN_FILE).is_file() and not runs.is_dir():  # its tables would be replaced by those of no run
        raise RunDirectoryError(
            f"{runs} does not exist: the runs of a study stand beside its folder; nothing was changed; keep them "
            "together"
        )
    current = current_report(study_dir, runs)
    if current is not None:
        return current
    origin = report_origin(study_dir, runs)
    on_part("collecting tables")
    frames = read_frames(collect(study_dir, runs))
    on_part("summary")
    summary = summarise_study(study_dir, frames)
    on_part("figures and report")
    report = _write(study_dir, frames, summary)
    record_report(study_dir, origin)
    return report


def write_report(study_dir: Path) -> Path:
    """Write `report.html` and the figures beside it (`figures/*.svg`, `*.csv`) of a study from tables and summary.

    The same inputs give the same bytes: no dates, fixed ids, no network.

    Args:
        study_dir: a study folder with `tables/` and `summary.json`; `study.yaml` and `environment.json` are shown
            where they are there.

    Returns:
        The path of the report.

    Raises:
        RunDirectoryError: where there is no summary or there are no tables, or the folder cannot be written.
        IntegrityError: where a file is corrupt.
    """
    path = study_dir / SUMMARY_FILE
    if not path.is_file():
        raise RunDirectoryError(f"{path} is missing; accepted: the folder of a study that was collected")
    summary = Summary.from_json(read_json(path), str(path))
    return _write(study_dir, read_frames(study_dir / TABLES), summary)


def _write(study_dir: Path, frames: Frames, summary: Summary) -> Path:
    files = _files(study_dir)
    runs = runs_folder(Path(study_dir.resolve().parent.name)).as_posix()
    points = Points(frames.tables.cells, runs)
    answered = Subject(frames, points, MICROWORLD_CAVEAT)
    figures = [*reach_drawings(answered, summary, dial_table(study_dir)), *drawings(answered, summary)]
    subject = Subject(frames, points, TRAINING_CAVEAT)
    training = training_drawings(subject)
    paired = None if summary.paired is None else paired_drawing(summary.paired, subject)
    target = study_dir / REPORT_FILE
    write_page(page(files, frames, summary, figures, training, paired), target)
    return target


def _files(study_dir: Path) -> StudyFiles:
    """Read what is shown beside tables and summary, as far as it is there."""
    path, record = study_dir / STUDY_FILE, study_dir / ENVIRONMENT
    environment = read_record(record) if record.is_file() else {}
    if not path.is_file():
        return StudyFiles(study_dir, "", {}, environment)
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path} is not valid YAML ({error}); it is corrupt or not ours") from error
    return StudyFiles(study_dir, text, value if isinstance(value, dict) else {}, environment)
