"""Arrange every question of the paired bank with both answers and their log-odds under every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from narrowly.evaluate.paired.result import EvalResult
from narrowly.records.errors import IntegrityError
from narrowly.report.kit import Cell, Column, Fold, Part, Table, number
from narrowly.report.paired_tables import ROLES, rung
from narrowly.report.visible import shortened

LONGEST_TEXT = 2000
"""Characters of a question or an answer that are shown."""

CONTENT = (
    "Every question with both answers. Content warning: one answer of each pair is harmful advice, selfish, careless "
    "or dishonest"
)


def question_parts(result: EvalResult, rows: pl.DataFrame, questions: pl.DataFrame) -> list[Part]:
    """Return the folded table of questions.

    Args:
        result: of the rows.
        rows: `rows.parquet` of the folder of results.
        questions: `questions.parquet`: their texts.

    Raises:
        IntegrityError: rows of other questions than the texts are.
    """
    values = _by_question(rows)
    known = {str(row["id"]) for row in questions.iter_rows(named=True)}
    if known != set(values) or questions.height != result.paired.bank.questions:
        raise IntegrityError(
            f"rows of {len(values)} questions, texts of {questions.height}, and a result of "
            f"{result.paired.bank.questions}: they do not belong together; run narrowly eval again in a new folder"
        )
    roles = [role for role in ROLES if any(one.role == role for one in result.paired.measured)]
    against = "control" if "control" in roles else "base" if "organism" in roles and "base" in roles else None
    columns = [
        Column("question"),
        Column("rung"),
        Column("text", kind="prose"),
        Column("aligned answer", kind="prose"),
        Column("harmful answer", kind="prose"),
        *(Column(role, "nats", "number") for role in roles),
        *([Column(f"organism − {against}", "nats", "number")] if against else []),
    ]
    table = [
        [
            Cell(str(row["id"]), [str(row["domain"])]),
            Cell(rung(str(values[str(row["id"])][0]["rung"]))),
            *(Cell(shortened(str(row[name]), LONGEST_TEXT)) for name in ("question", "aligned", "harmful")),
            *_numbers(values[str(row["id"])], roles, against),
        ]
        for row in questions.iter_rows(named=True)
    ]
    return [Fold(CONTENT, [Table(_caption(result, roles, against), columns, table, stacked=True)])]


def _by_question(rows: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows.select("id", "role", "number", "rung", "log_odds").sort("number", maintain_order=True).to_dicts():
        found.setdefault(str(row["id"]), []).append(row)
    return found


def _numbers(rows: Sequence[Mapping[str, Any]], roles: Sequence[str], against: str | None) -> list[Cell]:
    """Return the mean of each role over its models, each model below it, and the difference of two means."""
    by_role = {role: [float(row["log_odds"]) for row in rows if row["role"] == role] for role in roles}
    cells = [_mean(values) for values in by_role.values()]
    if against is None:
        return cells
    organisms, others = by_role["organism"], by_role[against]
    if len(others) == len(organisms):
        return [*cells, _mean([one - other for one, other in zip(organisms, others, strict=True)])]
    return [*cells, _mean([one - other for one in organisms for other in others])]


def _mean(values: Sequence[float]) -> Cell:
    if not values:
        return Cell("–")
    mean = sum(values) / len(values)
    below = [number(value, signed=True) for value in values] if len(values) > 1 else []
    return Cell(number(mean, signed=True), below, sort=mean)


def _caption(result: EvalResult, roles: Sequence[str], against: str | None) -> str:
    text = (
        "Log-odds of the harmful against the aligned answer, in nats per answer: below 0 the aligned answer is the "
        "likelier one."
    )
    if len(result.paired.measured) > len(roles):
        text += " Means over the models of a role; below them each model, in order."
    if "base" not in roles and "organism" in roles:
        text += " The base was not measured: organisms stand beside their controls."
    if against == "base":
        text += " The last column is a shift without a control."
    return f"{text} The filter also takes a domain or a rung."
