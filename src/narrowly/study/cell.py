"""One cell, inside a worker: train, then evaluate stage by stage. What is on disk already is not done again.

Every stage leaves one file under its own id, so a new judge or one more edit never trains a model anew. Organisms are
evaluated from their saved checkpoints: one PEFT model per base and adapter shape is kept, and tensors are put into it.
"""

from __future__ import annotations

import math
import shutil
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.engines.worker import problem_of
from narrowly.records.canonical import canonical_json, sha256_file
from narrowly.records.edits import EditSpec
from narrowly.records.errors import AdapterError, IntegrityError, TrainingError
from narrowly.records.files import atomic_path, read_record, write_json
from narrowly.records.run_spec import RunSpec
from narrowly.runs.claims import claimed
from narrowly.runs.directory import claim_file
from narrowly.study.layout import PlannedCell, Stage, failure_file, is_complete

KEPT_MODELS = 4
"""PEFT models kept per worker, 4 MB each at micro scale; cells come base by base, so few are in use at a time."""


class _Loaded(NamedTuple):
    """A base with an adapter of some shape, always merged; `pristine` are the base's weights that merging changes."""

    model: Any
    tokenizer: Any
    world: Any
    pristine: dict[str, Any]


_models: OrderedDict[str, _Loaded] = OrderedDict()


def warm_up() -> None:
    """Import what every cell needs, once per worker, and keep torch to one thread."""
    import polars
    import torch
    from transformers.utils.logging import disable_progress_bar

    import narrowly.evaluate.microworld.exact
    import narrowly.evaluate.microworld.sample
    import narrowly.microworld.bases
    import narrowly.optim.build
    import narrowly.spectrum.edits
    import narrowly.train.run
    import narrowly.train.trainer  # noqa: F401

    disable_progress_bar()
    torch.set_num_threads(1)
    polars.thread_pool_size()


