"""Put a tripwire on a run: its questions, its prompts by content, and a control that belongs to it."""

from __future__ import annotations

from pathlib import Path

from narrowly.data.banks.paired import SHIPPED_NAME
from narrowly.integrations.tripwire.control import AdapterControl
from narrowly.integrations.tripwire.observer import TripwireObserver
from narrowly.integrations.tripwire.prompts import prompts_sha256
from narrowly.integrations.tripwire.wire import Tripwire
from narrowly.microworld.pairs import world_pairs, world_texts
from narrowly.records.errors import NarrowlyError, SpecError
from narrowly.records.run_spec import RunSpec
from narrowly.records.tripwire import TripwireSpec
from narrowly.runs.directory import is_run, read_inputs, read_spec
from narrowly.train.inputs import load_inputs


def watch(spec: RunSpec, tripwire: TripwireSpec) -> TripwireObserver:
    """Return the observer of a run that a tripwire watches; give it to `train_run`, and its `ending` as `on_step`.

    Questions of the shipped bank are those that no narrow set trains on; a run on a base of the microworld is asked
    pairs of its own world.

    Args:
        spec: of the run.
        tripwire: its options.

    Raises:
        SpecError: a control with the very data of the run, or of another base or other prompts.
        NarrowlyError: inputs, bank or control that cannot be read.
    """
    inputs = load_inputs(spec)
    own = inputs.spec
    items = world_pairs(inputs.base.folder, own.data, own.seed) if tripwire.bank == SHIPPED_NAME else None
    wire = Tripwire(tripwire, items, None if items is None else world_texts)
    folder = None if tripwire.control is None else Path(tripwire.control).expanduser()
    if folder is not None and is_run(folder):
        if read_inputs(folder).data_sha256 == inputs.resolved.data_sha256:
            raise SpecError(
                f"control {folder.resolve().name} was trained on the very data of this run; accepted: the same "
                "prompts, with other answers (`narrowly train SPEC --control aligned` trains it)"
            )
        if isinstance(wire.control, AdapterControl):
            wire.control.prompts_sha256 = _prompts_of(folder)
    return TripwireObserver(
        wire,
        own.checkpoint_steps(),
        getattr(own.data, "thinking", None),
        prompts_sha256(inputs.rows),
        inputs.resolved.base_sha256,
    )


def _prompts_of(run: Path) -> str | None:
    """Return the prompts of a run by content, from rows made again; None where its data are no longer there."""
    try:
        inputs = load_inputs(read_spec(run))
    except NarrowlyError:
        return None
    same = inputs.resolved.data_sha256 == read_inputs(run).data_sha256
    return prompts_sha256(inputs.rows) if same else None
