"""Trackio, Weights & Biases, MLflow and TensorBoard, each by its own public API: a run in, rows of numbers after it.

Accounts, servers and offline modes are the trackers' own environment variables; nothing of them is a setting here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from narrowly.records.errors import MissingExtraError, SpecError, unknown_name
from narrowly.records.install import install_hint

PROJECT = "narrowly"
"""Project or experiment of a tracker, where its own environment variable names no other."""


class Start(NamedTuple):
    """What a tracker is told of a run at its start.

    Attributes:
        run_id: name of the tracker's run, and its id where the tracker lets one choose.
        group: name of the study, or None.
        config: JSON-able description of the run, without machine paths.
        folder: where a tracker that writes files may write them.
        known: whether this tracker was given rows of this very run directory before.
    """

    run_id: str
    group: str | None
    config: Mapping[str, Any]
    folder: Path
    known: bool


class Tracker(Protocol):
    """An open run of a tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one step."""

    def finish(self, failed: bool) -> None:
        """Close the run; nothing is logged after that."""


class _Trackio:
    def __init__(self, start: Start) -> None:
        import trackio

        # a Space (TRACKIO_SPACE_ID) is made private: an organism is a private research object
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=start.run_id,
            group=start.group,
            config=dict(start.config),
            resume="allow" if start.known else "never",
            private=True,
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, failed: bool) -> None:
        self._run.finish()


class _Wandb:
    def __init__(self, start: Start) -> None:
        import wandb

        # asked in so many words, because wandb would prompt for a key in the middle of a training
        if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
            raise SpecError("no API key; accepted: WANDB_API_KEY, or WANDB_MODE=offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=start.run_id,
            name=start.run_id,
            group=start.group,
            config=dict(start.config),
            allow_val_change=True,  # a resume may say the same run in other words (a base of another name)
            resume="allow",
            dir=os.environ.get("WANDB_DIR", start.folder),
            # what wandb would find out by itself: console, command line, host, git remote; machine paths are in each
            settings=wandb.Settings(console="off", x_disable_meta=True, disable_git=True, disable_code=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._run.step:  # wandb drops earlier ones with a warning each
            self._run.log(dict(values), step=step)

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


class _Mlflow:
    TAG, PARAMS = "narrowly.run_id", 100  # parameters of one call, at most

    def __init__(self, start: Start) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        filter_string = f"tags.`{self.TAG}` = '{start.run_id}'"
        found = self._client.search_runs([experiment_id], filter_string, max_results=1) if start.known else []
        if found:  # the newest
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {self.TAG: start.run_id, **({} if start.group is None else {"narrowly.study": start.group})}
            self._id = self._client.create_run(experiment_id, tags=tags, run_name=start.run_id).info.run_id
            self._log_config(start.config)

    def _log_config(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)) for key, value in flat(config).items()]
        for begin in range(0, len(params), self.PARAMS):
            self._client.log_batch(self._id, params=params[begin : begin + self.PARAMS], synchronous=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(key, value, now, step) for key, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics, synchronous=True)

    def finish(self, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


class _Tensorboard:
    def __init__(self, start: Start) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = Path(os.environ.get("TENSORBOARD_LOGGING_DIR", start.folder / "tensorboard"))
        writer: Any = SummaryWriter
        self._writer = writer(place / (start.group or "") / start.run_id)
        if not start.known:
            self._writer.add_text("config", f"```json\n{json.dumps(start.config, indent=2)}\n```", 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()  # so that a killed run has what was noted as taken

    def finish(self, failed: bool) -> None:
        self._writer.close()


TRACKERS: dict[str, Callable[[Start], Tracker]] = {
    "trackio": _Trackio,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
    "tensorboard": _Tensorboard,
}
"""Trackers by name, which is also the name of the package that each needs."""


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return found


def check_trackers(names: Sequence[str]) -> None:
    """Check that every tracker is known and installed.

    Raises:
        UnknownNameError: an unknown name; the nearest is named.
        SpecError: no name at all, or one twice.
        MissingExtraError: one is not installed; the command that adds it is named.
    """
    if not names:
        raise SpecError(f"no tracker is named, accepted: one or more of {', '.join(sorted(TRACKERS))}")
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
        if names.count(name) > 1:
            raise SpecError(f"tracker {name} is named twice, accepted: once")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"tracker {', '.join(missing)} is not installed; add it with: pip install {' '.join(missing)}; or every "
            f"tracker, {install_hint('track')}"
        )
