"""One training run: RunSpec in, run directory out.

Killed at any moment, a run resumes to the same adapter bit for bit: on the same machine, with the same versions and
number of threads, on the CPU.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from spectralign.records.canonical import sha256_file
from spectralign.records.errors import IntegrityError, TrainingError
from spectralign.records.files import read_json, write_json
from spectralign.records.run_spec import ResolvedInputs, RunSpec, run_id
from spectralign.train import checkpoint, directory
from spectralign.train.environment import check_device, check_versions, environment
from spectralign.train.heldout import heldout_observer, write_text_record
from spectralign.train.inputs import RunInputs, load_inputs, resolve_inputs
from spectralign.train.observe import Observer, ObserverContext, same_random_state
from spectralign.train.order import micro_batches
from spectralign.train.parts import Parts, build_parts, pad_id
from spectralign.train.recorder import OnStep, Recorder

if TYPE_CHECKING:
    from spectralign.train.reporting import Reporting

__all__ = ["Observer", "ObserverContext", "resolve_inputs", "run_directory", "train_run"]


def run_directory(spec: RunSpec, runs_dir: Path, inputs: ResolvedInputs | None = None) -> Path:
    """Return the directory of a run: `runs_dir` / run-id, whether it exists or not.

    Args:
        spec: the run's spec.
        runs_dir: folder of all runs.
        inputs: what `resolve_inputs(spec)` returned, where the caller has it already.
    """
    return runs_dir / run_id(spec, inputs or resolve_inputs(spec))


def train_run(
    spec: RunSpec,
    runs_dir: Path,
    *,
    observers: Sequence[Observer] = (),
    on_step: OnStep | None = None,
    reporting: Reporting | None = None,
    allow_version_change: bool = False,
) -> Path:
    """Train one run to its end, or finish one that was killed; a finished one is returned at once.

    Args:
        spec: everything that decides the run.
        runs_dir: folder of all runs; the run's own is made inside of it.
        observers: called at the spec's checkpoint steps, 0 included; they cannot disturb the run.
        on_step: called with (step, total, row) after each optimiser step.
        reporting: trackers that get every row, those of a finished run too where they lack them.
        allow_version_change: resume although library versions changed since the run began.

    Returns:
        The run directory, with its `done` marker.

    Raises:
        UnknownNameError, SpecError, IntegrityError, AdapterError, OptimiserError: bad input; nothing is written.
        RunDirectoryError: a foreign, claimed or unwritable directory; a full disk.
        ResumeError: a resume would mix library versions.
        TrainingError: the loss is not finite; failed.json says in which step, and the last good checkpoint is kept.
    """
    check_device(spec.device)
    inputs = load_inputs(spec)
    folder = run_directory(spec, runs_dir, inputs.resolved)
    followed = (
        nullcontext(on_step)
        if reporting is None
        else reporting.follow(folder, spec, inputs.resolved, inputs.base.name, on_step)
    )
    if directory.is_done(folder):
        with followed:
            return _finished(folder)
    directory.check_directory(folder)  # before the lock, so that not even that is put into a foreign folder
    with same_random_state(), _deterministic(spec.device):
        parts = build_parts(spec, inputs)
        with directory.claimed(folder):
            if directory.is_done(folder):  # another process finished it since we looked
                return _finished(folder)
            with followed as on_step:
                _train(spec, inputs, parts, folder, observers, on_step, allow_version_change)
    return folder


def _finished(folder: Path) -> Path:
    directory.check_identity(folder)
    checkpoint.drop_resume_state(folder)  # a run killed right after its last mark still has it
    return folder


@contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Ask torch for deterministic kernels, which cost nothing on the CPU, and give the setting back.

    On a GPU, where attention has none for its backward pass, torch warns.
    """
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=device == "cuda")
    # filling every new tensor is a debugging aid that would slow small models down
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _train(
    spec: RunSpec,
    inputs: RunInputs,
    parts: Parts,
    folder: Path,
    observers: Sequence[Observer],
    on_step: OnStep | None,
    allow_version_change: bool,
) -> None:
    began = time.perf_counter()
    directory.open_directory(folder, spec, inputs.resolved)
    directory.sweep(folder)
    if inputs.text is not None:
        write_text_record(folder, inputs)
        if inputs.text.heldout:
            padding = pad_id(parts.tokenizer)
            observers = (heldout_observer(inputs.text.heldout, spec.batch_size, padding), *observers)
    first_step = _resume(folder, parts, allow_version_change)
    recorder = Recorder(folder, spec, parts, observers, on_step)
    reached = [first_step or 0]
    try:
        if first_step is None:
            recorder.begin()
        if reached[0] < spec.steps:
            _train_steps(spec, inputs, parts, folder, recorder, reached)
    except Exception as error:
        directory.write_failed(folder, error, reached[0])
        raise
    _finish(folder, spec, parts, time.perf_counter() - began)


