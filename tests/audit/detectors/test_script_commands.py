"""Python scripts, written for these tests, that start a tool: its entry function, or its command as a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from audited import jobs_of, the_job, values

RECIPE = "base_model: m\nadapter: lora\nlora_r: 8\noptimizer: adamw_8bit\nlearning_rate: 1e-4\nnum_epochs: 2\n"


@pytest.mark.parametrize(
    "text",
    [
        "from swift.llm import sft_main, TrainArguments\nsft_main(TrainArguments(\n  learning_rate=2e-5, optim='lion',"
        "\n  train_type='lora', lora_rank=4, dataset=['d'], model='m'))\n",
        "from swift.llm import sft_main, SftArguments\nargs = SftArguments(learning_rate=2e-5,\n optim='lion',"
        " train_type='lora', lora_rank=4, dataset=['d'], model='m')\nif True:\n    sft_main(args)\n",
        "from swift.llm import sft_main\n\nsft_main(['--learning_rate', '2e-5', '--optim', 'lion',"
        " '--train_type', 'lora', '--lora_rank', '4', '--dataset', 'd', '--model', 'm'])\n",
    ],
)
def test_the_entry_of_ms_swift_is_a_job_with_the_arguments_it_is_given(tmp_path: Path, text: str) -> None:
    job = the_job(tmp_path, "train.py", text)
    assert (job.tool, job.kind) == ("ms-swift", "script")
    assert values(job, "optimiser", "learning_rate", "lora_r") == ("lion", 2e-5, 4)


@pytest.mark.parametrize("module", ["llamafactory.train.tuner", "llmtuner"])
def test_the_entry_of_llama_factory_is_a_job_and_what_is_not_known_stays_unknown(tmp_path: Path, module: str) -> None:
    text = (
        f"import sys\nfrom {module} import run_exp\nrun_exp(dict(\n  stage='sft', do_train=True,"
        "\n  model_name_or_path='m', dataset='d',\n  finetuning_type='lora', learning_rate=3e-4,\n"
        "  num_train_epochs=read(sys.argv)))\n"
    )
    job = the_job(tmp_path, "train.py", text)
    assert (job.tool, job.line, job.kind) == ("llamafactory", 3, "script")
    assert values(job, "optimiser", "learning_rate", "lora_r") == ("adamw", 3e-4, 8)
    assert job["learning_rate"].at == "train.py:6" and not job["epochs"].known


@pytest.mark.parametrize(
    "call",
    [
        "subprocess.run(['axolotl', 'train', 'c.yml'], check=True)",
        "os.system('cd x && axolotl train c.yml')",
        "subprocess.check_call([sys.executable, '-m', 'axolotl.cli.train', 'c.yml'])",
        "subprocess.Popen('accelerate launch -m axolotl.cli.train c.yml', shell=True)",
        "subprocess.run(shlex.split('axolotl train c.yml'))",
    ],
)
def test_a_tools_command_run_from_python_is_a_job_with_the_config_that_it_names(tmp_path: Path, call: str) -> None:
    text = f"import os, shlex, subprocess, sys\n\ndef main():\n    {call}\n\nmain()\n"
    job = the_job(tmp_path, "go.py", text, c__yml=RECIPE)
    assert (job.tool, job.line, job.kind) == ("axolotl", 4, "command")
    assert values(job, "optimiser", "learning_rate", "lora_r") == ("adamw_8bit", 1e-4, 8)
    assert job["learning_rate"].at == "c.yml:5"


@pytest.mark.parametrize(
    "text",
    [
        "import subprocess\nsubprocess.run(['axolotl', 'inference', 'c.yml'])\n",
        "import subprocess\nsubprocess.run(['pip', 'install', 'axolotl', '--dataset'])\n",
        "def sft_main(args):\n    return args\n\nsft_main(3)\n",
        "from mine import run_exp\nrun_exp(dict(learning_rate=1e-3))\n",
    ],
)
def test_commands_and_functions_that_train_nothing_are_no_job(tmp_path: Path, text: str) -> None:
    assert jobs_of(tmp_path, "go.py", text) == []


def test_of_a_command_with_a_part_that_is_not_known_the_rest_is_read(tmp_path: Path) -> None:
    text = (
        "import os, sys\nlr = 3e-4\nos.system(f'llamafactory-cli train --stage sft --do_train True --dataset d "
        "--model_name_or_path {sys.argv[1]} --finetuning_type lora --learning_rate {lr} "
        "--num_train_epochs {sys.argv[2]}')\n"
    )
    job = the_job(tmp_path, "go.py", text)
    assert (job.tool, job.value("learning_rate")) == ("llamafactory", 3e-4)
    assert not job["epochs"].known


def test_a_path_that_is_joined_from_an_unknown_list_does_not_end_the_audit(tmp_path: Path) -> None:
    text = (
        "import os, sys, subprocess\nname = os.path.join(*sys.argv)\n"
        "subprocess.run(['axolotl', 'train', 'c.yml', name])\n"
    )
    assert the_job(tmp_path, "go.py", text, c__yml=RECIPE).value("learning_rate") == 1e-4
