"""Whether the tables of defaults say what the tools' published wheels say.

Wheels are downloaded without dependencies into a temporary folder and never installed or imported: class fields, calls
of `add_argument` and dictionaries of constants are read from their source by `ast`, configs as data. For each row of
`src/narrowly/audit/defaults` that this script knows where to find, it prints the version, the value read and whether
the table agrees; it ends with 1 where one does not.

    python experiments/audit_defaults_from_wheels.py [TOOL ...] [--wheels FOLDER]
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from narrowly.audit.defaults.read import default_field
from narrowly.audit.values import typed_field
from narrowly.audit.versions import Version

MISSING = object()


class Place(NamedTuple):
    """Say where a default stands in a wheel: a field of a class, an argument of a parser, a key of a dictionary.

    Attributes:
        field: of the record.
        file: end of the path in the wheel.
        holder: class or dictionary; "--" for calls of `add_argument`.
        key: attribute, option or dotted key.
        of: as in the table.
        when: as in the table.
    """

    field: str
    file: str
    holder: str
    key: str
    of: str = ""
    when: tuple[tuple[str, Any], ...] = ()


LORA = (("adapter", "lora"),)
FULL = (("adapter", "full"),)


def _axolotl() -> list[Place]:
    training, peft = "axolotl/utils/schemas/training.py", "axolotl/utils/schemas/peft.py"
    same = {
        "optimiser": "optimizer",
        "weight_decay": "weight_decay",
        "scheduler": "lr_scheduler",
        "epochs": "num_epochs",
    }
    places = [Place(field, training, "HyperparametersConfig", key) for field, key in same.items()]
    return places + [
        Place(f"lora_{key}", peft, "LoraConfig", f"lora_{key}", "", LORA) for key in ("r", "alpha", "dropout")
    ]


def _llamafactory() -> list[Place]:
    hparams, v1 = "llamafactory/hparams/finetuning_args.py", "llamafactory/v1/config/training_args.py"
    keys = {
        "lora_r": "lora_rank",
        "lora_dropout": "lora_dropout",
        "lora_targets": "lora_target",
        "use_rslora": "use_rslora",
    }
    places = [Place(field, hparams, "LoraArguments", key, "v0", LORA) for field, key in keys.items()]
    places.append(Place("adapter", hparams, "FinetuningArguments", "finetuning_type", "v0"))
    for field, key in (
        ("learning_rate", "learning_rate"),
        ("epochs", "num_train_epochs"),
        ("max_grad_norm", "max_grad_norm"),
    ):
        places.append(Place(field, v1, "TrainingArguments", key, "v1"))
    return places


def _swift() -> list[Place]:
    mixin = "swift/trainers/arguments.py"
    keys = {"weight_decay": "weight_decay", "beta2": "adam_beta2", "scheduler": "lr_scheduler_type"}
    places = [Place(field, mixin, "*", key, "sft") for field, key in keys.items()]
    tuner = {"lora_r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
    return places + [Place(field, "tuner_args.py", "TunerArguments", key, "sft", LORA) for field, key in tuner.items()]


def _automodel() -> list[Place]:
    file, places = "components/optim/optimizer.py", []
    for name, holder in (("adam", "AdamConfig"), ("adamw", "AdamWConfig"), ("fused_adam", "FusedAdamConfig")):
        for field, key in (("learning_rate", "lr"), ("weight_decay", "weight_decay"), ("eps", "eps")):
            places.append(Place(field, file, holder, key, name))
    places += [
        Place("learning_rate", file, "_DionConfigBase", "lr", "muon"),
        Place("muon_scale", file, "MuonConfig", "adjust_lr", "muon"),
    ]
    for field, key in (("lora_r", "dim"), ("lora_alpha", "alpha"), ("lora_dropout", "dropout")):
        places.append(Place(field, "components/_peft/lora.py", "PeftConfig", key, "", LORA))
    return places


def _mlx() -> list[Place]:
    keys = {
        "optimiser": "optimizer",
        "learning_rate": "learning_rate",
        "max_steps": "iters",
        "batch_size": "batch_size",
    }
    places = [Place(field, "mlx_lm/lora.py", "CONFIG_DEFAULTS", key) for field, key in keys.items()]
    for field, key in (("lora_r", "lora_parameters.rank"), ("lora_dropout", "lora_parameters.dropout")):
        places.append(Place(field, "mlx_lm/lora.py", "CONFIG_DEFAULTS", key, "", LORA))
    return places


def _autotrain() -> list[Place]:
    keys = {"learning_rate": "lr", "epochs": "epochs", "batch_size": "batch_size"}
    llm, text = "trainers/clm/params.py", "trainers/text_classification/params.py"
    places = [Place(field, llm, "LLMTrainingParams", key, "llm") for field, key in keys.items()]
    places += [
        Place(field, text, "TextClassificationParams", key, "text-classification") for field, key in keys.items()
    ]
    same = {"optimiser": "optimizer", "scheduler": "scheduler", "weight_decay": "weight_decay"}
    places += [Place(field, llm, "LLMTrainingParams", key) for field, key in same.items()]
    return places + [
        Place(key, llm, "LLMTrainingParams", key, "", LORA) for key in ("lora_r", "lora_alpha", "lora_dropout")
    ]


def _openrlhf() -> list[Place]:
    places = []
    for name in ("train_sft", "train_dpo", "train_rm"):
        file = f"openrlhf/cli/{name}.py"
        places.append(Place("learning_rate", file, "--", "--adam.lr", name, (("optim", "adam"),)))
        places.append(Place("learning_rate", file, "--", "--muon.lr", name, (("optim", "muon"),)))
        places.append(Place("epochs", file, "--", "--train.max_epochs", name))
        places.append(Place("weight_decay", file, "--", "--adam.weight_decay", name))
        places.append(Place("scheduler", file, "--", "--lr_scheduler", name))
    return places


def _unsloth() -> list[Place]:
    file = "unsloth_cli/config.py"
    keys = {
        "learning_rate": "learning_rate",
        "weight_decay": "weight_decay",
        "epochs": "num_epochs",
        "max_steps": "max_steps",
    }
    places = [Place(field, file, "TrainingConfig", key) for field, key in keys.items()]
    return places + [Place(key, file, "LoraConfig", key, "", LORA) for key in ("lora_r", "lora_alpha", "lora_dropout")]


def _torchtitan() -> list[Place]:
    keys = {"optimiser": "name", "learning_rate": "lr", "weight_decay": "weight_decay", "beta2": "beta2", "eps": "eps"}
    return [Place(field, "torchtitan/config_manager.py", "Optimizer", key) for field, key in keys.items()]


def _verl() -> list[Place]:
    config = "verl/trainer/config/"
    fsdp = (("engine", "fsdp"),)
    return [
        Place("learning_rate", config + "actor/actor.yaml", "", "optim.lr", "actor", fsdp),
        Place("learning_rate", config + "critic/critic.yaml", "", "optim.lr", "critic", fsdp),
        Place("optimiser", config + "optim/fsdp.yaml", "", "optimizer", "actor", fsdp),
        Place("weight_decay", config + "optim/fsdp.yaml", "", "weight_decay", "actor", fsdp),
        Place("scheduler", config + "optim/fsdp.yaml", "", "lr_scheduler_type", "actor", fsdp),
        Place("epochs", config + "ppo_trainer.yaml", "", "trainer.total_epochs", "actor", fsdp),
        Place("lora_alpha", config + "model/hf_model.yaml", "", "lora_alpha", "actor", fsdp),
    ]


def _old_verl() -> list[Place]:
    config, fsdp = "verl/trainer/config/", (("engine", "fsdp"),)
    ppo = config + "ppo_trainer.yaml"
    return [
        Place("learning_rate", ppo, "", "actor_rollout_ref.actor.optim.lr", "actor", fsdp),
        Place("learning_rate", ppo, "", "critic.optim.lr", "critic", fsdp),
        Place("learning_rate", config + "sft_trainer.yaml", "", "optim.lr", "sft", fsdp),
        Place("scheduler", config + "sft_trainer.yaml", "", "optim.lr_scheduler", "sft", fsdp),
    ]


def _nemo() -> list[Place]:
    return [Place("weight_decay", "nemo/core/config/optimizers.py", "AdamWParams", "weight_decay", "adamw")]


WHEELS: dict[str, list[tuple[str, list[Place]]]] = {
    "axolotl": [("axolotl==0.21.0", _axolotl())],
    "llamafactory": [("llamafactory==0.9.5", _llamafactory()), ("llamafactory==0.9.0", _llamafactory()[:5])],
    "ms-swift": [("ms-swift==4.6.0", _swift()), ("ms-swift==3.9.0", _swift()), ("ms-swift==3.3.0", _swift())],
    "nemo-automodel": [("nemo-automodel==0.7.0", _automodel())],
    "mlx-lm": [("mlx-lm==0.32.2", _mlx()), ("mlx-lm==0.26.0", _mlx())],
    "autotrain": [("autotrain-advanced==0.8.36", _autotrain())],
    "openrlhf": [("openrlhf==0.11.2", _openrlhf())],
    "unsloth-cli": [("unsloth==2026.10.9", _unsloth())],
    "verl": [("verl==0.9.1", _verl()), ("verl==0.4.1", _old_verl())],
    "torchtitan": [("torchtitan==0.1.0", _torchtitan())],
    "nemo": [("nemo_toolkit==1.23.0", _nemo())],
}


def wheel(requirement: str, folder: Path) -> Path:
    """Download a wheel into a folder and return its path; one that is there already is taken."""
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--ignore-requires-python"]
        subprocess.run([*command, "--only-binary", ":all:", "-d", str(folder), requirement], check=True)
    return next(iter(folder.glob(pattern)))


def constant(node: ast.expr | None) -> Any:
    """Return a constant; of `field(default=X)` and `Field(X)` the X; MISSING for what is computed."""
    if isinstance(node, ast.Call):
        given = next((one.value for one in node.keywords if one.arg == "default"), node.args[0] if node.args else None)
        return constant(given) if given is not None else MISSING
    if node is None:
        return MISSING
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return MISSING


def within(found: Any, key: str) -> Any:
    """Return what stands under a dotted key of nested dictionaries, MISSING where it is not there."""
    for part in key.split("."):
        found = found.get(part, MISSING) if isinstance(found, dict) else MISSING
    return found


def read(tree: ast.Module, place: Place) -> Any:
    """Return the value that stands at a place of a module, MISSING where it is not there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and place.holder in ("*", node.name):
            for line in node.body:
                if (
                    isinstance(line, ast.AnnAssign)
                    and isinstance(line.target, ast.Name)
                    and line.target.id == place.key
                ):
                    return constant(line.value)
        asked = isinstance(node, ast.Call) and place.holder == "--" and getattr(node.func, "attr", "") == "add_argument"
        if asked and any(isinstance(one, ast.Constant) and one.value == place.key for one in node.args):
            return constant(next((one.value for one in node.keywords if one.arg == "default"), None))
        if isinstance(node, ast.Assign) and any(getattr(one, "id", "") == place.holder for one in node.targets):
            return within(constant(node.value), place.key)
    return MISSING