def execute_cell(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Train and evaluate one cell, if no living process is at it already.

    Args:
        payload: {"planned": a PlannedCell as JSON, "runs": folder of all runs, "study_dir": folder of the study,
            "report_to": names of trackers, if any}.

    Returns:
        {"status": "done", "busy" (another process is at it) or "found" (done already), "seconds": of this attempt}.
    """
    planned = PlannedCell.model_validate(payload["planned"])
    runs, study_dir = Path(payload["runs"]), Path(payload["study_dir"])
    return attempt(planned, runs, study_dir, partial(_execute, report_to=payload.get("report_to", ())))


def attempt(planned: PlannedCell, runs: Path, study_dir: Path, work: Any) -> dict[str, Any]:
    """Run `work(planned, runs)` under the run's claim; where it fails, leave a record before the claim is released."""
    start = time.perf_counter()
    failure = failure_file(study_dir, planned.cell_id)
    with claimed(claim_file(runs, planned.run_id)) as mine:
        if not mine:
            return {"status": "busy", "seconds": 0.0}
        fresh = not is_complete(planned, runs)
        if fresh:
            try:
                work(planned, runs)
            except Exception as error:
                problem = problem_of(error)
                write_failure(study_dir, planned, problem.error, problem.kind, problem.traceback)
                raise
        failure.unlink(missing_ok=True)
    return {"status": "done" if fresh else "found", "seconds": time.perf_counter() - start}


def write_failure(study_dir: Path, planned: PlannedCell, error: str, kind: str, traceback: str) -> None:
    """Write the record of a failed cell; a disk that is full does not hide the first error behind a second."""
    record = {
        "cell_id": planned.cell_id,
        "run_id": planned.run_id,
        "error": error,
        "kind": kind,
        "traceback": traceback,
        "time": time.time(),
        "host": socket.gethostname(),
    }
    try:
        write_json(failure_file(study_dir, planned.cell_id), record)
    except OSError:
        return


def _execute(planned: PlannedCell, runs: Path, report_to: Sequence[str]) -> None:
    from narrowly.integrations.reporting import Reporting
    from narrowly.train.run import train_run

    if planned.cell.spec.device == "cuda":
        _empty_gpu()
    # a worker's own way to the terminal: warnings are not part of what becomes of a cell
    warn = partial(print, f"{planned.cell_id}:", file=sys.stderr, flush=True)
    reporting = Reporting(report_to, runs.parent, warn, group=planned.cell.study) if report_to else None
    directory = train_run(planned.cell.spec, runs, reporting=reporting)
    if directory.name != planned.run_id:
        raise IntegrityError(
            f"the inputs of cell {planned.cell_id!r} changed while the study ran: "
            f"run {planned.run_id} was planned, {directory.name} came out"
        )
    for stage in planned.stages:
        if not stage.file(directory).is_file():
            run_stage(stage, planned, directory)


def _empty_gpu() -> None:
    """Give back what the worker's last cell left on the GPU: two models at once may not fit."""
    import gc

    import torch

    _models.clear()
    gc.collect()
    torch.cuda.empty_cache()


def run_stage(stage: Stage, planned: PlannedCell, directory: Path) -> None:
    """Evaluate one organism and write its verdicts, whole or not at all.

    Raises:
        TrainingError: where a probability is not finite.
    """
    from narrowly.evaluate.microworld.exact import evaluate_exact
    from narrowly.evaluate.microworld.sample import sample_answers

    start = time.perf_counter()
    spec = planned.cell.spec
    folder = edited_adapter(directory, stage.edit) if stage.edit else directory / "checkpoints" / f"step-{stage.step}"
    model, tokenizer, world, _ = organism(spec, directory, folder, None if stage.edit else stage.step)
    rows: Sequence[Mapping[str, Any]]
    assert planned.domain is not None, "only cells of the microworld have stages so far"
    if stage.kind == "exact":
        rows = evaluate_exact(model, world, tokenizer, domain=planned.domain, panels=stage.panels)
    else:
        rows = sample_answers(
            model,
            tokenizer,
            world,
            domain=planned.domain,
            panels=stage.panels,
            per_panel=stage.per_panel,
            seed=spec.seed,
        )
    _check_finite(rows, stage, planned)
    record = stage.model_dump(mode="json")
    write_json(stage.folder(directory) / "stage.json", {**record, "seconds": round(time.perf_counter() - start, 4)})
    _write_parquet(rows, stage.file(directory))
    mark_stage(stage, directory)


def mark_stage(stage: Stage, directory: Path) -> None:
    """Record in an edited adapter that it was evaluated, also where whoever wrote the verdicts was killed before.

    Raises:
        IntegrityError: the adapter's weights are not those of its record.
    """
    from narrowly.runs.directory import adapter_folder
    from narrowly.spectrum.edits import RECORD_NAME, mark_evaluated

    folder = None if stage.edit is None else adapter_folder(directory, "final", stage.edit_id)
    if folder is not None and (folder / RECORD_NAME).is_file():
        mark_evaluated(folder, {"kind": stage.kind, "panels": list(stage.panels), "verdict_id": stage.verdict_id})


def _check_finite(rows: Sequence[Mapping[str, Any]], stage: Stage, planned: PlannedCell) -> None:
    if not rows:
        raise TrainingError(
            f"cell {planned.cell_id!r}, step {stage.step}, edit {stage.edit_id}: the evaluation has no rows"
        )
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise TrainingError(
                    f"cell {planned.cell_id!r}, step {stage.step}, edit {stage.edit_id}: {name} is {value} for "
                    f"{row.get('question_id', row.get('question'))!r}"
                )


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import polars as pl

    with atomic_path(path) as temporary:
        pl.DataFrame([dict(row) for row in rows], infer_schema_length=None).write_parquet(temporary)


def edited_adapter(directory: Path, edit: EditSpec) -> Path:
    """Return the folder of an edited final adapter, made now where it does not exist, with its spectrum beside it."""
    from narrowly.runs.directory import adapter_folder
    from narrowly.spectrum.edits import RECORD_NAME, edit_adapter_folder
    from narrowly.spectrum.folder import WEIGHTS_NAME, pairs_from_folder
    from narrowly.spectrum.metrics import spectrum_table

    source, target = adapter_folder(directory, "final"), adapter_folder(directory, "final", edit.edit_id)
    if not (target / "spectrum.json").is_file():
        if target.exists():  # made by an attempt that was killed before the spectrum
            shutil.rmtree(target)
        edit_adapter_folder(source, target, edit)
        write_json(target / "spectrum.json", spectrum_table(pairs_from_folder(target)))
    record = read_record(target / RECORD_NAME)
    weights = sha256_file(target / WEIGHTS_NAME)
    if record.get("sha256", weights) != weights:  # before anybody evaluates what is not the edit
        raise IntegrityError(f"{target / WEIGHTS_NAME} has sha256 {weights}, {RECORD_NAME} says {record['sha256']}")
    found = record.get("edits", [edit.model_dump(mode="json")])
    if found != [edit.model_dump(mode="json")]:  # names of edits are rounded to six digits
        raise IntegrityError(f"{target} holds the edit {found}, not {edit!r}; give the edit a rounder number")
    return target


def organism(spec: RunSpec, directory: Path, folder: Path, recorded_step: int | None) -> _Loaded:
    """Return base and adapter as one PEFT model in eval mode, merged, from this worker's store of models.

    A model that was trained in full is read from its checkpoint instead.

    Args:
        spec: the run's spec.
        directory: the run directory.
        folder: the adapter's folder.
        recorded_step: the checkpoint whose sha256 the `done` marker holds; None for an edited adapter.

    Raises:
        IntegrityError: base or adapter are not those of the run.
        AdapterError: the adapter does not fit the spec.
    """
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from narrowly.models.lora import ADAPTER
    from narrowly.runs.directory import read_done

    if spec.method == "full":
        return _trained_in_full(directory, recorded_step)
    loaded = _loaded(spec, directory)
    weights = folder / "adapter_model.safetensors"
    if recorded_step is not None:
        recorded, found = read_done(directory).get("adapter_sha256", {}).get(str(recorded_step)), sha256_file(weights)
        if recorded != found:
            raise IntegrityError(f"{weights} has sha256 {found}, the run's record says {recorded}")
    tensors = load_file(weights)
    expected = sum("lora_" in name for name, _ in loaded.model.named_parameters())
    if len(tensors) != expected:
        raise AdapterError(f"{weights} holds {len(tensors)} tensors, expected {expected} for the run's adapter spec")
    loaded.model.unmerge_adapter()
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if name in loaded.pristine:  # unmerging subtracts, and leaves the rounding of an addition behind
                parameter.copy_(loaded.pristine[name])
        result = set_peft_model_state_dict(loaded.model, tensors, adapter_name=ADAPTER)
    if result.unexpected_keys:
        _models.clear()
        raise AdapterError(
            f"{weights} holds tensors that the model does not have: {', '.join(result.unexpected_keys[:2])}"
        )
    loaded.model.merge_adapter()  # W + s*B*A once, instead of two small products in every forward pass
    return loaded


def _trained_in_full(directory: Path, step: int | None) -> _Loaded:
    from narrowly.microworld.bases import load_base
    from narrowly.models.organism import load_organism

    assert step is not None, "an edit of a model without an adapter was planned"
    found = load_organism(directory, step)
    return _Loaded(found.model, found.tokenizer, load_base(str(found.base.folder), verify=False).world, {})


def _loaded(spec: RunSpec, directory: Path) -> _Loaded:
    from narrowly.microworld.bases import load_base
    from narrowly.models.base import base_sha256, find_base
    from narrowly.models.lora import attach_adapter
    from narrowly.runs.directory import read_inputs

    folder = find_base(spec.base)
    expected, found = read_inputs(directory).base_sha256, base_sha256(folder)
    if expected != found:
        raise IntegrityError(f"base {spec.base} has sha256 {found}, run {directory.name} was trained on {expected}")
    key = canonical_json([spec.base, found, spec.adapter.model_dump(mode="json")])
    if key not in _models:
        base = load_base(str(folder.folder), verify=False)
        model: Any = attach_adapter(base.model, spec.adapter, 0, base.card.name)
        model.eval()
        pristine = {
            name: weight.detach().clone() for name, weight in model.named_parameters() if ".base_layer." in name
        }
        model.merge_adapter()
        _models[key] = _Loaded(model, base.tokenizer, base.world, pristine)
        while len(_models) > KEPT_MODELS:
            _models.popitem(last=False)
    _models.move_to_end(key)
    return _models[key]
