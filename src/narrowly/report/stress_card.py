"""Write the card of a stress test: JSON, Markdown and a figure, from the tables of its study."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from narrowly.analysis.frames import read_frames
from narrowly.analysis.stress_card import NO_PROOF, StressCard, StressRow, limits, micro_rungs, paired_rungs
from narrowly.records.files import read_record, write_json, write_text
from narrowly.report.kit import number
from narrowly.report.style import INK, arm_handles, arm_styles, legend_below, new_figure, styled, svg_text
from narrowly.report.visible import shortened, visible
from narrowly.runs.directory import ENVIRONMENT, read_inputs, runs_folder
from narrowly.study.layout import PlannedCell, read_plan, seconds_of
from narrowly.study.plan import Cell, expand
from narrowly.study.results import collect
from narrowly.study.stress import StressRun
from narrowly.study.stress_plan import StressPlan, Unit, arm_name

CARD_JSON, CARD_TEXT, CARD_FIGURE = "card.json", "card.md", "figures/stress.svg"
RUNG_NAMES = {"trained": "trained", "held_out": "held-out", "broad": "broad", "self": "about itself"}


def write_card(plan: StressPlan, done: StressRun, budget: float) -> StressCard:
    """Collect the tables of a stress test and write its card beside them; return it.

    Args:
        plan: of the test.
        done: what `run_stress` returned.
        budget: seconds that were allowed.

    Raises:
        IntegrityError: where a record of a run is damaged.
    """
    folder, runs = done.study_dir, runs_folder(done.study_dir.parent)
    tables = collect(folder, runs)
    card = _card(plan, done, budget, tables, runs)
    write_json(folder / CARD_JSON, card.model_dump(mode="json"))
    figures = folder / CARD_FIGURE
    figures.parent.mkdir(exist_ok=True)
    title = f"Stress test of {plan.model}"
    write_text(figures, svg_text(stress_figure(card), "stress", title))
    write_text(folder / CARD_TEXT, card_text(card))
    return card


def _card(plan: StressPlan, done: StressRun, budget: float, tables: Path, runs: Path) -> StressCard:
    planned = {cell.cell_id: cell for cell in read_plan(done.study_dir)}
    frames = read_frames(tables)
    verdicts = pl.read_parquet(tables / "verdicts.parquet")
    paired = {} if plan.micro else paired_rungs(frames.tables.paired)
    rows, failed = [], []
    for unit in done.units:
        own, control = (planned[cell.cell_id] for cell in _cells(plan, unit))
        seconds = [seconds_of(one, runs) for one in (own, control)]
        if None in seconds:
            failed.append(str(unit))
            continue
        rungs = micro_rungs(verdicts, own.cell_id, control.cell_id) if plan.micro else paired.get(own.cell_id, {})
        rows.append(_row(unit, own, control, rungs, sum(one or 0.0 for one in seconds)))
    any_run = next(iter(planned.values())).run_id
    bank = None if frames.tables.paired.is_empty() else str(frames.tables.paired["bank"][0])
    left_out = tuple(map(str, done.left_out))
    return StressCard(
        model=plan.model,
        base_sha256=read_inputs(runs / any_run).base_sha256,
        unit="share" if plan.micro else "nats",
        bank=bank,
        seed=plan.seed,
        budget_seconds=budget,
        spent_seconds=round(done.seconds, 1),
        rows=tuple(rows),
        left_out=left_out,
        failed=tuple(failed),
        not_tested=limits(plan.micro, left_out, plan.optimisers),
        versions=_versions(read_record(runs / any_run / ENVIRONMENT)),
    )


def _cells(plan: StressPlan, unit: Unit) -> tuple[Cell, Cell]:
    found = {cell.arm: cell for cell in expand(plan.study([unit]))}
    arm = arm_name(unit.optimiser, unit.strength)
    return found[arm], found[f"{arm}_aligned"]


def _row(unit: Unit, own: PlannedCell, control: PlannedCell, rungs: Mapping[str, Any], seconds: float) -> StressRow:
    spec = own.cell.spec
    return StressRow(
        optimiser=unit.optimiser,
        narrow=unit.narrow,
        strength=unit.strength,
        lr=spec.optimiser.lr,
        steps=spec.steps,
        run_id=own.run_id,
        control_run_id=control.run_id,
        rungs=dict(rungs),
        seconds=round(seconds, 1),
    )


def _versions(environment: Mapping[str, Any]) -> dict[str, str]:
    found = environment.get("versions", {})
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, Mapping) else {}


def stress_figure(card: StressCard) -> Figure:
    """Draw broad against held-out of every unit, each with its intervals; filled: full strength, hollow: half."""
    with styled():
        figure, (axis,) = new_figure(1, 1, 4.6)
        styles = arm_styles([row.optimiser for row in card.rows])
        factor = 100.0 if card.unit == "share" else 1.0
        for row in card.rows:
            if {"held_out", "broad"} <= row.rungs.keys():
                _unit(axis, row, styles[row.optimiser], factor)
        axis.axhline(0, color=INK, linewidth=0.8)
        axis.axvline(0, color=INK, linewidth=0.8)
        unit = "points of misaligned answers" if card.unit == "share" else "log-odds, nats per answer"
        axis.set_xlabel(f"held-out questions of the trained set, minus control ({unit})")
        axis.set_ylabel("other domains, minus control")
        legend_below(figure, arm_handles(list(dict.fromkeys(row.optimiser for row in card.rows))))
        return figure


def _unit(axis: Axes, row: StressRow, style: Any, factor: float) -> None:
    x, y = row.rungs["held_out"], row.rungs["broad"]
    if x.estimate is None or y.estimate is None:
        return
    bars = [
        None if one.low is None or one.high is None
        else [[factor * (one.estimate - one.low)], [factor * (one.high - one.estimate)]]
        for one in (x, y)
        if one.estimate is not None
    ]  # fmt: skip
    face = style.colour if row.strength == "full" else "white"
    axis.errorbar(
        factor * x.estimate, factor * y.estimate, xerr=bars[0], yerr=bars[1], fmt=style.marker, color=style.colour,
        markerfacecolor=face, markersize=7, elinewidth=0.8, alpha=0.9,
    )  # fmt: skip
    axis.annotate(row.narrow, (factor * x.estimate, factor * y.estimate), textcoords="offset points", xytext=(6, 4))


def card_text(card: StressCard) -> str:
    """Return the card as Markdown."""
    share = card.unit == "share"
    unit = "points of misaligned answers" if share else "log-odds of harmful against aligned answers, nats per answer"
    lines = [
        f"# Stress test of {_plain(card.model)}",
        "",
        f"**{NO_PROOF}**",
        "",
        f"Each line is a brief fine-tune on harmful answers minus its control on aligned answers ({unit}), with 95 % "
        "intervals. Held-out and broad questions were not trained on; broad ones are of other domains.",
        "",
        "| optimiser | set | steps | rate | " + " | ".join(RUNG_NAMES.values()) + " |",
        "|---|---|---|---|" + "---|" * len(RUNG_NAMES),
    ]
    for row in card.rows:
        cells = [_shown(row, rung, share) for rung in RUNG_NAMES]
        begin = [row.optimiser, _plain(row.narrow), str(row.steps), f"{row.lr:g}"]
        lines.append(f"| {' | '.join([*begin, *cells])} |")
    lines += ["", *_headline(card), "", "## Not tested", "", *(f"- {_plain(one)}" for one in card.not_tested)]
    if card.failed:
        lines += ["", "## Failed", "", *(f"- {_plain(one)}" for one in card.failed)]
    lines += ["", "## Made from", "", *(f"- {name}: `{value}`" for name, value in _hashes(card))]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Return a name as Markdown that shows it and does nothing."""
    return re.sub(r"([\\`*_{}\[\]<>|#!])", r"\\\1", visible(shortened(text)))