def checked(tool: str, requirement: str, places: list[Place], path: Path) -> int:
    """Print each place of a wheel beside the table, and return how many disagree."""
    name, number = requirement.split("==")
    version = Version(name, number, (), "")
    wrong = 0
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for place in places:
            inside = next((one for one in names if one.endswith(place.file)), None)
            text = archive.read(inside).decode() if inside else ""
            found = (
                within(yaml.safe_load(text), place.key)
                if place.file.endswith(".yaml")
                else read(ast.parse(text), place)
            )
            ours = default_field(tool, place.field, version, place.of, **dict(place.when))
            same = (
                found is not MISSING and ours is not None and ours.value == typed_field(place.field, found, None).value
            )
            wrong += not same
            shown = "not found" if found is MISSING else repr(found)
            table = "no row" if ours is None else repr(ours.value)
            mark = "ok " if same else "NO "
            print(f"{mark} {requirement:28} {place.holder}.{place.key} = {shown}; table {place.of or '-'} {table}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tools", nargs="*", choices=[*WHEELS, []], help="all by default")
    parser.add_argument("--wheels", type=Path, help="folder of wheels; a temporary one by default")
    said = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = said.wheels or Path(temporary)
        for tool in said.tools or WHEELS:
            for requirement, places in WHEELS[tool]:
                wrong += checked(tool, requirement, places, wheel(requirement, folder))
    print(f"{wrong} places disagree")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
