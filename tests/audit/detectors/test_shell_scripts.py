"""Shell and Slurm scripts written for these tests, read as `narrowly audit` reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from audited import jobs_of, the_job, values
from narrowly.audit.scan import scan
from narrowly.audit.shell.commands import commands_in

TRAIN = """\
import transformers
def main():
    parser = transformers.HfArgumentParser(transformers.TrainingArguments)
    (args,) = parser.parse_args_into_dataclasses()
    transformers.Trainer(model=m, args=args).train()
main()
"""


def words(text: str) -> list[list[str]]:
    return [[word.text for word in command.words] for command in commands_in(text)]


def test_continuations_are_joined_and_each_word_keeps_its_line() -> None:
    (command,) = commands_in("# words\npython a.py \\\n  --lr 1e-4 \\\n  --x 2\n")
    assert [(word.text, word.line) for word in command.words] == [
        ("python", 2), ("a.py", 2), ("--lr", 3), ("1e-4", 3), ("--x", 4), ("2", 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LR=1e-4\nrun --lr $LR", ["run", "--lr", "1e-4"]),
        ("run --lr ${LR:-3e-4}", ["run", "--lr", "3e-4"]),
        ('A=2\nB="x${A}"\nrun "$B"', ["run", "x2"]),
        ('OPTS="--a 1 --b 2"\nrun $OPTS', ["run", "--a", "1", "--b", "2"]),
        ("ARGS=(--a 1\n  --b 2\n)\nrun ${ARGS[@]}", ["run", "--a", "1", "--b", "2"]),
        ("run --a 1 `# why` \\\n --b 2", ["run", "--a", "1", "--b", "2"]),
        ("run --a 1 > out.log 2>&1", ["run", "--a", "1"]),
        ("run --model $MODEL", ["run", "--model", "$MODEL"]),
        ("LR=1e-4 run --a 1", ["run", "--a", "1"]),
        ("run --a 1 \\", ["run", "--a", "1"]),
    ],
)
def test_variables_and_arrays_of_the_script_are_filled_in(text: str, expected: list[str]) -> None:
    assert words(text)[-1] == expected


def test_flags_win_over_the_defaults_of_the_script_that_is_run(tmp_path: Path) -> None:
    text = (
        "#!/bin/bash\n#SBATCH -N 1\nLR=3e-5\n"
        "srun accelerate launch --num_processes 4 train.py \\\n  --learning_rate $LR --optim adafactor\n"
    )
    job = the_job(tmp_path, "run.slurm", text, train__py=TRAIN)
    assert (job.tool, job.kind, job.line) == ("transformers", "command", 4)
    assert values(job, "learning_rate", "optimiser", "weight_decay") == (3e-5, "adafactor", 0.0)
    assert job["optimiser"].provenance == "explicit" and job["optimiser"].at == "run.slurm:5"


def test_what_the_script_itself_says_is_inherited_and_the_environment_is_joined(tmp_path: Path) -> None:
    script = (
        "import os\nfrom transformers import Trainer, TrainingArguments\n"
        "Trainer(m, TrainingArguments('o', optim='adamw_8bit', learning_rate=float(os.environ.get('LR', '1e-4'))))\n"
    )
    job = the_job(tmp_path, "run.sh", "export LR=7e-5\npython train.py\n", train__py=script)
    assert values(job, "learning_rate", "optimiser") == (7e-5, "adamw_8bit")
    assert job["optimiser"].provenance == "inherited" and job["optimiser"].at == "train.py:3"
    assert job["learning_rate"].at == "run.sh:1"


def test_a_deepspeed_file_that_a_flag_names_wins(tmp_path: Path) -> None:
    block = '{"optimizer": {"type": "Muon", "params": {"lr": 0.02}}, "zero_optimization": {"stage": 2}}'
    text = "deepspeed train.py --deepspeed ds.json --optim adafactor\n"
    job = the_job(tmp_path, "run.sh", text, train__py=TRAIN, ds__json=block)
    assert values(job, "optimiser", "learning_rate") == ("muon", 0.02)


@pytest.mark.parametrize(
    ("command", "tool", "optimiser", "rate"),
    [
        ("swift sft --model m --dataset d --tuner_type lora --learning_rate 1e-4", "ms-swift", "adamw", 1e-4),
        (("llamafactory-cli train --stage sft --finetuning_type lora --learning_rate 5e-5 "
            "--optim adamw_8bit"), "llamafactory",
         "adamw_8bit", 5e-5),
        ("tune run lora_finetune_single_device --config c.yaml optimizer.lr=1e-3", "torchtune", "adamw", 1e-3),
        ("axolotl train a.yaml --learning-rate 1e-5", "axolotl", "adafactor", 1e-5),
        ("trl sft --model_name_or_path m --dataset_name d", "trl", "adamw", 2e-5),
        ("python3 -m verl.trainer.main_ppo actor_rollout_ref.actor.optim.lr=1e-6", "verl", "adamw", 1e-6),
        ("deepspeed --module openrlhf.cli.train_sft --learning_rate 5e-6", "openrlhf", None, 5e-6),
        (("python absent.py --output_dir o --per_device_train_batch_size 2 "
            "--learning_rate 2e-4 --optim paged_adamw_8bit"),
         "transformers", "paged_adamw_8bit", 2e-4),
    ],
)  # fmt: skip
def test_each_tool_s_command_line_is_read(
    tmp_path: Path, command: str, tool: str, optimiser: str | None, rate: float
) -> None:
    tune = (
        "model:\n  _component_: torchtune.models.x\noptimizer:\n"
        "  _component_: torch.optim.AdamW\n  lr: 3e-4\nepochs: 1\n"
    )
    axolotl = (
        "base_model: m\nadapter: lora\ndatasets:\n  - path: d\n    type: alpaca\n"
        "optimizer: adafactor\nlearning_rate: 1e-4\n"
    )
    job = the_job(tmp_path, "run.sh", command + "\n", c__yaml=tune, a__yaml=axolotl)
    assert job.tool == tool
    assert job["learning_rate"].value == rate
    if optimiser is not None:
        assert job["optimiser"].value == optimiser


def test_a_request_to_a_host_is_a_job_whose_optimiser_is_unknown(tmp_path: Path) -> None:
    text = "curl https://api.openai.com/v1/fine_tuning/jobs -H 'x: y' -d '{\"model\": \"m\"}'\n"
    job = the_job(tmp_path, "run.sh", text)
    assert (job.tool, job.kind, job["optimiser"].provenance) == ("openai", "hosted", "unknown")


@pytest.mark.parametrize(
    "text", ["python evaluate.py --model m\n", "pip install trl\n", "echo 'unclosed\n", "cat <<EOF\nx\n"]
)
def test_commands_that_train_nothing_are_no_job(tmp_path: Path, text: str) -> None:
    assert jobs_of(tmp_path, "run.sh", text) == []


def test_a_script_that_is_not_at_hand_leaves_the_optimiser_unknown(tmp_path: Path) -> None:
    job = the_job(tmp_path, "run.sh", "torchrun --nproc_per_node 3 train.py --learning_rate 5e-5 --max_steps 100\n")
    assert not job["optimiser"].known and "train.py" in job["optimiser"].reason
    assert values(job, "learning_rate", "max_steps") == (5e-5, 100)


def test_a_flag_stands_in_the_script_and_what_it_leaves_alone_in_the_config(tmp_path: Path) -> None:
    config = (
        "model:\n  _component_: torchtune.models.llama3.llama3_8b\noptimizer:\n  _component_: torch.optim.AdamW\n"
        "  weight_decay: 0.01\n  lr: 3e-4\nepochs: 1\n"
    )
    command = "# one epoch\ntune run full_finetune_single_device --config my.yaml optimizer.lr=1e-3\n"
    (job,) = [one for one in jobs_of(tmp_path, "r.sh", command, my__yaml=config) if one.file == "r.sh"]
    rate, decay = job["learning_rate"], job["weight_decay"]
    assert (rate.value, rate.provenance, rate.at) == (1e-3, "explicit", "r.sh:2")
    assert (decay.value, decay.provenance, decay.at) == (0.01, "inherited", "my.yaml:5")


def test_a_config_and_the_command_that_runs_it_are_one_job_whether_or_not_the_command_sets_anything(
    tmp_path: Path,
) -> None:
    config = "base_model: m\nadapter: lora\ndatasets:\n  - path: d\n    type: alpaca\nlearning_rate: 1e-4\n"
    for number, flags in enumerate(("", " --learning-rate 1e-5")):
        folder = tmp_path / str(number)
        jobs = jobs_of(folder, "run.sh", f"axolotl train a.yaml{flags}\n", a__yaml=config)
        assert [job.file for job in scan([folder]).jobs] == ["run.sh"] == [job.file for job in jobs]


def test_a_loop_over_rates_makes_the_rate_unknown_and_a_loop_over_one_value_does_not(tmp_path: Path) -> None:
    run = "python train.py --learning_rate $LR --num_train_epochs 3 --optim adafactor --output_dir o\ndone\n"
    several = the_job(tmp_path, "a.sh", "LR=3e-4\nfor LR in 1e-4 2e-4; do\n" + run)
    assert several["learning_rate"].provenance == "unknown"
    assert the_job(tmp_path / "one", "b.sh", "for LR in 1e-4; do\n" + run).value("learning_rate") == 1e-4


def test_a_config_that_the_script_writes_itself_is_read_at_its_lines_with_variables_filled_in(tmp_path: Path) -> None:
    text = (
        "LR=3e-4\ncat <<EOT > x.yaml\nbase_model: m\nadapter: lora\nlora_r: 8\n"
        "optimizer: adamw_torch\nlearning_rate: $LR\nnum_epochs: 2\ndatasets:\n  - path: d\nEOT\naxolotl train x.yaml\n"
    )
    job = the_job(tmp_path, "run.sh", text)
    assert (job.tool, job.line) == ("axolotl", 12)
    assert values(job, "optimiser", "learning_rate", "lora_r") == ("adamw", 3e-4, 8)
    assert (job["learning_rate"].at, job["learning_rate"].provenance) == ("run.sh:7", "explicit")
    quoted = text.replace("<<EOT", "<<'EOT'")
    assert not the_job(tmp_path, "run.sh", quoted)["learning_rate"].known


def test_a_python_script_that_the_shell_writes_is_followed(tmp_path: Path) -> None:
    job = the_job(
        tmp_path,
        "run.sh",
        f"cat > train.py <<'EOF'\n{TRAIN}EOF\npython train.py --learning_rate 3e-5 --optim lion_8bit\n",
    )
    assert (job.tool, *values(job, "optimiser", "learning_rate")) == ("transformers", "lion_8bit", 3e-5)


def test_whether_a_script_that_is_not_at_hand_adds_an_adapter_is_unknown(tmp_path: Path) -> None:
    flags = "--learning_rate 1e-4 --num_train_epochs 2 --output_dir o --per_device_train_batch_size 4"
    job = the_job(tmp_path, "run.sh", f"python finetune.py {flags}\n")
    assert job.value("optimiser") == "adamw" and not job["lora_r"].known and not job["lora_targets"].known
    assert the_job(tmp_path, "run.sh", f"python finetune.py {flags} --lora_r 8\n").value("lora_r") == 8
    assert the_job(tmp_path, "run.sh", f"python examples/run_clm.py {flags}\n")["lora_r"].provenance == "default"


def test_a_command_in_the_text_that_a_shell_is_given_is_read(tmp_path: Path) -> None:
    text = 'srun --container-image=x bash -c \\\n"pip install x && python3 -m openrlhf.cli.train_rm --adam.lr 9e-6"\n'
    job = the_job(tmp_path, "run.slurm", text)
    assert (job.tool, job.line) == ("openrlhf", 1)
    assert values(job, "optimiser", "learning_rate") == ("adamw", 9e-6)


def test_a_recipe_of_torchtune_is_found_by_its_name_and_passed_arguments_are_left_out(tmp_path: Path) -> None:
    recipe = "model: {_component_: m}\noptimizer: {_component_: torch.optim.AdamW, lr: 1e-5}\nepochs: 2\n"
    path = tmp_path / "recipes/configs/dev/one.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(recipe)
    text = 'srun --export=ALL,X=8 tune run --nnodes 2 full_finetune --config dev/one "$@"\n'
    jobs = {job.file: job for job in jobs_of(tmp_path, "run.sbatch", text)}
    assert values(jobs["run.sbatch"], "optimiser", "learning_rate", "epochs") == ("adamw", 1e-5, 2)


def test_defaults_are_not_taken_where_the_config_is_not_at_hand(tmp_path: Path) -> None:
    job = the_job(tmp_path, "run.slurm", "srun axolotl train train.yaml --learning_rate 2e-5\n")
    assert values(job, "optimiser", "learning_rate") == (None, 2e-5)
    assert job["optimiser"].reason == "train.yaml is not among the files read"


def test_a_script_is_found_below_the_folder_at_which_the_repository_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/train.py").write_text(TRAIN)
    text = 'SCRIPT="${HOME_OF:-/mnt/work}/examples/train.py"\n'
    text += 'CMD="accelerate launch --num_machines $N $SCRIPT --learning_rate 3e-4"\nsrun $CMD\n'
    jobs = {job.file: job for job in jobs_of(tmp_path, "run.sh", text)}
    assert values(jobs["run.sh"], "optimiser", "learning_rate") == ("adamw", 3e-4)


def test_a_config_and_the_command_that_changes_it_are_one_job(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "base_model: m\nadapter: lora\ndatasets: [{path: d, type: alpaca}]\n"
        "optimizer: adamw_torch\nlearning_rate: 1e-4\n"
    )
    (job,) = jobs_of(tmp_path, "run.sh", "axolotl train a.yaml --learning_rate 2e-5\n")
    assert (job.file, values(job, "optimiser", "learning_rate")) == ("run.sh", ("adamw", 2e-5))
