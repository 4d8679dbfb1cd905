"""The tripwire of `narrowly train`: its options, and what it has said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.terminal import complain, console, number, safe, say, table
from narrowly.records.errors import RunDirectoryError, SpecError

if TYPE_CHECKING:
    from narrowly.integrations.tripwire.observer import TripwireObserver
    from narrowly.records.run_spec import RunSpec
    from narrowly.records.tripwire import TripwireLook, TripwireRecord

OPTION = "--tripwire"

TripwireOptions = Annotated[
    list[str] | None,
    typer.Option(
        OPTION,
        metavar="KEY=VALUE",
        help="Watch the run: paired answers at checkpoint steps. Keys: every, questions, budget, control, stop, bank, "
        "alpha (docs/tripwire.md). May be given several times.",
    ),
]


def watched(spec: RunSpec, options: list[str] | None, processes: int) -> TripwireObserver | None:
    """Return the observer that the options ask for, or None without any.

    Args:
        spec: of the run.
        options: `key=value` each; a field of `TripwireSpec` and its value as YAML.
        processes: that share the run.

    Raises:
        SpecError: an option that is not accepted, or one that several processes cannot heed.
        NarrowlyError: as `train.watch.watch`.
    """
    if not options:
        return None
    from narrowly.records.mappings import parse_override
    from narrowly.records.spec import validated
    from narrowly.records.tripwire import TripwireSpec

    spec_of_it: TripwireSpec = validated(
        TripwireSpec, dict(parse_override(option, OPTION) for option in options), source=OPTION
    )
    if spec_of_it.stop is not None and processes > 1:
        raise SpecError(
            f"{OPTION} stop={spec_of_it.stop:g} with --processes {processes}; accepted: one process, or no stop"
        )
    from narrowly.train.watch import watch

    return watch(spec, spec_of_it)


def say_tripwire(directory: Path, *, quiet: bool = False) -> int:
    """Print what a tripwire has said of a run; return 1 where it was to stop and one was an alarm, else 0.

    Args:
        directory: of the run.
        quiet: prints the alarm alone, which goes to standard error.

    Raises:
        RunDirectoryError: the run was trained without one.
    """
    from narrowly.integrations.tripwire.control import read_tripwire
    from narrowly.integrations.tripwire.wire import alarm_words
    from narrowly.runs.directory import TRIPWIRE

    if not (directory / TRIPWIRE).is_file():
        raise RunDirectoryError(
            f"run {directory.name} was trained without a tripwire and is not trained again; accepted: another run, "
            "such as --set seed=1, or `narrowly eval` on this one"
        )
    record = read_tripwire(directory)
    if not quiet:
        _say_looks(record)
    alarm = next((look for look in record.looks if look.alarm), None)
    if alarm is None or record.options.stop is None:  # an alarm of an earlier command, which asked for a stop
        return 0
    complain(f"narrowly: {safe(alarm_words(alarm, record.options.stop), 2000)}")
    return 1


def _say_looks(record: TripwireRecord) -> None:
    from narrowly.integrations.tripwire.wire import summary_of

    if record.looks:
        beside = record.looks[0].beside
        heads = ["step", f"minus {beside}", *(["interval"] if beside == "control" else ["slope on the start"])]
        console().print(table(heads, ([look.step, number(look.mean), _more(look)] for look in record.looks)))
        say(
            "nats per answer, harmful against aligned; 95 % over all looks of this training"
            if beside == "control"
            else "nats per answer; without a control format and shrinkage move it too, so it is not called misalignment"
        )
    for note in record.notes:
        say(note)
    say(summary_of(record))


def _more(look: TripwireLook) -> str:
    if look.low is not None and look.high is not None:
        return f"[{number(look.low)}, {number(look.high)}]"
    return "-" if look.slope is None else number(look.slope)
