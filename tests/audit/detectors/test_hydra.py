"""Hydra: scripts with `@hydra.main` and their configs, written for these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from audited import values
from narrowly.audit.record import Job
from narrowly.audit.scan import scan

LOOP = "    for batch in data:\n        loss(model, batch).backward()\n        optimizer.step()\n"
SCRIPT = (
    "import hydra, torch\n\n@hydra.main(version_base=None, config_path='conf', config_name='config')\n"
    "def main(cfg):\n    optimizer = hydra.utils.instantiate(cfg.optimizer, params=model.parameters())\n"
    + LOOP
    + "\nif __name__ == '__main__':\n    main()\n"
)
CONFIG = "defaults:\n  - optimizer: adamw\n  - _self_\nbase_lr: 2e-5\nepochs: 3\n"
ADAMW = "_target_: torch.optim.AdamW\nlr: ${base_lr}\nweight_decay: 0.05\n"
SGD = "_target_: torch.optim.SGD\nlr: ${oc.env:LR,0.1}\n"


def found(root: Path, **files: str) -> list[Job]:
    for name, text in files.items():
        path = root / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return scan([root]).jobs


def test_a_script_takes_optimiser_and_rate_from_the_config_that_hydra_composes(tmp_path: Path) -> None:
    (job,) = found(tmp_path, train__py=SCRIPT, conf___config__yaml=CONFIG, conf___optimizer___adamw__yaml=ADAMW)
    assert (job.file, job.tool) == ("train.py", "torch")
    assert values(job, "optimiser", "learning_rate", "weight_decay") == ("adamw", 2e-5, 0.05)
    assert (job["learning_rate"].at, job["learning_rate"].provenance) == ("conf/config.yaml:4", "inherited")
    assert job.cli_overridable


def test_what_the_config_itself_says_wins_over_its_group_unless_self_comes_first(tmp_path: Path) -> None:
    text = "defaults:\n  - optimizer: adamw\noptimizer:\n  lr: 7e-5\nbase_lr: 2e-5\n"
    files = {"train__py": SCRIPT, "conf___optimizer___adamw__yaml": ADAMW}
    (job,) = found(tmp_path, **files, conf___config__yaml=text)
    assert job.value("learning_rate") == 7e-5
    (job,) = found(tmp_path, conf___config__yaml=text.replace("defaults:\n", "defaults:\n  - _self_\n"))
    assert job.value("learning_rate") == 2e-5


def test_an_experiment_at_the_top_overrides_a_group(tmp_path: Path) -> None:
    experiment = "# @package _global_\ndefaults:\n  - override /optimizer: sgd\noptimizer:\n  lr: 0.5\n"
    text = "defaults:\n  - optimizer: adamw\n  - experiment: one\n"
    jobs = found(
        tmp_path, train__py=SCRIPT, conf___config__yaml=text, conf___optimizer___adamw__yaml=ADAMW,
        conf___optimizer___sgd__yaml=SGD, conf___experiment___one__yaml=experiment,
    )  # fmt: skip
    job = next(job for job in jobs if job.file == "train.py")
    assert values(job, "optimiser", "learning_rate") == ("sgd", 0.5)


def test_a_shell_script_chooses_another_option_and_another_rate(tmp_path: Path) -> None:
    jobs = found(
        tmp_path, train__py=SCRIPT, conf___config__yaml=CONFIG, conf___optimizer___adamw__yaml=ADAMW,
        conf___optimizer___sgd__yaml=SGD, run__sh="python train.py optimizer=sgd\npython train.py base_lr=1e-4\n",
    )  # fmt: skip
    chosen = {job.line: values(job, "optimiser", "learning_rate") for job in jobs if job.file == "run.sh"}
    assert chosen == {1: ("sgd", 0.1), 2: ("adamw", 1e-4)}
    assert [job.file for job in jobs if job.tool == "hydra"] == []


@pytest.mark.parametrize("script", ["", "print(1)\n"])
def test_without_a_script_the_config_has_the_job_and_the_selected_file_of_the_group_none(
    tmp_path: Path, script: str
) -> None:
    jobs = found(
        tmp_path, train__py=script, conf___config__yaml=CONFIG.replace("${base_lr}", "1e-3"),
        conf___optimizer___adamw__yaml=ADAMW.replace("${base_lr}", "1e-3"), conf___optimizer___sgd__yaml=SGD,
    )  # fmt: skip
    assert sorted((job.file, job.value("optimiser")) for job in jobs) == [
        ("conf/config.yaml", "adamw"), ("conf/optimizer/sgd.yaml", "sgd"),
    ]  # fmt: skip


def test_arguments_of_a_trainer_come_from_the_composed_config_and_a_missing_group_is_unknown(tmp_path: Path) -> None:
    text = (
        "import hydra\nfrom transformers import Trainer, TrainingArguments\n\n"
        "@hydra.main('conf', 'config')\ndef main(cfg):\n"
        "    args = TrainingArguments('o', learning_rate=cfg.optim.lr, optim=cfg.optim.name)\n"
        "    Trainer(model, args).train()\n\nmain()\n"
    )
    (job,) = found(tmp_path, t__py=text, conf___config__yaml="defaults:\n  - optim: a\n",
                   conf___optim___a__yaml="name: adafactor\nlr: 1e-3\n")  # fmt: skip
    assert values(job, "optimiser", "learning_rate") == ("adafactor", 1e-3)
    (tmp_path / "conf/optim/a.yaml").unlink()
    job = next(job for job in found(tmp_path) if job.file == "t.py")
    assert not job["optimiser"].known and not job["learning_rate"].known


@pytest.mark.parametrize(
    "text",
    [
        "a: {" + ", ".join(f"b{n}: '${{a}}'" for n in range(30)) + "}\n",
        "a0: [1, 1]\n" + "".join(f"a{n}: ['${{a{n - 1}}}', '${{a{n - 1}}}']\n" for n in range(1, 40)),
        "defaults:\n" + "  - config\n" * 60,
        "defaults: [1, null, [x], {a: 1, b: 2}, {optimizer: null}, {3: x}, '${y}']\noptimizer: 3\n",
        "optimizer: '${oc.env:A," + " " * 200_000 + "'\n",
    ],
)
def test_configs_that_name_themselves_end(tmp_path: Path, text: str) -> None:
    jobs = found(tmp_path, train__py=SCRIPT, conf___config__yaml=text)
    assert all(not job["optimiser"].known for job in jobs if job.file == "train.py")


def test_without_a_script_too_the_config_itself_wins_over_its_group(tmp_path: Path) -> None:
    text = "defaults:\n  - optimizer: adamw\noptimizer:\n  lr: 7e-5\n"
    group = ADAMW.replace("${base_lr}", "1e-3")
    (job,) = found(tmp_path, conf___config__yaml=text, conf___optimizer___adamw__yaml=group)
    assert values(job, "optimiser", "learning_rate", "weight_decay") == ("adamw", 7e-5, 0.05)
    (job,) = found(tmp_path, conf___config__yaml=text.replace("defaults:\n", "defaults:\n  - _self_\n"))
    assert job.value("learning_rate") == 1e-3


def test_hydra_s_own_flags_choose_the_config_and_a_tilde_takes_a_key_out(tmp_path: Path) -> None:
    jobs = found(
        tmp_path, train__py=SCRIPT, conf___config__yaml=CONFIG, conf___optimizer___adamw__yaml=ADAMW,
        conf___other__yaml="optimizer: {_target_: torch.optim.SGD, lr: 0.3}\n",
        mine___other2__yaml="optimizer: {_target_: torch.optim.Adam, lr: 0.4}\n",
        run__sh="python train.py --config-name other\npython train.py --config-dir mine --config-name=other2\n"
        "python train.py '~optimizer.weight_decay'\npython train.py ~optimizer +optimizer._target_=torch.optim.RAdam\n",
    )  # fmt: skip
    read = {job.line: values(job, "optimiser", "learning_rate") for job in jobs if job.file == "run.sh"}
    assert read == {1: ("sgd", 0.3), 2: ("adam", 0.4), 3: ("adamw", 2e-5), 4: ("radam", 1e-3)}
    (third,) = [job for job in jobs if job.file == "run.sh" and job.line == 3]
    assert third["weight_decay"].provenance == "default"


def test_compose_by_hand_takes_its_folder_from_initialize_and_its_overrides(tmp_path: Path) -> None:
    text = (
        "import hydra, torch\nfrom hydra import compose, initialize\n"
        "with initialize(version_base=None, config_path='conf'):\n"
        "    cfg = compose(config_name='config', overrides=['optimizer=sgd', 'epochs=1'])\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=cfg.optimizer.lr)\n"
        "for batch in data:\n    loss(model, batch).backward()\n"
    )
    jobs = found(
        tmp_path, train__py=text, conf___config__yaml=CONFIG, conf___optimizer___adamw__yaml=ADAMW,
        conf___optimizer___sgd__yaml=SGD,
    )  # fmt: skip
    job = next(job for job in jobs if job.file == "train.py")
    assert values(job, "optimiser", "learning_rate") == ("sgd", 0.1)


def test_rows_of_results_are_no_configs(tmp_path: Path) -> None:
    row = '{"optimiser": "adam", "lr": 0.001, "steps": 20, "heldout_loss": 3.1, "questions": 40}'
    files = {
        "a__json": f'{{"run": {{"steps": 20}}, "rows": [{row}, {row}]}}',
        "b__json": f'{{"adam": {row[:-1]}, "final_loss": null}}}}',
    }
    assert found(tmp_path, **files) == []
    (job,) = found(
        tmp_path, c__yaml="runs:\n- {optimizer: adam, lr: 0.001, epochs: 2, loss: mse, max_grad_norm: 1.0}\n"
    )
    assert job.value("optimiser") == "adam"
    weights = "optimizer: adam\nlr: 0.001\nepochs: 2\nrouter_z_loss: 0.001\naux_loss: 0.01\n"
    (job,) = found(tmp_path / "weights", c__yaml=weights)
    assert job.value("learning_rate") == 0.001
