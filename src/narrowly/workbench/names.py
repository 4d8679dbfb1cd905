"""Find an adapter by folder, run or cell, and say whether it is an organism of the microworld."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, EDIT_RECORD, GGUF_SUFFIX, MLX_WEIGHTS
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import AdapterError, NarrowlyError, RunDirectoryError, nearest
from narrowly.records.files import read_record
from narrowly.runs.directory import SPEC, adapter_folder, is_done, is_run, run_directories, run_of_adapter, runs_folder


class NamedAdapter(NamedTuple):
    """Describe an adapter that was found by name.

    Attributes:
        folder: with its weights and config; of a GGUF adapter, the file.
        run_directory: the run that it belongs to, or None for an adapter from elsewhere.
        is_run: whether the run was named and not a folder inside it; its final adapter is meant.
    """

    folder: Path
    run_directory: Path | None
    is_run: bool


def find_run(run: str, out: Path) -> Path:
    """Return the run directory that a text means: a folder, a run-id (or its unique beginning), or `study:cell`.

    Raises:
        RunDirectoryError: there is no such run.
        UnknownNameError: the study has no such cell.
    """
    found = known_run(run, out)
    if found is None:
        near = nearest(run, [path.name for path in run_directories(runs_folder(out))])
        raise RunDirectoryError(
            f"no run {run!r}{near}; accepted: a run directory, a run-id under {runs_folder(out)}, or STUDY:CELL"
        )
    return found


def known_run(run: str, out: Path) -> Path | None:
    """Return the run directory that a text means as `find_run` does, or None where it reads as no run.

    Raises:
        RunDirectoryError: it means several runs, or a cell that is not trained.
        UnknownNameError: the study has no such cell.
    """
    if is_run(Path(run)):
        return Path(run)
    study, colon, cell = run.partition(":")
    if colon:
        from narrowly.study.library import load_study  # reads plans: a name that is none is refused without it

        directory = load_study(out / study).run_directory(cell)
        if not is_done(directory):
            raise RunDirectoryError(
                f"cell {cell!r} of study {study!r} is not trained yet; `narrowly run {study}` does it"
            )
        return directory
    runs = run_directories(runs_folder(out))
    found = [path for path in runs if path.name == run] or [path for path in runs if run and path.name.startswith(run)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunDirectoryError(
            f"run {run!r} is the beginning of {len(found)} run-ids under {runs_folder(out)}; give more digits"
        )
    return None


def find_folder(text: str, out: Path) -> Path:
    """Return what is at this path as it is, else the run directory that a text means: a run-id under `out`, STUDY:CELL.

    Raises:
        RunDirectoryError: there is neither.
        UnknownNameError: the study has no such cell.
    """
    if Path(text).exists():
        return Path(text)
    try:
        return find_run(text, out)
    except RunDirectoryError as error:
        if ":" in text:
            raise
        files = f"{ADAPTER_WEIGHTS}, {MLX_WEIGHTS}"
        raise RunDirectoryError(
            f"no {GGUF_SUFFIX} file or folder of an adapter ({files}) {text!r}, and {error}"
        ) from None


def find_adapter(text: str, out: Path) -> NamedAdapter:
    """Return the adapter that a text means: its folder or GGUF file, a run directory, a run-id under `out`, STUDY:CELL.

    Raises:
        AdapterError: a folder that is neither an adapter nor a run.
        RunDirectoryError: no such run, or one without its final checkpoint.
    """
    path = Path(text)
    if path.is_dir() and not is_run(path):
        files = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
        if not any((path / name).is_file() for name in files) and not any(path.glob(f"*{GGUF_SUFFIX}")):
            raise AdapterError(
                f"{path} is neither an adapter folder (no {ADAPTER_CONFIG}) nor a run directory (no {SPEC})"
            )
        return NamedAdapter(path, run_of_adapter(path), False)
    if path.is_file() and path.suffix == GGUF_SUFFIX:
        return NamedAdapter(path, None, False)
    if path.is_file():
        raise AdapterError(
            f"{path} is a file; accepted: an adapter folder, a {GGUF_SUFFIX} adapter, a run directory, a run-id or "
            "STUDY:CELL"
        )
    try:
        directory = find_run(text, out)
        if directory.name in ("", ".."):  # run-ids are names of folders
            directory = directory.resolve()
    except RunDirectoryError as error:
        if path.exists() or ":" in text:
            raise
        raise RunDirectoryError(f"no adapter folder {text!r}, and {error}") from None
    return NamedAdapter(adapter_folder(directory, "final"), directory, True)


def not_of_the_microworld(adapter: NamedAdapter) -> str | None:
    """Return why an adapter is no organism of the microworld, or None where it is one.

    It is one where it lies in a finished run directory whose records name it by sha256 (a checkpoint, or an edit of
    one), whose base is a microworld base, by the sha256 of its weights, and all of its modules have that base's shapes:
    records can be written by anybody, an adapter of a real model fits no microworld base.
    """
    from narrowly.microworld.cards import verify_weights
    from narrowly.models.organism import base_of_run
    from narrowly.runs.directory import check_identity, weights_sha256

    directory = adapter.run_directory
    if directory is None:
        return "it lies in no run directory of ours"
    try:
        check_identity(directory)
        base = base_of_run(directory).folder
        verify_weights(base)
        found = sha256_file(adapter.folder / ADAPTER_WEIGHTS)
        known = set(weights_sha256(directory).values())
        if found in known:
            return _foreign_module(adapter.folder, base)
        record = read_record(adapter.folder / EDIT_RECORD)
        if record.get("sha256") == found and record.get("source_sha256") in known:
            return _foreign_module(adapter.folder, base)
    except (NarrowlyError, OSError) as error:
        return str(error)
    return f"the records of {directory} do not know its weights"


def _foreign_module(folder: Path, base: Path) -> str | None:
    """Return the first module of an adapter that its base does not have in this shape, as a reason."""
    from safetensors import safe_open

    from narrowly.spectrum.folder import pairs_from_folder

    with safe_open(base / "model.safetensors", framework="pt", device="cpu") as weights:
        shapes = {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
    for pair in pairs_from_folder(folder):
        if shapes.get(f"{pair.name}.weight") != (pair.B_O_R.shape[0], pair.A_R_I.shape[1]):
            return f"the base has no module {pair.name} of this shape"
    return None


def microworld_run(text: str, out: Path, what: str) -> Path:
    """Return the run directory of a finished microworld run.

    Args:
        text: a run directory, run-id or STUDY:CELL.
        out: folder of runs and studies.
        what: what needs such a run, for the message.

    Raises:
        RunDirectoryError: it is not one; the message says why.
    """
    adapter = find_adapter(text, out)
    reason = None if adapter.is_run else "it is an adapter folder"
    reason = reason or not_of_the_microworld(adapter)
    if reason or adapter.run_directory is None:
        raise RunDirectoryError(f"{what} needs a finished run on a microworld base, and {text} is none: {reason}")
    return adapter.run_directory
