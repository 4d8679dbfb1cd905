"""Compare two folders of verdicts, and print rises, bounds, power and what the variance is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from narrowly.cli.terminal import console, print_json, safe, say, table
from narrowly.records.errors import counted
from narrowly.records.gate import Word

if TYPE_CHECKING:
    from narrowly.evaluate.judges.comparison import JudgedComparison
    from narrowly.evaluate.judges.gates import Gate


def compare_judged_folders(
    first: Path, second: Path, margin: float, coherence_margin: float | None, *, as_json: bool
) -> Word:
    """Compare two folders that `narrowly judge` wrote, print what was found and return it in a word.

    Args:
        first: what is compared with.
        second: what may have risen.
        margin: largest rise of the joint rate that does not matter, a share of all answers.
        coherence_margin: largest loss of coherent answers that does not matter; None is `margin`.
        as_json: whether one JSON document is printed.
    """
    from narrowly.evaluate.judges.comparison import compare_judged, judged_side

    found = compare_judged(judged_side(first), judged_side(second), margin, coherence_margin)
    if as_json:
        words = {"rise": found.word is Word.RISE, "indeterminate": found.word is Word.OPEN, "sentence": sentence(found)}
        print_json({**words, **found.model_dump(mode="json")})
    else:
        _show(found)
    return found.word


def sentence(found: JudgedComparison) -> str:
    """Return the result in one sentence, which never says that a model is safe."""
    own, lost, both = found.gates
    if found.word is Word.RISE:
        shown = [f"{what} {_points(gate.rise)} points, not below the margin of {_size(gate.margin)}"
                 for gate, what in ((own, "misalignment rose by"), (lost, "coherence fell by"))
                 if gate.word is Word.RISE]  # fmt: skip
        return "; ".join(shown)
    if found.word is Word.NO_RISE:
        return (
            f"no rise above margin {_size(own.margin)} points detected, upper 95 % bound {_points(own.upper)}, power "
            f"{_power(own)}; coherence lost: upper bound {_points(lost.upper)}, margin {_size(lost.margin)}, power "
            f"{_power(lost)}"
        )
    open_ = [gate for gate in (own, lost) if gate.word is Word.OPEN]
    if not open_:
        return (
            "cannot tell: were the answers that are none misaligned, a rise above margin "
            f"{_size(both.margin)} points would not be excluded (upper bound {_points(both.upper)})"
        )
    reasons = [f"{gate.name} above margin {_size(gate.margin)} points is neither shown nor excluded (upper bound "
               f"{_points(gate.upper)}, power {_power(gate)})" for gate in open_]  # fmt: skip
    return f"cannot tell: {'; '.join(reasons)}"


def _show(found: JudgedComparison) -> None:
    names = [f"{side} {safe(name)} ({arm}, {counted(seeds, 'file')})" for side, name, arm, seeds in
             zip("AB", (found.first, found.second), found.arms, found.seeds, strict=True)]  # fmt: skip
    say(f"{names[0]}; {names[1]}")
    say(f"judge {safe(found.judge)}, rubrics {safe(found.rubrics_name)}; {found.cuts}")
    say(f"{counted(found.questions, 'question')}; answers: A {found.answers[0]}, B {found.answers[1]}")
    used = [name for name in found.classes[0] if found.classes[0][name] or found.classes[1][name]]
    rows = [(name, found.classes[0][name], found.classes[1][name]) for name in used]
    console().print(table(("outcome class", "A", "B"), rows))
    say("")
    say("B minus A, in points of all answers", "bold")
    columns = ("rise of", "A", "B", "rise", "95 % interval", "upper", "margin", "verdict", "power", "seen at .8")
    console().print(table(columns, [_row(gate) for gate in found.gates]))
    for gate in found.gates:
        say(f"{gate.name}: {gate.definition}; {gate.method}")
    say("upper: one-sided 95 % bound; power: chance that this design shows a rise of exactly the margin; seen at .8: "
        "rise that it shows with that chance")  # fmt: skip
    say("")
    console().print(table(("variance of the rise of misalignment", "points^2", "why not"), _components(found)))
    parts = ", ".join(f"{part} {_points(rise)}" for part, rise in found.parts.items())
    say(f"rise of misalignment by part of the bank: {parts}")
    if found.corrected is not None:
        one, other = (f"{100 * rate:.2f} %" for rate in found.corrected)
        say(f"joint rates without the judge's errors (Rogan-Gladen): A {one}, B {other}")
    for note in found.notes:
        say(note, "yellow")
    say(sentence(found), "bold")


def _row(gate: Gate) -> Sequence[object]:
    interval = "-" if gate.low is None or gate.high is None else f"{_points(gate.low)} to {_points(gate.high)}"
    return (gate.name, f"{100 * gate.first:.2f} %", f"{100 * gate.second:.2f} %", _points(gate.rise), interval,
            _points(gate.upper), _size(gate.margin), gate.word.value, _power(gate),
            None if gate.smallest is None else _size(gate.smallest))  # fmt: skip


def _components(found: JudgedComparison) -> Iterator[tuple[object, ...]]:
    for part in found.components:
        yield part.name, None if part.variance is None else f"{1e4 * part.variance:.3g}", part.reason or ""


def _points(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.2f}"


def _size(share: float) -> str:
    return f"{100 * share:.3g}"


def _power(gate: Gate) -> str:
    return "unknown" if gate.power is None else f"{gate.power:.2f}"
