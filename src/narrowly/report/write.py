"""Write a study's report: one self-contained HTML file, and the figures beside it; collect its tables before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jinja2
import yaml

from narrowly.analysis.frames import Frames, read_frames
from narrowly.analysis.summary_schema import Summary
from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.files import read_json, read_record, write_text
from narrowly.report.drawings import drawings
from narrowly.report.narrative import number, percent, span
from narrowly.report.page import StudyFiles, page
from narrowly.report.training_page import training_drawings
from narrowly.report.visible import preformatted, shortened, shown
from narrowly.runs.directory import ENVIRONMENT, runs_folder
from narrowly.study.layout import PLAN_FILE, STUDY_FILE, SUMMARY_FILE, TABLES
from narrowly.study.results import collect, summarise_study


def template_environment() -> jinja2.Environment:
    """Return the template environment: autoescape on, every string made visible, undefined names are errors."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("narrowly.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    environment.filters.update(
        number=number, percent=percent, span=span, shortened=shortened, preformatted=preformatted
    )
    return environment


def report_study(study_dir: str | Path, on_part: Callable[[str], None] = lambda part: None) -> Path:
    """Collect the tables of a study from its runs, summarise them and write the report: the last step of a study.

    Nothing is trained or evaluated.

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
    on_part("collecting tables")
    frames = read_frames(collect(study_dir, runs))
    on_part("summary")
    summary = summarise_study(study_dir, frames)
    on_part("figures and report")
    return _write(study_dir, frames, summary)


def write_report(study_dir: Path) -> Path:
    """Write `report.html` and `figures/*.svg` of a study from its tables and its summary.

    The same inputs give the same bytes: no dates, fixed ids, no network, no script.

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
    figures, training = drawings(frames, summary), training_drawings(frames)
    for figure in [*figures, *training]:
        target = study_dir / "figures" / f"{figure.name}.svg"
        if figure.svg is not None:
            write_text(target, figure.svg)
        else:
            # A figure of an earlier state of the study would contradict the report beside it.
            target.unlink(missing_ok=True)
    context = page(files, frames, summary, figures, training)
    html = template_environment().get_template("report.html.j2").render(**context)
    target = study_dir / "report.html"
    write_text(target, html)
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
