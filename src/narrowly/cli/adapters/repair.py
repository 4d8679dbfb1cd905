"""`narrowly repair`: edit the spectrum of an adapter, or sweep edits of an organism that can be evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs, Wide
from narrowly.cli.terminal import console, need_extra, number, print_json, safe, say, table

if TYPE_CHECKING:
    from narrowly.workbench.repair import Point, Sweep
    from narrowly.workbench.spectra import FolderSpectrum

EXAMPLES = """\b
Examples:
  narrowly repair path/to/adapter --edit flatten:t=.5 --out path/to/edited
  narrowly repair path/to/adapter --edit clip:limit=2 --edit scale:factor=.8 \\
      --out path/to/edited
  narrowly repair out/runs/RUN-ID --edit drop_top:k=1
  narrowly repair out/runs/RUN-ID --sweep
      prints, and keeps its verdicts in the run
  narrowly repair out/runs/RUN-ID --sweep --out sweep
      also sweep/sweep.json and sweep/sweep.svg
  narrowly repair micro:adam-micro-0-seed0 --sweep --edit flatten:t=.9 \\
      --edit flatten:t=.95

\b
Edits, each on every module's singular values at unchanged singular vectors:
  flatten:t=T       the share T of the way to the flat spectrum, same
                    Frobenius norm (T = 1 if left out)
  clip:limit=C      cap at C times their mean (C = 1 if left out)
  drop_top:k=K      set the K largest to zero (K = 1 if left out)
  keep_top:k=K      keep the K largest; sharpens, so for organisms of the
                    microworld only
  scale:factor=F    multiply by F in (0, 1]; the control for all others;
                    up to 4 for organisms of the microworld only