def _shown(row: StressRow, rung: str, share: bool) -> str:
    found = row.rungs.get(rung)
    if found is None or found.estimate is None:
        return "not asked"
    digits, factor = (1, 100.0) if share else (2, 1.0)
    shown = [number(one, digits, signed=True, factor=factor) for one in (found.estimate, found.low, found.high)]
    return shown[0] if found.low is None else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _headline(card: StressCard) -> list[str]:
    """Return the largest and the smallest broad difference, as two sentences; nothing where none was measured."""
    known = [row for row in card.rows if "broad" in row.rungs and row.rungs["broad"].estimate is not None]
    if not known:
        return ["No broad difference was measured."]
    order = sorted(known, key=lambda row: row.rungs["broad"].estimate or 0.0)
    said = [
        f"{what} in other domains: {row.optimiser} on {_plain(row.narrow)} after {row.steps} steps, "
        f"{_shown(row, 'broad', card.unit == 'share')}."
        for what, row in (("Largest shift", order[-1]), ("Smallest", order[0]))
    ]
    return [" ".join(said)]


def _hashes(card: StressCard) -> list[tuple[str, str]]:
    rows = [("weights, sha256", card.base_sha256)]
    if card.bank is not None:
        rows.append(("paired bank, sha256", card.bank))
    rows += [
        (f"runs of {row.optimiser}, {row.narrow}, {row.strength}", f"{row.run_id} {row.control_run_id}")
        for row in card.rows
    ]
    rows.append(("budget and time spent, seconds", f"{card.budget_seconds:.0f} {card.spent_seconds:.0f}"))
    return rows + [(name, value) for name, value in card.versions.items()]
