"""Tables of defaults of Transformers, TRL, PEFT and torch against the classes that are installed here."""

from __future__ import annotations

import dataclasses
import inspect
from importlib.metadata import version
from typing import Any

import pytest

from narrowly.audit.defaults.read import defaults_of, table
from narrowly.audit.python.trainer_jobs import KEYS, TRL_CONFIG
from narrowly.audit.values import typed_field
from narrowly.audit.versions import Version

transformers = pytest.importorskip("transformers")
ROWS = {field: key for key, field in KEYS.items()}


def installed(package: str) -> Version:
    return Version(package, version(package), (), "here:1")


def default_of(kind: type, name: str) -> Any:
    found = kind.__dataclass_fields__[name]
    default = found.default if found.default is not dataclasses.MISSING else found.default_factory()
    return getattr(default, "value", default)


def test_every_default_of_training_arguments_is_that_of_the_installed_class() -> None:
    rows = defaults_of("transformers", installed("transformers"), of="TrainingArguments")
    assert {"optimiser", "learning_rate", "weight_decay", "scheduler", "epochs", "max_steps", "beta2"} <= set(rows)
    for name, row in rows.items():
        if name == "evaluation":
            assert default_of(transformers.TrainingArguments, "eval_strategy") == "no" and row.value is False
            continue
        real = default_of(transformers.TrainingArguments, ROWS[name])
        assert row.value == typed_field(name, real, None).value, name


def trl_configs() -> list[type]:
    trl = pytest.importorskip("trl")
    named = [name for name in dir(trl) if TRL_CONFIG.match(name)]
    return [getattr(trl, name) for name in named]


def test_every_default_of_trl_s_configurations_is_that_of_the_installed_class() -> None:
    configs = trl_configs()
    assert {"SFTConfig", "DPOConfig", "GRPOConfig", "RewardConfig"} <= {kind.__name__ for kind in configs}
    base = defaults_of("transformers", installed("transformers"), of="TrainingArguments")
    for kind in configs:
        rows = base | defaults_of("trl", installed("trl"), of=kind.__name__)
        for name in (
            "optimiser",
            "learning_rate",
            "weight_decay",
            "scheduler",
            "epochs",
            "max_steps",
            "beta1",
            "beta2",
        ):
            real = typed_field(name, default_of(kind, ROWS[name]), None).value
            assert rows[name].value == real, (kind.__name__, name)


@pytest.mark.parametrize(
    ("module", "kind"),
    [("orpo", "ORPOConfig"), ("cpo", "CPOConfig"), ("online_dpo", "OnlineDPOConfig"), ("gkd", "GKDConfig"),
     ("gold", "GOLDConfig"), ("tpo", "TPOConfig"), ("async_grpo", "AsyncGRPOConfig")],
)  # fmt: skip
def test_the_rates_of_trl_s_experimental_configurations_are_the_installed_ones(module: str, kind: str) -> None:
    found = getattr(pytest.importorskip(f"trl.experimental.{module}.{module}_config"), kind)
    row = defaults_of("trl", installed("trl"), of=kind)["learning_rate"]
    assert row.value == default_of(found, "learning_rate")


def test_the_adapter_defaults_are_peft_s_and_trl_s() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig()
    rows = defaults_of("peft", installed("peft"), of="LoraConfig")
    keys = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_rslora": "use_rslora"}
    assert {name: rows[name].value for name in keys} == {name: getattr(config, key) for name, key in keys.items()}
    model = pytest.importorskip("trl").ModelConfig()
    rows = defaults_of("trl", installed("trl"), of="ModelConfig")
    for name in ("lora_r", "lora_alpha", "lora_dropout", "use_rslora"):
        assert rows[name].value == getattr(model, name)


def torch_rows() -> list[Any]:
    return [row for row in table("torch").rows if row.source.startswith("torch/optim/")]


def test_every_row_of_torch_is_the_default_in_the_constructor_s_signature() -> None:
    torch = pytest.importorskip("torch")
    names = {"learning_rate": "lr", "weight_decay": "weight_decay", "eps": "eps", "momentum": "momentum"}
    rows = torch_rows()
    assert len(rows) > 30 and {"AdamW", "SGD", "Muon"} <= {row.of for row in rows}
    for row in rows:
        parameters = inspect.signature(getattr(torch.optim, row.of).__init__).parameters
        if row.field in ("beta1", "beta2"):
            real = parameters["betas"].default[int(row.field[-1]) - 1]
        else:
            real = parameters[names[row.field]].default
        assert float(real) == float(row.value), (row.of, row.field)
