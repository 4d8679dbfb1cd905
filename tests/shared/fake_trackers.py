"""Stand-ins for trackio, wandb and mlflow with the signatures of trackio 0.43, wandb 0.31 and mlflow 3.17.

Each keeps what it was told in a `Told`. What a tracker does of its own accord (random draws, prints) is as rude as it
can be, because a report must not disturb a run.
"""

from __future__ import annotations

import importlib.machinery
import random
import types
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest


class Told:
    """What a tracker was told: openings, numbers by run and step, endings. `fail_at`: the step whose row it refuses."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.rows: dict[str, list[tuple[int, dict[str, float]]]] = defaultdict(list)
        self.ended: list[Any] = []
        self.fail_at: int | None = None

    def take(self, run: str, step: int, values: dict[str, float]) -> None:
        if step == self.fail_at:
            raise ConnectionError("the server\nis gone")
        random.random()
        self.rows[run].append((step, dict(values)))
        values.clear()  # whoever gets a row may spoil it

    def steps(self, run: str) -> list[int]:
        return [step for step, _ in self.rows[run]]


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    for part in (name, *(f"{name}.{key}" for key, value in content.items() if isinstance(value, types.ModuleType))):
        module = content.get(part.removeprefix(f"{name}."), types.ModuleType(part))
        module.__spec__ = importlib.machinery.ModuleSpec(part, None)
        if part == name:
            module.__dict__.update(content)
        monkeypatch.setitem(__import__("sys").modules, part, module)


def fake_trackio(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()

    class Run:
        def __init__(self, name: str) -> None:
            self.name = name

        def log(self, metrics: dict, step: int | None = None) -> None:  # type: ignore[type-arg]
            assert not {"project", "run", "timestamp", "step", "time", "metrics"} & set(metrics), "names of its own"
            assert step is not None
            told.take(self.name, step, metrics)

        def finish(self) -> None:
            told.ended.append(self.name)

    def init(
        project: str, name: str | None = None, group: str | None = None, space_id: str | None = None,
        server_url: str | None = None, dataset_id: str | None = None, bucket_id: str | None = None,
        config: dict | None = None, resume: str = "never", settings: Any = None, private: bool | None = None,
        embed: bool = True, auto_log_gpu: bool | None = None, gpu_log_interval: float = 10.0,
        auto_log_cpu: bool | None = None, cpu_log_interval: float = 10.0, webhook_url: str | None = None,
        webhook_min_level: Any = None,
    ) -> Run:  # type: ignore[type-arg]  # fmt: skip
        told.opened.append({"project": project, "name": name, "group": group, "config": config, "resume": resume})
        assert private and name is not None
        return Run(name)

    install(monkeypatch, "trackio", init=init)
    return told


def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Offline, as `WANDB_MODE=offline`: a resumed run knows nothing of the steps before."""
    told = Told()
    monkeypatch.setenv("WANDB_MODE", "offline")

    class Run:
        def __init__(self, name: str) -> None:
            self.name, self.step = name, 0

        def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
            assert step is not None and step >= self.step
            told.take(self.name, step, data)
            self.step = step

        def finish(self, exit_code: int | None = None) -> None:
            told.ended.append(exit_code)

    def init(
        entity: str | None = None, project: str | None = None, dir: Any = None, id: str | None = None,
        name: str | None = None, notes: str | None = None, tags: Any = None, config: Any = None,
        config_exclude_keys: Any = None, config_include_keys: Any = None, allow_val_change: bool | None = None,
        group: str | None = None, job_type: str | None = None, mode: Any = None, force: bool | None = None,
        reinit: Any = None, resume: Any = None, resume_from: str | None = None, fork_from: str | None = None,
        save_code: bool | None = None, tensorboard: bool | None = None, sync_tensorboard: bool | None = None,
        monitor_gym: bool | None = None, settings: Any = None, anonymous: Any = None,
    ) -> Run:  # fmt: skip
        told.opened.append({"project": project, "name": name, "group": group, "config": config, "resume": resume})
        assert id == name and name is not None and mode is None
        assert settings.x_disable_meta and settings.console == "off", "wandb would send paths of its own accord"
        return Run(name)

    def login(
        key: str | None = None, relogin: bool | None = None, host: str | None = None, force: bool | None = None,
        timeout: int | None = None, verify: bool = True, referrer: str | None = None, prompt: bool = True,
        anonymous: Any = None,
    ) -> bool:  # fmt: skip
        assert not prompt and key is None
        return False

    def settings(**fields: Any) -> SimpleNamespace:
        return SimpleNamespace(**fields)

    install(monkeypatch, "wandb", init=init, login=login, Settings=settings)
    return told


def fake_mlflow(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    experiments: list[str] = []
    runs: list[SimpleNamespace] = []

    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> Any:
            return SimpleNamespace(experiment_id=str(experiments.index(name))) if name in experiments else None

        def create_experiment(self, name: str, artifact_location: Any = None, tags: Any = None) -> str:
            experiments.append(name)
            return str(experiments.index(name))

        def search_runs(
            self, experiment_ids: list[str], filter_string: str = "", run_view_type: int = 1, max_results: int = 1000,
            order_by: Any = None, page_token: Any = None,
        ) -> list[Any]:  # fmt: skip
            tag, _, value = filter_string.removeprefix("tags.").partition(" = ")
            return [run for run in runs if run.tags.get(tag.strip("`")) == value.strip("'")][:max_results]

        def create_run(self, experiment_id: str, start_time: Any = None, tags: Any = None, run_name: Any = None) -> Any:
            runs.insert(0, SimpleNamespace(info=SimpleNamespace(run_id=run_name), tags=tags))
            group = tags.get("narrowly.study")
            project = experiments[int(experiment_id)]
            told.opened.append({"project": project, "name": run_name, "group": group, "config": {}, "resume": False})
            return runs[0]

        def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
            told.opened.append({"name": run_id, "resume": True})

        def log_batch(
            self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = (), synchronous: bool | None = None
        ) -> None:
            assert len(params) <= 100 and all(len(value) <= 6000 for _, value in params), "limits of MLflow"
            told.opened[-1].get("config", {}).update(params)
            if metrics:
                told.take(run_id, metrics[0][3], {key: value for key, value, _, _ in metrics})

        def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
            told.ended.append(status)

    entities = types.ModuleType("mlflow.entities")
    entities.Param = lambda key, value: (key, value)  # type: ignore[attr-defined]
    entities.Metric = lambda key, value, timestamp, step: (key, value, timestamp, step)  # type: ignore[attr-defined]
    install(monkeypatch, "mlflow", MlflowClient=MlflowClient, entities=entities)
    return told


FAKES = {"trackio": fake_trackio, "wandb": fake_wandb, "mlflow": fake_mlflow}
