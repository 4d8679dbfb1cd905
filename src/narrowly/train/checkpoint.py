"""Write checkpoints: the weights of a measured step with their spectrum.

A checkpoint appears whole: written beside its place, then renamed. At step 0 method full stores no weights: they are
the base's. What a run resumes from is kept apart (`train/resume.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.records.files import whole_folder
from narrowly.runs.directory import SPECTRUM, checkpoint_folder
from narrowly.train.disk import writing

if TYPE_CHECKING:
    from narrowly.models.weights import Weights


def save_checkpoint(run_directory: Path, step: int, weights: Weights, spectrum: Sequence[Mapping[str, Any]]) -> None:
    """Write the checkpoint of a step.

    Raises:
        RunDirectoryError: a full disk or a folder that cannot be written; nothing half written is left.
    """
    target = checkpoint_folder(run_directory, step)
    with whole_folder(target) as unfinished:
        with writing(target, unfinished):
            weights.write(unfinished, step)
            (unfinished / SPECTRUM).write_bytes((json.dumps(spectrum, allow_nan=False) + "\n").encode())
        if target.exists():  # left by a run that was killed before it resumed
            shutil.rmtree(target)
