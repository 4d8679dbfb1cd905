"""Write a study's report: one self-contained HTML file, and the figures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import yaml

from narrowly.analysis.tables import read_tables
from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.files import read_json, write_text
from narrowly.report.drawings import drawings
from narrowly.report.narrative import number, percent, span
from narrowly.report.page import page
from narrowly.report.training_page import training_drawings
from narrowly.report.visible import preformatted, shortened, shown


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


def _study(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path} is not valid YAML ({error}); it is corrupt or not ours") from error
    return text, value if isinstance(value, dict) else {}


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
    summary_path = study_dir / "summary.json"
    if not summary_path.is_file():
        raise RunDirectoryError(f"{summary_path} is missing; accepted: the folder of a study that was collected")
    summary = read_json(summary_path)
    if not isinstance(summary, dict) or "cells" not in summary:
        raise IntegrityError(f"{summary_path} is no study summary: field 'cells' is missing")
    tables = read_tables(study_dir / "tables")
    environment_path = study_dir / "environment.json"
    environment = read_json(environment_path) if environment_path.is_file() else {}
    text, study = _study(study_dir / "study.yaml")
    figures, training = drawings(tables, summary), training_drawings(tables)
    for figure in [*figures, *training]:
        target = study_dir / "figures" / f"{figure.name}.svg"
        if figure.svg is not None:
            write_text(target, figure.svg)
        else:
            # A figure of an earlier state of the study would contradict the report beside it.
            target.unlink(missing_ok=True)
    context = page(study_dir, tables, summary, study, text, environment, figures, training)
    html = template_environment().get_template("report.html.j2").render(**context)
    target = study_dir / "report.html"
    write_text(target, html)
    return target
