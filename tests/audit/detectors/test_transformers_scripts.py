"""Scripts of the Transformers family written for these tests, read as `narrowly audit` reads them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from audited import jobs_of, the_job, values
from narrowly.audit.python.argument_setters import SETTERS

HEAD = """\
from transformers import Trainer, TrainingArguments
"""


def test_arguments_written_out_are_explicit_at_their_lines_and_the_rest_is_the_default(tmp_path: Path) -> None:
    text = HEAD + (
        'args = TrainingArguments(\n    "out",\n    optim="adamw_bnb_8bit",\n    learning_rate=2e-4,\n'
        ")\nTrainer(model, args).train()\n"
    )
    job = the_job(tmp_path, "train.py", text)
    assert (job.tool, job.line, job.kind) == ("transformers", 2, "script")
    assert values(job, "optimiser", "learning_rate", "weight_decay", "scheduler", "epochs") == (
        "adamw_8bit", 2e-4, 0.0, "linear", 3.0,
    )  # fmt: skip
    assert (job["optimiser"].at, job["optimiser"].raw) == ("train.py:4", "adamw_bnb_8bit")
    assert job["weight_decay"].provenance == "default" and "transformers" in job["weight_decay"].reason
    assert job["lora_r"].value is None and job["lora_r"].provenance == "default"


@pytest.mark.parametrize(
    ("lines", "rate"),
    [
        ("LR = 1e-4\nargs = TrainingArguments('o', learning_rate=LR)", 1e-4),
        ("K = dict(learning_rate=1e-4)\nargs = TrainingArguments('o', **{**K, 'seed': 1})", 1e-4),
        ("K = {'learning_rate': 3e-4}\nK |= {'learning_rate': 1e-4}\nargs = TrainingArguments('o', **K)", 1e-4),
        ("import os\nargs = TrainingArguments('o', learning_rate=float(os.environ.get('LR', '1e-4')))", 1e-4),
        ("given = None\nargs = TrainingArguments('o', learning_rate=given or 1e-4)", 1e-4),
        ("big = False\nargs = TrainingArguments('o', learning_rate=1e-3 if big else 1e-4)", 1e-4),
        ("class C:\n    lr = 2 * 5e-5\nargs = TrainingArguments('o', learning_rate=C.lr)", 1e-4),
        ("def make(lr=1e-4):\n    return TrainingArguments('o', learning_rate=lr)\nargs = make()", 1e-4),
        ("args = TrainingArguments('o')\nargs.learning_rate = 1e-4", 1e-4),
        ("args = TrainingArguments('o', learning_rate=float(f'{1}e-{4}'))", 1e-4),
    ],
)
def test_constants_are_followed(tmp_path: Path, lines: str, rate: float) -> None:
    job = the_job(tmp_path, "train.py", f"{HEAD}{lines}\nTrainer(model, args)\n")
    assert job["learning_rate"].value == pytest.approx(rate)
    assert job["learning_rate"].provenance == "explicit"


def test_what_the_source_does_not_tell_is_unknown_with_its_reason(tmp_path: Path) -> None:
    text = HEAD + (
        "import torch\nif torch.cuda.device_count() > 1:\n    lr = 1e-4\nelse:\n    lr = 2e-4\n"
        "args = TrainingArguments('o', learning_rate=lr)\nTrainer(model, args)\n"
    )
    field = the_job(tmp_path, "train.py", text)["learning_rate"]
    assert (field.value, field.provenance) == (None, "unknown")
    assert "0.0001 or 0.0002" in field.reason


def test_argparse_defaults_are_what_a_bare_run_takes_and_the_command_line_may_change_them(tmp_path: Path) -> None:
    text = HEAD + (
        "import argparse\ndef main():\n    p = argparse.ArgumentParser()\n"
        "    p.add_argument('--lr', type=float, default='3e-5')\n"
        "    p.add_argument('--adamw8', action='store_true')\n    a = p.parse_args()\n"
        "    args = TrainingArguments('o', learning_rate=a.lr, optim='adamw_8bit' if a.adamw8 else 'adafactor')\n"
        "    Trainer(model, args)\nif __name__ == '__main__':\n    main()\n"
    )
    job = the_job(tmp_path, "train.py", text)
    assert values(job, "learning_rate", "optimiser") == (3e-5, "adafactor")
    assert job.cli_overridable
    assert job["learning_rate"].at == "train.py:5"


def test_the_dataclass_of_an_hf_parser_gives_its_defaults(tmp_path: Path) -> None:
    text = (
        "import transformers\nfrom dataclasses import dataclass, field\n@dataclass\n"
        "class Mine(transformers.TrainingArguments):\n    optim: str = field(default='paged_adamw_32bit')\n"
        "    learning_rate: float = field(default=2e-4, metadata={'help': 'x'})\n"
        "def train():\n    parser = transformers.HfArgumentParser((Mine,))\n"
        "    (args,) = parser.parse_args_into_dataclasses()\n"
        "    transformers.Trainer(model=m, args=args).train()\ntrain()\n"
    )
    job = the_job(tmp_path, "train.py", text)
    assert values(job, "optimiser", "learning_rate", "weight_decay") == ("paged_adamw", 2e-4, 0.0)
    assert job.cli_overridable


def test_constants_of_a_sibling_module_are_inherited(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text("LR = 7e-5\n")
    text = HEAD + "from settings import LR\nTrainer(m, TrainingArguments('o', learning_rate=LR))\n"
    field = the_job(tmp_path, "train.py", text)["learning_rate"]
    assert (field.value, field.provenance, field.at) == (7e-5, "inherited", "settings.py:1")


def test_settings_read_from_a_file_beside_the_script_are_inherited(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"lr": 7e-5}, indent=1))
    text = HEAD + (
        "import json\nwith open('c.json') as f:\n    c = json.load(f)\n"
        "Trainer(m, TrainingArguments('o', learning_rate=c['lr']))\n"
    )
    field = the_job(tmp_path, "train.py", text)["learning_rate"]
    assert (field.value, field.provenance, field.at) == (7e-5, "inherited", "c.json:2")


def test_an_optimiser_that_the_trainer_is_handed_wins(tmp_path: Path) -> None:
    text = HEAD + (
        "import torch\nargs = TrainingArguments('o', optim='adafactor', learning_rate=1e-3)\n"
        "opt = torch.optim.SGD(m.parameters(), lr=0.5, momentum=0.9)\nTrainer(m, args, optimizers=(opt, None))\n"
    )
    job = the_job(tmp_path, "train.py", text)
    assert values(job, "optimiser", "learning_rate", "momentum") == ("sgd", 0.5, 0.9)
    assert job["optimiser"].provenance == "overridden"
    assert job.marks["declared_optimiser"].value == "adafactor"


def test_a_trainer_that_makes_its_own_optimiser_wins(tmp_path: Path) -> None:
    text = HEAD + (
        "from lion_pytorch import Lion\nclass Mine(Trainer):\n    def create_optimizer(self):\n"
        "        self.optimizer = Lion(self.model.parameters(), lr=self.args.learning_rate, betas=(0.9, 0.95))\n"
        "        return self.optimizer\nMine(m, TrainingArguments('o', learning_rate=1e-4)).train()\n"
    )
    job = the_job(tmp_path, "train.py", text)
    assert values(job, "optimiser", "learning_rate", "beta2") == ("lion", 1e-4, 0.95)
    assert job["optimiser"].provenance == "overridden"


def test_create_optimizer_that_only_calls_the_base_changes_nothing(tmp_path: Path) -> None:
    text = HEAD + (
        "class Mine(Trainer):\n    def create_optimizer(self):\n        return super().create_optimizer()\n"
        "Mine(m, TrainingArguments('o', optim='adafactor'))\n"
    )
    job = the_job(tmp_path, "train.py", text)
    assert (job["optimiser"].value, job["optimiser"].provenance) == ("adafactor", "explicit")


def test_optimizer_cls_and_kwargs_wins(tmp_path: Path) -> None:
    text = HEAD + (
        "import torch\n"
        "Trainer(m, TrainingArguments('o'), optimizer_cls_and_kwargs=(torch.optim.RMSprop, {'lr': 0.01}))\n"
    )
    job = the_job(tmp_path, "train.py", text)
    assert values(job, "optimiser", "learning_rate") == ("rmsprop", 0.01)


def test_a_deepspeed_block_wins_and_auto_keeps_the_arguments(tmp_path: Path) -> None:
    block = {"type": "Lion", "params": {"lr": "auto", "weight_decay": 0.1}}
    (tmp_path / "ds.json").write_text(json.dumps({"optimizer": block, "zero_optimization": {"stage": 2}}))
    text = HEAD + "Trainer(m, TrainingArguments('o', learning_rate=3e-5, deepspeed='ds.json'))\n"
    job = the_job(tmp_path, "train.py", text)
    assert values(job, "optimiser", "learning_rate", "weight_decay") == ("lion", 3e-5, 0.1)
    assert job["optimiser"].provenance == "overridden"


def test_a_deepspeed_dictionary_in_the_script_wins(tmp_path: Path) -> None:
    text = HEAD + (
        "ds = {'optimizer': {'type': 'Adam', 'params': {'lr': 1e-5, 'adam_w_mode': False}}, "
        "'zero_optimization': {'stage': 1}}\n"
        "Trainer(m, TrainingArguments('o', learning_rate=3e-5, deepspeed=ds))\n"
    )
    job = the_job(tmp_path, "train.py", text)
    assert values(job, "optimiser", "learning_rate") == ("adam", 1e-5)


def test_the_adapter_of_the_trainer_s_model_is_the_job_s(tmp_path: Path) -> None:
    text = HEAD + (
        "from peft import LoraConfig, get_peft_model\nother = LoraConfig(r=4)\n"
        "model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=['q_proj', "
        "'v_proj'], use_rslora=True))\n"
        "Trainer(model=model, args=TrainingArguments('o'))\n"
    )
    job = the_job(tmp_path, "train.py", text)
    assert values(job, "lora_r", "lora_alpha", "lora_dropout", "lora_targets", "use_rslora") == (
        16, 32, 0.0, ["q_proj", "v_proj"], True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rate"), [("SFTConfig", 2e-5), ("DPOConfig", 1e-6), ("GRPOConfig", 1e-6), ("RewardConfig", 1e-4)]
)
def test_the_class_of_trl_decides_the_default_rate(tmp_path: Path, name: str, rate: float) -> None:
    trainer = name.replace("Config", "Trainer")
    job = the_job(
        tmp_path, "t.py", f"from trl import {name}, {trainer}\n{trainer}(model='m', args={name}(output_dir='o'))\n"
    )
    assert job.tool == "trl"
    assert values(job, "optimiser", "learning_rate") == ("adamw", rate)


def test_the_locked_version_decides_the_default_rate_of_trl(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("trl==0.9.6\n")
    job = the_job(tmp_path, "t.py", "from trl import SFTConfig, SFTTrainer\nSFTTrainer('m', args=SFTConfig('o'))\n")
    assert job["learning_rate"].value == 5e-5
    assert "0.9.6" in job["learning_rate"].reason


def test_a_trainer_without_arguments_takes_those_of_its_class(tmp_path: Path) -> None:
    job = the_job(tmp_path, "t.py", "from trl import SFTTrainer\nSFTTrainer(model='m', train_dataset=d).train()\n")
    assert values(job, "optimiser", "learning_rate") == ("adamw", 2e-5)


def test_training_arguments_under_an_sft_trainer_keep_their_own_defaults(tmp_path: Path) -> None:
    text = (
        "from trl import SFTTrainer\nfrom transformers import TrainingArguments\n"
        "SFTTrainer('m', args=TrainingArguments('o'))\n"
    )
    assert the_job(tmp_path, "t.py", text)["learning_rate"].value == 5e-5


UNSLOTH = """\
from unsloth import FastLanguageModel
from trl import SFTTrainer, SFTConfig
model, tok = FastLanguageModel.from_pretrained("some/base", load_in_4bit=True)
model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=16)
SFTTrainer(model=model, args=SFTConfig(max_steps=60)).train()
"""


def test_importing_unsloth_rewrites_the_defaults_of_trl(tmp_path: Path) -> None:
    job = the_job(tmp_path, "t.py", UNSLOTH)
    assert job.tool == "unsloth"
    assert values(job, "optimiser", "learning_rate", "weight_decay", "max_steps") == ("adamw_8bit", 5e-5, 0.001, 60)
    assert values(job, "lora_r", "lora_alpha", "lora_dropout") == (16, 16, 0.0)
    assert job.marks["unsloth_import"].value is True


def test_a_class_bound_before_unsloth_keeps_trl_s_defaults(tmp_path: Path) -> None:
    lines = UNSLOTH.splitlines()
    job = the_job(tmp_path, "t.py", "\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    assert values(job, "optimiser", "learning_rate") == ("adamw", 2e-5)


def test_a_notebook_s_cells_are_one_script_without_its_magics(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "code", "source": ["%pip install trl\n", "!nvidia-smi\n", "LR = 1e-4"]},
        {"cell_type": "markdown", "source": "words"},
        {
            "cell_type": "code",
            "source": HEAD + "args = TrainingArguments('o', learning_rate=LR)\nTrainer(m, args).train()",
        },
        {"cell_type": "code", "source": "%%bash\necho 1"},
    ]
    job = the_job(tmp_path, "n.ipynb", json.dumps({"cells": cells, "nbformat": 4}))
    assert job.kind == "notebook"
    assert (job["learning_rate"].value, job["learning_rate"].at) == (1e-4, "n.ipynb:1/3")


def test_classes_and_words_without_a_run_are_no_job(tmp_path: Path) -> None:
    text = (
        '"""TrainingArguments(learning_rate=1e-4) is how."""\nfrom transformers import Trainer\n'
        "class Mine(Trainer):\n    pass\n"
    )
    assert jobs_of(tmp_path, "t.py", text) == []


def test_what_a_trainer_s_own_methods_fall_back_on_is_no_job(tmp_path: Path) -> None:
    text = (
        "from transformers import Trainer\nfrom trl import GRPOConfig\nclass MyTrainer(Trainer):\n"
        "    def __init__(self, model, args=None):\n        if args is None:\n            args = GRPOConfig('o')\n"
        "        super().__init__(model, args)\n"
    )
    assert jobs_of(tmp_path, "t.py", text) == []


def test_a_parser_of_classes_by_another_name_is_one_too(tmp_path: Path) -> None:
    text = (
        "from alignment import H4ArgumentParser\nfrom trl import DPOConfig, DPOTrainer\n"
        "parser = H4ArgumentParser((DPOConfig,))\n"
        "args = parser.parse()\nDPOTrainer(m, args=args)\n"
    )
    job = the_job(tmp_path, "t.py", text)
    assert job.tool == "trl" and job.cli_overridable
    assert values(job, "optimiser", "learning_rate") == ("adamw", 1e-6)


def test_our_own_factory_is_read_and_another_is_unknown(tmp_path: Path) -> None:
    text = HEAD + (
        "from narrowly.integrations.transformers import optimizer_factory\n"
        "Trainer(m, TrainingArguments('o'), optimizer_cls_and_kwargs=optimizer_factory({'kind': 'muon', 'lr': 0.02}))\n"
    )
    job = the_job(tmp_path, "t.py", text)
    assert values(job, "optimiser", "learning_rate") == ("muon", 0.02)
    assert "declared_optimiser" not in job.marks  # a default of TrainingArguments was declared by nobody
    job = the_job(tmp_path, "t.py", text.replace("'o'", "'o', optim='adamw_torch'"))
    assert job.marks["declared_optimiser"].value == "adamw"
    text = HEAD + "from mine import pick\nTrainer(m, TrainingArguments('o'), optimizer_cls_and_kwargs=pick())\n"
    assert not the_job(tmp_path, "t.py", text)["optimiser"].known


def test_a_trainer_at_the_start_of_a_notebooks_cell_is_found(tmp_path: Path) -> None:
    def cell(source: object) -> dict[str, object]:
        return {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": source}

    for number, source in enumerate(
        (
            "SFTTrainer(model=m).train()",
            "x = 1\nSFTTrainer(model=m).train()",
            ["x = 1\n", "SFTTrainer(model=m).train()"],
        )
    ):
        cells = [cell("from trl import SFTTrainer"), cell(source)]
        text = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
        assert the_job(tmp_path / str(number), "n.ipynb", text).tool == "trl"


def test_methods_that_set_several_arguments_set_what_they_are_not_given_too(tmp_path: Path) -> None:
    text = (
        "from transformers import Trainer, TrainingArguments\n"
        "args = TrainingArguments('o', learning_rate=1e-3, num_train_epochs=9)\n"
        "args = args.set_optimizer(name='adafactor', weight_decay=0.2)\nargs.set_lr_scheduler('cosine')\n"
        "Trainer(m, args).train()\n"
    )
    job = the_job(tmp_path, "t.py", text)
    assert values(job, "optimiser", "learning_rate", "weight_decay", "scheduler", "epochs") == (
        "adafactor", 5e-5, 0.2, "cosine", 3.0,
    )  # fmt: skip


@pytest.mark.parametrize("name", SETTERS)
def test_setters_are_those_of_the_installed_class(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    signature = inspect.signature(getattr(transformers.TrainingArguments, name)).parameters
    ours = [(parameter, value) for parameter, _, value in SETTERS[name]]
    assert ours == [(key, each.default) for key, each in signature.items() if key != "self"][: len(ours)]


@pytest.mark.parametrize(
    ("call", "pin", "optimiser"),
    [
        ("PPOTrainer(c, model, ref, tokenizer)", "0.7.4", "adam"),
        ("PPOTrainer(c, tokenizer, model, ref)", "0.13.0", "adamw"),
        ("PPOTrainer(c, model, ref, tokenizer)\nt.step(q, r, s)", "", "adam"),
    ],
)
def test_ppo_before_trl_0_12_makes_its_own_adam(tmp_path: Path, call: str, pin: str, optimiser: str) -> None:
    text = f"from trl import PPOConfig, PPOTrainer\nc = PPOConfig(learning_rate=1.41e-5)\nt = {call}\n"
    job = the_job(tmp_path, "t.py", text, **({"requirements__txt": f"trl=={pin}\n"} if pin else {}))
    assert values(job, "optimiser", "learning_rate") == (optimiser, 1.41e-5)


def test_a_script_or_notebook_that_pins_its_own_versions_is_read_by_them(tmp_path: Path) -> None:
    body = "from trl import SFTConfig, SFTTrainer\nSFTTrainer(m, args=SFTConfig('o')).train()\n"
    head = '# /// script\n# dependencies = ["trl==0.11.0", "transformers==4.44.0"]\n# ///\n'
    job = the_job(tmp_path, "t.py", head + body, requirements__txt="trl==0.20.0\n")
    assert (job.value("learning_rate"), job.tool_version.value, job.tool_version.at) == (5e-5, "0.11.0", "t.py:2")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("load_dataset('a/b', split='train').map(f)", ["a/b"]),
        ("load_dataset('json', data_files={'train': ['x.jsonl']})['train']", ["x.jsonl"]),
        ("interleave_datasets([load_dataset('a/b'), load_dataset('c/d', split='train').shuffle()])", ["a/b", "c/d"]),
        ("concatenate_datasets([load_dataset('a/b'), Dataset.from_list(rows)])", None),
        ("load_dataset(name_from_elsewhere())", None),
        ("rows", None),
    ],
)
def test_the_data_sets_of_a_trainer_are_named_where_they_are_known(
    tmp_path: Path, made: str, expected: list[str] | None
) -> None:
    text = HEAD + (
        "from datasets import Dataset, concatenate_datasets, interleave_datasets, load_dataset\n"
        f"data = {made}\nTrainer(m, TrainingArguments('o'), train_dataset=data).train()\n"
    )
    assert the_job(tmp_path, "t.py", text).value("datasets") == expected
