"""Read everything that a run reads, and identify it by content: base, tokenizer, chat template, rows."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from narrowly.data.rows import Row, check_rows, rows_sha256
from narrowly.data.run_rows import RunRows
from narrowly.models.base import Base, open_base
from narrowly.models.targets import targets_of_base
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.data_specs import MicroOthers, world_data
from narrowly.records.objectives import KlToBase
from narrowly.records.run_spec import ALL_LINEAR, ResolvedInputs, RunSpec
from narrowly.train.start import find_start, started
from narrowly.train.steering import steered

if TYPE_CHECKING:
    from torch import Tensor

READERS = {
    "micro": ("narrowly.microworld.treated", "micro_rows"),
    "rows": ("narrowly.data.file_rows", "file_rows"),
    "text": ("narrowly.data.text_rows", "text_rows"),
    "micro_preferences": ("narrowly.microworld.elsewhere", "micro_preferences"),
    "preferences": ("narrowly.data.preferences", "preference_rows"),
}
"""`data.source` -> module and function that reads its rows: (data, base, run seed) -> RunRows."""


class RunInputs(NamedTuple):
    """Everything a run reads: the base, the rows with their origin, and all of it by content.

    Attributes:
        base: the base.
        data: the rows.
        resolved: what the names of the spec stand for, by content.
        spec: what is trained: epochs counted in steps, the default target modules those that the base has.
        others: rows outside the narrow domain that the objective asks for.
        start: the adapter's folder that training starts from; None: from the base.
        steering: the direction that states are moved along, by layer, in training; None: none.
    """

    base: Base
    data: RunRows
    resolved: ResolvedInputs
    spec: RunSpec
    others: tuple[Row, ...] = ()
    start: Path | None = None
    steering: Mapping[int, Tensor] | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows to train on."""
        return self.data.rows


def checked_rows(spec: RunSpec, base: Base) -> RunRows:
    """Read the rows of a run and check them against its base.

    Raises:
        NarrowlyError: as `load_inputs`.
    """
    module, function = READERS[spec.data.source]
    data = cast(RunRows, getattr(import_module(module), function)(spec.data, base, spec.seed))
    for part in (data.rows, data.heldout) if data.heldout else (data.rows,):
        check_rows(part, source=data.source, vocabulary=base.vocabulary, longest=base.positions)
    return data


def other_rows(spec: RunSpec, base: Base) -> tuple[Row, ...]:
    """Read the rows outside the narrow domain that an objective asks for; none where it asks for none.

    Raises:
        NarrowlyError: as `load_inputs`.
    """
    objective = spec.objective
    if not isinstance(objective, KlToBase):
        return ()
    if isinstance(objective.data, MicroOthers):
        from narrowly.microworld import elsewhere

        narrow = world_data(spec.data, "objective.data").domain
        data = elsewhere.other_rows(objective.data, base, spec.seed, narrow)
    else:
        module, function = READERS[objective.data.source]
        data = getattr(import_module(module), function)(objective.data, base, spec.seed)
    check_rows(data.rows, source=data.source, vocabulary=base.vocabulary, longest=base.positions)
    return data.rows


def load_inputs(spec: RunSpec) -> RunInputs:
    """Find, check and hash everything a run reads.

    Raises:
        UnknownNameError: a base that is neither a folder nor shipped.
        SpecError: a folder that is no base, rows that do not fit the base.
        IntegrityError: weights, rows or JSON that are not what their record says.
    """
    base = open_base(spec.base)
    config_sha256, tokenizer_sha256 = base.config_sha256, base.tokenizer_sha256
    steering, steering_sha256, spec = steered(spec, base)
    start, start_sha256 = (None, None) if spec.start is None else find_start(spec.start, base)
    data, others = checked_rows(spec, base), other_rows(spec, base)
    data_sha256 = rows_sha256(data.rows)
    for more in (data.heldout, others):
        if more:
            data_sha256 = sha256_text(canonical_json([data_sha256, rows_sha256(more)]))
    if data.preferences:
        data_sha256 = sha256_text(canonical_json([data_sha256, data.preferences]))
    resolved = ResolvedInputs(
        base_sha256=base.sha256,
        config_sha256=config_sha256,
        tokenizer_sha256=tokenizer_sha256,
        template_sha256=base.template_sha256 if data.template is None else sha256_text(data.template),
        data_sha256=data_sha256,
        start_sha256=start_sha256,
        steering_sha256=steering_sha256,
    )
    typed = settled(spec if start is None else started(spec, start), base, len(data.rows))
    return RunInputs(base, data, resolved, typed, others, start, steering)


def settled(spec: RunSpec, base: Base, rows: int) -> RunSpec:
    """Return the spec with everything in it that depends on the base or on the number of rows; it gives the run-id.

    Raises:
        SpecError: a warm-up that is too long for the steps of the epochs, a base no layer of which takes an adapter.
    """
    counted = spec.counted(rows)
    if counted.adapter.target_modules != ALL_LINEAR:
        return counted
    targets = targets_of_base(base)
    adapter = counted.adapter.model_copy(update={"target_modules": targets})
    return counted if targets == ALL_LINEAR else counted.model_copy(update={"adapter": adapter})


def check_base(name_or_path: str) -> Path:
    """Check that a base is on this machine, and that its weights are those of its card if any; return its folder.

    Raises:
        NarrowlyError: as `open_base`.
    """
    return open_base(name_or_path).folder


def resolve_inputs(spec: RunSpec) -> ResolvedInputs:
    """Return what the names of a spec stand for, by content; together with `RunInputs.spec` it gives the run-id.

    Raises:
        UnknownNameError, SpecError, IntegrityError: as `load_inputs`.
    """
    return load_inputs(spec).resolved
