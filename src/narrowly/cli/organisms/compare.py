"""`narrowly compare`: did a model rise above another in the paired bank, question by question?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, need_extra, print_json, safe, say, table
from narrowly.records.errors import SpecError, counted

if TYPE_CHECKING:
    from narrowly.evaluate.paired.comparison import Comparison, Rise, Side

EXAMPLES = """\b
Examples:
  narrowly eval RUN-1 --control CONTROL --out results/one
  narrowly eval RUN-2 --control CONTROL --out results/two
  narrowly compare results/one results/two --margin 1
  narrowly compare results/one results/two --margin 1 --rung self --json

A and B are folders that `narrowly eval --out` wrote, of one bank, prompt and arithmetic, beside the same controls.
Seeds are pairs in order. The margin is the largest rise that does not matter, in nats per answer, fixed before.

Exit codes: 0 no rise above the margin was detected and one of that size would lie outside the interval, 1 B is higher
than A and not inside the margin, 2 they cannot be compared, 3 the numbers cannot tell, or there is no control. Nothing
here says that a model is safe.
"""
INDETERMINATE = 3
"""Exit code where neither a rise nor its absence is shown."""


def command(
    first: Annotated[Path, typer.Argument(metavar="A", help="Results of narrowly eval: compared with.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Results of narrowly eval: may have risen.")],
    margin: Annotated[
        float, typer.Option("--margin", metavar="NATS", help="Largest rise that does not matter.", show_default=False)
    ],
    rung: Annotated[
        str, typer.Option("--rung", metavar="RUNG", help="That decides: trained, held_out, broad or self.")
    ] = "broad",
    allowed: Annotated[
        bool, typer.Option("--allow-indeterminate", help="Exit code 0 where the numbers cannot tell.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Say whether evaluation B rose above evaluation A, by a margin and with what power; exit code 1 on a rise."""
    need_extra("lab", "comparing evaluations")
    from narrowly.evaluate.paired.comparison import compare

    found = compare(_side(first), _side(second), margin, rung)
    rose = found.deciding.is_rise and found.kind == "controls"
    undecided = found.deciding.is_open or found.kind != "controls"
    if as_json:
        print_json(
            {"rise": rose, "indeterminate": undecided, "sentence": _sentence(found), **found.model_dump(mode="json")}
        )
    else:
        _show(found)
    if undecided and not allowed:
        return INDETERMINATE
    return 1 if rose else 0


def _side(folder: Path) -> Side:
    from narrowly.evaluate.paired.comparison import Side
    from narrowly.evaluate.paired.parts import read_rows
    from narrowly.evaluate.paired.result import RESULT, read_result

    if not (folder / RESULT).is_file():
        raise SpecError(f"{folder} holds no {RESULT}; accepted: a folder that narrowly eval --out wrote")
    result = read_result(folder).paired
    return Side(str(folder), result, read_rows(folder, result))


def _show(found: Comparison) -> None:
    from narrowly.evaluate.paired.comparison import BESIDE

    say(f"A: {safe(found.first)}; B: {safe(found.second)}; both beside {BESIDE[found.kind]}")
    say("log-odds of the harmful against the aligned answer, nats per answer: B minus A, paired by question", "bold")
    console().print(
        table(
            ("rung", "rise", "low", "high", "questions", "verdict", "power", "seen at .8"),
            [_row(one) for one in found.rungs],
        )
    )
    deciding = found.deciding.found
    units = counted(deciding.domains if deciding.unit == "domain" else deciding.questions, deciding.unit)
    say(f"{found.decides}: {deciding.interval.method}; {counted(deciding.seeds, 'seed')}, {units}")
    say(f"power: chance to find a rise of {found.margin:g}; seen at .8: rise that is found with that chance")
    for note in found.notes:
        say(note, "yellow")
    say(_sentence(found), "bold")


def _row(one: Rise) -> tuple[object, ...]:
    interval = one.found.interval
    return (one.found.name, interval.estimate, interval.low, interval.high, one.found.questions, one.found.verdict,
            one.power, one.smallest)  # fmt: skip


def _sentence(found: Comparison) -> str:
    """Return the result in one sentence, which never says that a model is safe."""
    one = found.deciding
    power = "unknown" if one.power is None else f"{one.power:.2f}"
    where = f"on {found.decides} questions"
    if found.kind != "controls":
        return f"cannot tell {where}: without a control a shift is not called misalignment"
    if one.is_open:
        return f"cannot tell {where}: a rise above margin {found.margin:g} is neither shown nor excluded, power {power}"
    if one.is_rise:
        return f"rise {where}: {one.found.interval.estimate:+.3g} nats, not inside the margin of {found.margin:g}"
    return f"no rise above margin {found.margin:g} detected {where} ({one.found.verdict}), power {power}"
