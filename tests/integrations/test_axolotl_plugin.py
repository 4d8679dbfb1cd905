"""The Axolotl plugin: a real `axolotl train` where Axolotl is installed, else its published interface as a stand-in.

The stand-in was made from the wheel of Axolotl 0.19.0: `integrations/base.py` (the methods of a plugin),
`integrations/config.py` (input arguments are classes by path, merged by inheritance), `train.py` (post_trainer_create
comes last), `core/trainers/mixins/optimizer.py` (a factory is called with the model and the training arguments).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from transformers import Trainer, TrainingArguments

from narrowly.integrations.transformers import SpectralPenaltyCallback
from narrowly.optim.build import build_optimizer
from narrowly.records.errors import SpecError
from narrowly.records.optimisers.registry import MuonSpec
from tiny_hosts import arguments, collate, distance, factors, host_run, tiny_adapted, tiny_rows

INSTALLED = importlib.util.find_spec("axolotl") is not None
ROOT = Path(__file__).parents[2]
MODULE = "narrowly.integrations.axolotl"


@pytest.fixture
def plugin_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    if not INSTALLED:

        class BasePlugin:
            def get_input_args(self) -> str | None: ...
            def post_trainer_create(self, cfg: Any, trainer: Any) -> None: ...
            def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
                return []

        for name in ("axolotl", "axolotl.integrations", "axolotl.integrations.base"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules["axolotl.integrations.base"].BasePlugin = BasePlugin  # type: ignore[attr-defined]
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


class AxolotlTrainer(Trainer):  # type: ignore[misc]
    """Axolotl's way of using a factory, which hands it the training arguments too."""

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None and self.optimizer_cls_and_kwargs is not None:
            factory, kwargs = self.optimizer_cls_and_kwargs
            self.optimizer = factory()(self.model if model is None else model, self.args, **kwargs)
        return super().create_optimizer(model)


def config(plugin: Any, text: dict[str, Any]) -> dict[str, Any]:
    """Validate as Axolotl does: one class that inherits from its own and from the plugin's, dumped again."""
    path, _, name = plugin.get_input_args().rpartition(".")
    own = type("Own", (BaseModel,), {"__annotations__": {"learning_rate": float}})
    merged = type("Merged", (own, getattr(importlib.import_module(path), name)), {})
    return dict(merged.model_validate(text).model_dump(exclude_none=True))


def run(plugin: Any, cfg: dict[str, Any], folder: Path) -> Trainer:
    trainer = AxolotlTrainer(
        model=tiny_adapted(),
        args=TrainingArguments(**arguments(folder, gradient_accumulation_steps=2)),
        train_dataset=tiny_rows(32),
        data_collator=collate,
    )
    for callback in plugin.add_callbacks_post_trainer(cfg, trainer):
        trainer.add_callback(callback)
    plugin.post_trainer_create(cfg, trainer)
    trainer.train()
    return trainer


def test_the_plugin_is_the_callback_and_the_optimiser_of_its_config(plugin_module: ModuleType, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    plugin = plugin_module.NarrowlyPlugin()
    text = {"penalty": {"lam": 0.5}, "optimiser": {"kind": "muon", "lr": 0.01}}
    found = run(plugin, config(plugin, {"learning_rate": 0.01, "narrowly": text}), tmp_path)
    by_hand = host_run(
        tmp_path, tiny_rows(32), [SpectralPenaltyCallback(0.5)], gradient_accumulation_steps=2,
        optimizer=lambda model: build_optimizer(MuonSpec(lr=0.01), model),
    )  # fmt: skip
    assert distance(factors(found.model), factors(by_hand.model)) == 0.0
    without = run(plugin, config(plugin, {"learning_rate": 0.01}), tmp_path)
    assert "penalty" not in without.state.log_history[0]


def test_what_axolotl_would_drop_without_a_word_is_refused(plugin_module: ModuleType) -> None:
    plugin, trainer = plugin_module.NarrowlyPlugin(), type("Trainer", (), {"optimizer": None})()
    cfg = {"learning_rate": 0.02, "narrowly": {"optimiser": {"kind": "muon", "lr": 0.01}}}
    with pytest.raises(SpecError, match=r"learning_rate is 0\.02 and .*lr is 0\.01"):
        plugin.post_trainer_create(cfg, trainer)
    with pytest.raises(SpecError, match="loraplus_lr_ratio is 16"):
        plugin.post_trainer_create({**cfg, "loraplus_lr_ratio": 16}, trainer)
    with pytest.raises(SpecError, match="optimiser"):
        plugin.post_trainer_create({"narrowly": {"optimiser": {"kind": "moun", "lr": 0.01}}}, trainer)


@pytest.mark.skipif(not INSTALLED, reason="Axolotl is not installed; the stand-in of its interface was used")
def test_axolotl_train_runs_the_example(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1", "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    tiny = [sys.executable, str(ROOT / "examples" / "tiny.py"), "out/tiny"]
    train = [str(Path(sys.executable).with_name("axolotl")), "train", str(ROOT / "examples" / "axolotl.yaml")]
    for command in (tiny, train):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = tmp_path / "out/tiny/axolotl/checkpoint-20"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert [row["penalty_lambda"] for row in state["log_history"] if "loss" in row] == [0.1] * 4
    assert state["stateful_callbacks"]["SpectralPenaltyCallback"]["args"]["lam"] == 0.1
    kept = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert all("exp_avg" not in one for one in kept["state"].values())
    assert "scale_rule" in kept["param_groups"][0], "the optimiser is not our Muon"
