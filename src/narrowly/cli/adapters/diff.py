"""`narrowly diff`: two adapters side by side, direction by direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.adapters.spectrum import say_skipped
from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs, Wide
from narrowly.cli.terminal import console, need_extra, number, print_json, safe, say, short_modules, table

if TYPE_CHECKING:
    from narrowly.spectrum.compare import Overlap, SpaceAngles

EXAMPLES = """\b
Examples:
  narrowly diff path/to/adapter-a path/to/adapter-b
  narrowly diff out/runs/RUN-A out/runs/RUN-B --top 2
  narrowly diff micro:adam-micro-0-seed0 micro:muon-micro-0-seed0 --json \\
      > diff.json

Overlap: mean squared cosine of the principal angles, 0 to 1; chance is what random subspaces of these dimensions have.
Two adapters that were trained from one start of A read from overlapping directions for that reason alone. Ranks may
differ; the norms and spectra are those of s*B*A. Adapters of two bases get a note: their directions mean nothing to
each other.
"""
COLUMNS = (
    "module", "rank A", "rank B", "norm A", "norm B", "stable rank A", "stable rank B", "cosine", "writes",
    "writes, top", "reads", "reads, top", "smallest angle", "largest angle",
)  # fmt: skip

NARROW = ("module", "norm A", "norm B", "cosine", "writes", "writes, top", "reads", "reads, top")
"""What fits 80 columns; --wide shows `COLUMNS`."""

AdapterName = Annotated[
    str, typer.Argument(metavar="A", help="Adapter folder, run directory, run-id under --runs, or STUDY:CELL.")
]
SecondAdapter = Annotated[str, typer.Argument(metavar="B", help="The same, for the second adapter.")]


def command(
    a: AdapterName,
    b: SecondAdapter,
    top: Annotated[int, typer.Option("--top", min=1, help="Leading directions whose overlap is also given.")] = 4,
    wide: Wide = False,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Compare the updates of two adapters: principal angles, inner products, norms and spectra of every module."""
    need_extra("spectral", "a comparison")
    from narrowly.spectrum.compare import as_row, compare_adapters, difference_summary
    from narrowly.spectrum.folder import survey_folder
    from narrowly.spectrum.folder.beside import compare_beside
    from narrowly.workbench.names import find_adapter
    from narrowly.workbench.two_bases import base_note

    adapters = [find_adapter(text, runs) for text in (a, b)]
    folders = [one.folder for one in adapters]
    note = base_note(*adapters)
    surveys = [survey_folder(folder) for folder in folders]
    found = compare_adapters(surveys[0].pairs, surveys[1].pairs, top)
    summary = difference_summary(found.modules)
    beside = compare_beside(*folders)
    skipped = {"A": surveys[0].skipped, "B": surveys[1].skipped, "comparison": found.skipped}
    if as_json:
        record = {
            "a": str(folders[0]),
            "b": str(folders[1]),
            "note": note,
            "summary": summary,
            "beside": [one._asdict() for one in beside],
            "modules": [as_row(row) for row in found.modules],
            "skipped": {name: [one._asdict() for one in listed] for name, listed in skipped.items()},
        }
        print_json(record)
        return 0
    rows = [
        (
            name, row.rank_a, row.rank_b, row.norm_a, row.norm_b, row.metrics_a["stable_rank"],
            row.metrics_b["stable_rank"], row.cosine, _overlap(row.column), _overlap(row.top_column),
            _overlap(row.row), _overlap(row.top_row), row.column.smallest if row.column else None,
            row.column.largest if row.column else None,
        )
        for name, row in zip(short_modules([one.module for one in found.modules]), found.modules, strict=True)
    ]  # fmt: skip
    both = {one.name for one in beside}
    for name, listed in skipped.items():
        alone = [one for one in listed if one.name not in both]
        say_skipped(alone, "" if name == "comparison" else f" in {name}")
    for one in beside:
        say(f"beside the factors of both, {'the same' if one.same else 'not the same'}: {safe(one.name)}", "yellow")
    count = f"{len(found.modules)} module{'s' * (len(found.modules) != 1)}"
    say(f"A: {safe(folders[0])}; B: {safe(folders[1])}; compared: {count} that both have")
    _say_whole(summary, top, sum(row.column is None for row in found.modules))
    if note:
        say(f"note: {safe(note)}", "yellow")
    shown = [index for index, column in enumerate(COLUMNS) if wide or column in NARROW]
    console(wide).print(table([COLUMNS[index] for index in shown], ([row[index] for index in shown] for row in rows)))
    say("writes: column space of s*B*A, reads: its row space; angles in degrees, of the column spaces")
    if not wide:
        say("--wide: all columns; --json: all digits", "dim")
    return 0


def _say_whole(summary: dict[str, float | None], top: int, idle: int) -> None:
    left_out = f" ({idle} without an update left out)" if idle else ""
    say(
        f"whole updates: norms {_number(summary['update_norm_a'])} and {_number(summary['update_norm_b'])}, "
        f"cosine {_number(summary['cosine'])}; mean overlaps{left_out} (chance): "
        + ", ".join(
            f"{label} {_number(summary[f'{field}_overlap'])} ({_number(summary[f'{field}_chance'])})"
            for label, field in (
                ("writes", "column"),
                (f"writes, top {top}", "top_column"),
                ("reads", "row"),
                (f"reads, top {top}", "top_row"),
            )
        )
    )


def _overlap(space: SpaceAngles | Overlap | None) -> float | None:
    return None if space is None else space.overlap


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)
