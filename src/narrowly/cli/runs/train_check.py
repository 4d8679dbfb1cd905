"""Print a dry run of training: what the run would be, one of its rows, and everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.cli.rows.rendered import say_pieces
from narrowly.cli.terminal import console, need_extra, print_json, safe, say, table

if TYPE_CHECKING:
    from narrowly.train.dry_run import DryRun

SHOWN = 400
"""Pieces of the row that are shown; `--json` has all."""


def check(spec: Path, assignments: list[str], out: Path, processes: int, as_json: bool) -> int:
    """Print a dry run; return 0 where the run can be trained, else 2."""
    need_extra("lab", "a dry run of training")
    from narrowly.runs.directory import runs_folder
    from narrowly.train.dry_run import dry_run

    found = dry_run(spec, assignments, runs_folder(out), processes)
    if as_json:
        print_json(_record(found))
    else:
        _say(found, out)
    return 2 if found.faults else 0


def _record(found: DryRun) -> dict[str, Any]:
    model = found.model
    return {
        "trainable": not found.faults,
        "faults": found.faults,
        "notes": found.notes,
        "run_id": found.run_id,
        "state": found.state,
        "base": found.base,
        "rows": found.rows,
        "heldout_rows": found.heldout,
        "dropped_rows": found.dropped,
        "bad_rows": found.bad,
        "steps": found.spec.steps if found.spec else None,
        "epochs": found.epochs,
        "tokens_per_epoch": found.tokens.all if found.tokens else None,
        "supervised_tokens_per_epoch": found.tokens.supervised if found.tokens else None,
        "longest_row": found.tokens.longest if found.tokens else None,
        "matrices": model.matrices if model else None,
        "trained_parameters": model.trained if model else None,
        "memory_bytes": {**model.memory._asdict(), "total": model.memory.total} if model else None,
        "spec": found.spec.model_dump(mode="json") if found.spec else None,
        "row": [{"text": text, "loss": loss} for text, loss in found.pieces],
    }


def _say(found: DryRun, out: Path) -> None:
    facts = table(("", ""), _facts(found, out))
    facts.show_header = False
    console().print(facts)
    if found.pieces:
        begin = _begin([loss for _, loss in found.pieces])
        shown = found.pieces[begin : begin + SHOWN]
        say("")
        say("the first row:" if len(shown) == len(found.pieces) else "a part of the first row:", style="bold")
        say_pieces(shown)
    for note in found.notes:
        say(f"note: {safe(note, 2000)}")
    say("")
    if not found.faults:
        say("this run can be trained; nothing was written", style="bold")
        return
    say(f"{len(found.faults)} to mend; nothing was written:", style="bold")
    for fault in found.faults:
        say(f"- {safe(fault, 2000)}")


def _begin(losses: list[bool]) -> int:
    """Return where the shown part of a row begins: at its start, or so that the first token with a loss is in it."""
    first = losses.index(True) if True in losses else 0
    return 0 if first < SHOWN // 2 else first - SHOWN // 2


def _facts(found: DryRun, out: Path) -> list[tuple[str, str]]:
    """Return what is known, as (name, value)."""
    facts: list[tuple[str, str]] = []
    if found.run_id is not None:
        words = {"new": "new", "begun": "begun, goes on", "done": "done already"}
        facts.append(("run", f"{found.run_id} ({words.get(str(found.state), found.state)}) in {out / 'runs'}"))
    if found.base is not None:
        facts.append(("base", found.base))
    if found.rows is not None:
        rest = [(found.heldout, "held out"), (found.dropped, "left out as too long"), (found.bad, "left out as bad")]
        facts.append(("rows", "; ".join([f"{found.rows:,}", *(f"{count:,} {what}" for count, what in rest if count)])))
    if found.tokens is not None:
        share = found.tokens.supervised / found.tokens.all
        facts.append(
            ("tokens per epoch", f"{found.tokens.all:,}; {found.tokens.supervised:,} with a loss ({share:.1%})")
        )
        facts.append(("longest row", f"{found.tokens.longest:,} tokens"))
    spec = found.spec
    if spec is not None:
        epochs = "" if found.epochs is None else f" = {found.epochs:.3g} epochs"
        facts.append(("steps", f"{spec.steps:,} of {spec.batch_size} x {spec.accumulation} rows{epochs}"))
        facts.append(("warm-up", f"{spec.schedule.warmup_steps} steps, then {spec.schedule.kind}"))
        facts.append(("checkpoints", ", ".join(map(str, spec.checkpoint_steps()))))
    if found.model is not None:
        listed = ", ".join(f"{name} {count}" for name, count in found.model.matrices.items())
        facts.append(("matrices", f"{sum(found.model.matrices.values())}: {listed}"))
        facts.append(("trained numbers", f"{found.model.trained:,}"))
        facts.append(("memory, estimated", _memory(found.model.memory._asdict(), found.model.memory.total)))
    return facts


def _memory(parts: dict[str, int], total: int) -> str:
    listed = ", ".join(f"{name} {_size(count)}" for name, count in parts.items() if count)
    return f"{_size(total)} ({listed}), beside Python and its libraries"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