def _resume(folder: Path, parts: Parts, allow_version_change: bool) -> int | None:
    """Bring parts and files back to the newest checkpoint and return its step, or None for a start from the base.

    Everything is checked before the first file is changed.
    """
    now = environment()
    step = checkpoint.resume_step(folder)
    if step is None:
        directory.truncate_trajectory(folder, None)
        checkpoint.discard_after(folder, -1)
        (folder / directory.FAILED).unlink(missing_ok=True)
        write_json(folder / directory.ENVIRONMENT, {**now, "resumed": []})
        return None
    recorded = read_json(folder / directory.ENVIRONMENT)
    if not isinstance(recorded, dict) or not isinstance(recorded.get("versions"), dict):
        raise IntegrityError(f"{folder / directory.ENVIRONMENT} does not hold versions; it is corrupt or not ours")
    last = (recorded.get("resumed") or [recorded])[-1]
    if not allow_version_change:
        check_versions(last["versions"], now["versions"])
    loaded = checkpoint.load_resume_state(folder, parts.weights, parts.optimizer, parts.scheduler, parts.penalty)
    directory.truncate_trajectory(folder, loaded)
    checkpoint.discard_after(folder, loaded)
    (folder / directory.FAILED).unlink(missing_ok=True)
    # threads and machine may differ without an error, but not without a trace
    resumed = [*recorded.get("resumed", []), {"step": loaded, **now}]
    write_json(folder / directory.ENVIRONMENT, {**recorded, "resumed": resumed})
    return loaded


@contextmanager
def _old_objects_set_aside() -> Iterator[None]:
    """Keep Python's garbage collector off the imported libraries while a run trains.

    The Trainer forces a full collection when it begins, which walks every object of torch and transformers: a fifth
    of a second, a tenth of a micro run.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _train_steps(
    spec: RunSpec,
    inputs: RunInputs,
    parts: Parts,
    folder: Path,
    recorder: Recorder,
    reached: list[int],
) -> None:
    from spectralign.train.penalty_callback import PenaltyCallback
    from spectralign.train.speed import Speed
    from spectralign.train.trainer import RecordCallback, RunTrainer

    first_step = reached[0]
    batches = micro_batches(
        inputs.rows,
        seed=spec.seed,
        steps=spec.steps,
        first_step=first_step,
        batch_size=spec.batch_size,
        accumulation=spec.accumulation,
        pad_id=pad_id(parts.tokenizer),
        bucketed=spec.batching == "bucketed",
        packing=spec.packing,
    )
    if spec.packing:
        from spectralign.train.packing import check_packing

        check_packing(parts.model, inputs.rows, inputs.base.name)
    penalty = None if parts.penalty is None else PenaltyCallback(parts.penalty)
    speed = Speed(spec)

    def finish_step(step: int, loss: float, lr: float, grad_norm: float) -> None:
        reached[0] = step
        value = None
        if parts.penalty is not None and penalty is not None and penalty.value is not None:
            value = parts.penalty.checked(penalty.value)
        tokens = sum(len(inputs.rows[row].input_ids) for row in batches.rows_of_step(step - first_step - 1))
        recorder.finish_step(step, loss, lr, value, grad_norm, speed.of_step(step, tokens, trainer.micro_batch))
        speed.begin()  # what is recorded at a checkpoint is no training

    trainer = RunTrainer(
        parts.model,
        spec,
        batches,
        spec.steps - first_step,
        folder,
        (parts.optimizer, parts.scheduler),
        RecordCallback(
            spec.seed if spec.adapter.dropout > 0 else None,
            first_step,
            finish_step,
            lambda step: ", ".join(inputs.name_of_row(row) for row in batches.rows_of_step(step)),
        ),
        penalty,
    )
    speed.begin()
    try:
        with _old_objects_set_aside():
            trainer.train()
    finally:
        recorder.write_speed()
    if reached[0] != spec.steps:
        raise TrainingError(f"training stopped after step {reached[0]} of {spec.steps} without saying why")


def _finish(folder: Path, spec: RunSpec, parts: Parts, seconds: float) -> None:
    steps = checkpoint.checkpoint_steps(folder)
    if steps != list(spec.checkpoint_steps()):
        raise IntegrityError(
            f"{folder} has checkpoints of steps {', '.join(map(str, steps))}, expected "
            f"{', '.join(map(str, spec.checkpoint_steps()))}; remove the directory to train the run anew"
        )
    files = {step: parts.weights.file(step) for step in steps}
    done = {
        "run_id": folder.name,
        "steps": spec.steps,
        "seconds": round(seconds, 3),
        directory.WEIGHTS_SHA256[spec.method]: {
            str(step): sha256_file(checkpoint.checkpoint_folder(folder, step) / file)
            for step, file in files.items()
            if file is not None
        },
    }
    write_json(folder / directory.DONE, done)
    checkpoint.drop_resume_state(folder)