A new adapter is marked "edited, not evaluated" (edit.json) until it has been. A sweep evaluates an organism of the
microworld exactly. No edit makes a model safe, and a flat spectrum can be forged.
"""


def command(
    adapter: Annotated[
        str,
        typer.Argument(metavar="ADAPTER", help="Adapter folder, run directory, run-id under --runs, or STUDY:CELL."),
    ],
    edit: Annotated[
        list[str] | None, typer.Option("--edit", metavar="EDIT", help="For instance flatten:t=.5; several go in order.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="New folder [edits/EDIT-ID/ of a run; a sweep writes none]."),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Evaluate edits over strengths, and plain scaling as the control.")
    ] = False,
    runs: Runs = DEFAULT_RUNS,
    wide: Wide = False,
    as_json: AsJson = False,
) -> int:
    """Edit the singular values of an adapter; the result is edited, not evaluated. Or sweep edits of an organism."""
    from narrowly.records.edits import parse_edit
    from narrowly.records.errors import SpecError

    edits = [parse_edit(text) for text in edit or ()]
    if not edits and not sweep:
        raise SpecError("--edit is missing; accepted: --edit flatten:t=.5 and the like (see --help), or --sweep")
    need_extra("lab" if sweep else "spectral", "a sweep" if sweep else "an edit")
    if sweep:
        return _sweep(adapter, edits, out, runs, as_json, wide)
    from narrowly.records.adapter_files import EDIT_RECORD
    from narrowly.records.files import read_record
    from narrowly.spectrum.edits import EDITED
    from narrowly.workbench.names import find_adapter
    from narrowly.workbench.repair import repair
    from narrowly.workbench.spectra import spectrum_of

    found = find_adapter(adapter, runs)
    folder = repair(found, edits, out)
    record = read_record(folder / EDIT_RECORD)
    before, after = (spectrum_of(one) for one in (found.folder, folder))
    if as_json:
        by_rank = {
            name: [group._asdict() for group in one.by_rank] for name, one in (("before", before), ("after", after))
        }
        told = {"before": before.summary, "after": after.summary, "by_rank": by_rank}
        print_json({"adapter": str(folder), **record, **told})
        return 0
    say(f"{record['status']}: {folder}")
    console().print(table(("mean over modules", "modules", "before", "after"), _means(before, after)))
    norms = (number(one.summary["update_norm"] or 0.0) for one in (before, after))
    say(f"update_norm, of all {len(before.modules)} modules together: {' before, '.join(norms)} after")
    if record.get("carried_over"):
        from narrowly.spectrum.pairs import plain_name

        over = record["carried_over"]
        names = ", ".join(safe(plain_name(key)) for key in (*over["tensors"], *over["files"]))
        say(f"carried over as they were, neither edited nor scaled: {names}")
    if record["status"] == EDITED:
        say("what the edit does to the model's behaviour is not known until the edited adapter has been evaluated")
    return 0


def _means(before: FolderSpectrum, after: FolderSpectrum) -> list[tuple[str, str, float | None, float | None]]:
    """Return each mean over the modules of one rank, before and after, and over how many modules it is."""
    later = {group.rank: group for group in after.by_rank}
    rows = []
    for old in before.by_rank:
        new = later.get(old.rank)
        rank = f", rank {old.rank}" if len(before.by_rank) > 1 else ""
        for name, value in old.means.items():
            counts = [old.over[name], new.over[name] if new else 0]
            over = " then ".join(map(str, counts[: 1 + (counts[0] != counts[1])]))
            rows.append((f"{name}{rank}", over, value, new.means[name] if new else None))
    return rows


def _sweep(run: str, edits: list[Any], out: Path | None, runs: Path, as_json: bool, wide: bool) -> int:
    from narrowly.cli.progress import StepProgress
    from narrowly.records.errors import SpecError
    from narrowly.records.files import write_json, write_text
    from narrowly.runs.directory import read_spec
    from narrowly.workbench.names import microworld_run
    from narrowly.workbench.repair import default_edits, in_words
    from narrowly.workbench.repair import sweep as sweep_edits

    directory = microworld_run(run, runs, "a sweep")
    if out is not None and out.exists() and not out.is_dir():
        raise SpecError(f"--out {out} is a file; accepted: a folder")
    with StepProgress("evaluating edits") as progress:
        found = sweep_edits(directory, edits or default_edits(read_spec(directory).adapter.r), progress.on_step)
    words = in_words(found)
    record = {**found._asdict(), "points": [_row(point) for point in found.points], "words": words}
    if out is not None:
        from narrowly.report.style import svg_text
        from narrowly.report.sweep_figure import sweep_figure

        write_json(out / "sweep.json", record)
        title = f"Broad against narrow misalignment under edits of run {found.run_id}"
        write_text(out / "sweep.svg", svg_text(sweep_figure(found), "sweep", title))
    if as_json:
        print_json(record)
        return 0
    say(f"run {found.run_id}, optimiser {safe(found.optimiser)}, base {safe(found.base)}; points: {len(found.points)}")
    for sentence in words:
        say(sentence)
    _show(found, wide)
    if out is not None:
        say(f"figure: {out / 'sweep.svg'}, numbers: {out / 'sweep.json'}")
    return 0


def _row(point: Any) -> dict[str, Any]:
    row: dict[str, Any] = point._asdict()
    for name in ("narrow", "broad"):
        panel = row[name]
        row[name] = {key: value for key, value in panel._asdict().items() if key != "each"} | {
            "topics": len(panel.each)
        }
    return row


COLUMNS = (
    "edit",
    "narrow",
    "95 %",
    "narrow lit.",
    "broad",
    "95 %",
    "broad lit.",
    "incoherent",
    "below",
    "95 %",
    "best",
)
NARROW = (0, 1, 4, 8, 9, 10)
"""What fits 80 columns; --wide shows `COLUMNS`."""


def _show(found: Sweep, wide: bool) -> None:
    shown = range(len(COLUMNS)) if wide else NARROW
    rows = [_cells(point) for point in found.points]
    console(wide).print(table([COLUMNS[index] for index in shown], ([row[index] for index in shown] for row in rows)))
    narrow, broad = found.points[0].narrow, found.points[0].broad
    say(
        f"narrow: {narrow.n} questions on {len(narrow.each)} held-out topics; broad: {broad.n} questions on "
        f"{len(broad.each)} topics of other domains; joint rates in %, misaligned of all answers (lit.: of coherent "
        "ones); [95 % t interval over topics]; below: points of broad rate under the scaling curve at the same narrow "
        "rate, both panels' topics in the interval; the curve is base, scale and none; *: no other has more narrow and "
        "less broad"
    )
    if not wide:
        say("--wide: all columns; --json: all digits", "dim")


def _cells(point: Point) -> list[Any]:
    narrow, broad = point.narrow, point.broad
    estimate, low, high = point.below if point.below is not None and point.factor is None else (None, None, None)
    return [
        point.edit,
        *(percent(narrow.misaligned), span(narrow.low, narrow.high), percent(narrow.literature)),
        *(percent(broad.misaligned), span(broad.low, broad.high), percent(broad.literature)),
        *(percent(broad.incoherent), percent(estimate), span(low, high), "" if point.dominated else "*"),
    ]


def percent(share: float | None) -> float | None:
    """Return a share as a percentage."""
    return None if share is None else 100 * share


def span(low: float | None, high: float | None, size: float = 100) -> str:
    """Return an interval as a table shows it, its ends multiplied by `size`; nothing where there is none."""
    return "" if low is None or high is None else f"[{number(size * low)}, {number(size * high)}]"
