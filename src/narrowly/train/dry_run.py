"""Say what a run would be, and everything that is wrong with it at once; nothing is trained or written."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from narrowly.data.render import token_pieces
from narrowly.data.rows import Row
from narrowly.data.run_rows import RunRows
from narrowly.models.base import Base, empty_model, noise_switched_off, open_base
from narrowly.models.lora import target_matrices
from narrowly.records.errors import NarrowlyError
from narrowly.records.mappings import apply_assignment, nested, read_mapping
from narrowly.records.run_spec import ALL_LINEAR, RunSpec, run_id
from narrowly.records.spec_faults import spec_and_faults
from narrowly.runs import directory
from narrowly.runs.claims import is_claimed
from narrowly.train.environment import check_processes
from narrowly.train.inputs import load_inputs
from narrowly.train.memory import Memory, memory_of, trained_numbers
from narrowly.train.row_faults import count_without_base, read_leniently

Found = TypeVar("Found")


class Tokens(NamedTuple):
    """Count tokens of the rows to train on: all, those with a loss, and of the longest row."""

    all: int
    supervised: int
    longest: int


class Model(NamedTuple):
    """Describe what is trained: matrices with factors by name of their module, trained numbers, memory of a step."""

    matrices: Mapping[str, int]
    trained: int
    memory: Memory


@dataclass
class DryRun:
    """Hold what a run would be, as far as it is known, and what is wrong.

    Attributes:
        faults: one line each; empty where the run can be trained.
        notes: what is done otherwise than one may expect.
        spec: what would be trained.
        run_id: its id; None where something is wrong.
        state: of its directory: new, begun or done.
        base: its name.
        rows, heldout, dropped, bad: counts of rows to train on, held out, left out as too long, left out as bad.
        tokens: of one epoch.
        pieces: one row, token by token: (text, whether it carries a loss).
        model: what is trained of it.
    """

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    spec: RunSpec | None = None
    run_id: str | None = None
    state: str | None = None
    base: str | None = None
    rows: int | None = None
    heldout: int = 0
    dropped: int = 0
    bad: int = 0
    tokens: Tokens | None = None
    pieces: list[tuple[str, bool]] = field(default_factory=list)
    model: Model | None = None

    @property
    def epochs(self) -> float | None:
        """Passes over the rows that the steps make."""
        if self.spec is None or not self.rows or self.spec.epochs is not None:
            return None
        return self.spec.steps * self.spec.batch_size * self.spec.accumulation / self.rows

    def check(self, action: Callable[[], Found]) -> Found | None:
        """Return what an action gives, or note the error of a user and return None; warnings become notes."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                return action()
            except NarrowlyError as error:
                if str(error) not in self.faults:
                    self.faults.append(str(error))
                return None
            finally:
                ours = [str(one.message) for one in told if "narrowly" in Path(one.filename).parts]
                self.notes += [note for note in ours if note not in self.notes]


def dry_run(path: Path, assignments: Iterable[str], runs: Path, processes: int = 1) -> DryRun:
    """Look at everything that a run needs, and go on behind what is wrong.

    Args:
        path: the spec.
        assignments: `a.b=value` overrides.
        runs: folder of all runs; it is only looked at.
        processes: how many would share the run.
    """
    result = DryRun()
    raw = result.check(lambda: read_mapping(path, "run spec"))
    if raw is None:
        return result
    merged = nested(raw)
    for assignment in assignments:
        changed = result.check(partial(apply_assignment, RunSpec, merged, assignment))
        merged = merged if changed is None else changed
    spec, faults = spec_and_faults(merged)
    result.faults += faults
    result.check(lambda: check_processes(spec, processes))
    base = result.check(lambda: open_base(spec.base))
    if base is None:
        result.rows = result.check(lambda: count_without_base(spec.data))
        return result
    result.base = base.name
    result.check(lambda: (base.config, base.tokenizer_sha256, base.sha256))
    data = _look_at_rows(spec, base, result)
    if not result.faults and data is not None:
        _look_at_run(spec, base, runs, result)
    else:
        _look_at_model(spec, base, () if data is None else data.rows, result)
    return result


def _look_at_rows(spec: RunSpec, base: Base, result: DryRun) -> RunRows | None:
    """Read and render the rows, those behind a bad one too, and count them."""
    data = result.check(lambda: read_leniently(spec, base, result.faults))
    if data is None:
        return None
    result.rows, result.heldout = len(data.rows), len(data.heldout)
    result.dropped, result.bad = len(data.dropped), len(data.bad)
    lengths = [len(row.input_ids) for row in data.rows]
    result.tokens = Tokens(sum(lengths), sum(row.supervised for row in data.rows), max(lengths))
    tokenizer = result.check(base.tokenizer)
    if tokenizer is not None:
        result.pieces = token_pieces(tokenizer, data.rows[0])
        _note_unknown(tokenizer, data, result)
    return data


def _note_unknown(tokenizer: Any, data: RunRows, result: DryRun) -> None:
    """Note how many tokens are the one for what a tokenizer cannot write, in rows that it made itself."""
    unknown = tokenizer.unk_token_id
    if unknown is None or data.lines is None:
        return
    counts = [row.input_ids.count(unknown) for row in data.rows]
    if any(counts):
        result.notes.append(
            f"{sum(counts)} of {sum(len(row.input_ids) for row in data.rows)} tokens, in "
            f"{sum(map(bool, counts))} of {len(counts)} rows, are {tokenizer.unk_token}: the base's tokenizer cannot "
            "write these words, and the run would train on that token in their place"
        )


def _look_at_run(spec: RunSpec, base: Base, runs: Path, result: DryRun) -> None:
    """Find the run-id of a spec that is right, and what is in its directory."""
    inputs = result.check(lambda: load_inputs(spec))
    if inputs is None:
        return
    result.spec = inputs.spec
    _look_at_model(inputs.spec, base, inputs.rows, result)
    if inputs.spec.adapter.target_modules != spec.adapter.target_modules:
        missing = [name for name in ALL_LINEAR if name not in inputs.spec.adapter.target_modules]
        result.notes.append(
            f"base {base.name} has no linear layers {', '.join(missing)}: the adapter is on "
            f"{', '.join(inputs.spec.adapter.target_modules)}"
        )
    quiet = noise_switched_off(base)
    if quiet:
        named = ", ".join(f"{name} {value:g}" for name, value in quiet.items())
        result.notes.append(f"base {base.name} is trained without noise of its own ({named} in config.json)")
    result.run_id = run_id(inputs.spec, inputs.resolved)
    folder = runs / result.run_id
    begun = result.check(lambda: directory.check_directory(folder))
    result.state = "done" if directory.is_done(folder) else "begun" if begun else "new"
    if is_claimed(directory.claim_file(runs, result.run_id)):
        result.notes.append("another command is at work on this run")


def _look_at_model(spec: RunSpec, base: Base, rows: tuple[Row, ...], result: DryRun) -> None:
    """Find the matrices that get factors, and estimate the memory of a step."""
    model = result.check(lambda: empty_model(base.folder))
    if model is None:
        return
    paths = result.check(lambda: target_matrices(model, spec.adapter))
    if paths is None or not rows:
        return
    matrices = dict(Counter(path.rpartition(".")[2] for path in paths))
    result.model = Model(matrices, trained_numbers(spec, model), memory_of(spec, model, rows))
