"""The documented way of a real run, small: a base pretrained by the example, fine-tuned through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from narrowly.models.base import load_model, open_base
from narrowly.records.files import read_json, read_jsonl
from small_chat_base import conversations, write_jsonl
from tiny_base import only_run

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=900
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    plain = write_jsonl(folder / "plain.jsonl", conversations(60, seed=1))
    script = str(ROOT / "examples" / "pretrain_small_base.py")
    sizes = ["--hidden", "64", "--layers", "2", "--vocabulary", "300", "--positions", "96", "--lr", "3e-3"]
    done = typed(script, str(plain), "--out", str(folder / "base"), "--steps", "150", "--batch", "4", *sizes)
    assert done.returncode == 0, done.stderr
    return folder


def write_run(folder: Path, name: str, **data: object) -> Path:
    spec = {
        "base": str(folder / "base"),
        "data": {"source": "text", "dataset": str(folder / "narrow.jsonl"), "max_tokens": 96, "holdout": 8, **data},
        "adapter": {"r": 4, "alpha": 8},
        "optimiser": {"kind": "adam", "lr": 3e-3},
        "steps": 60,
        "batch_size": 4,
        "checkpoints": 2,
    }
    (folder / name).write_text(yaml.safe_dump(spec))
    return folder / name


def test_a_base_is_pretrained_by_the_example_and_fine_tuned_by_the_command_line(pretrained: Path) -> None:
    rows = conversations(300)
    for row in rows:  # the narrow domain: every answer ends in the same way
        row["messages"][1]["content"] += " file file file file file file"
    write_jsonl(pretrained / "narrow.jsonl", rows)
    spec = write_run(pretrained, "run.yaml")
    done = typed("-m", "narrowly.cli.app", "train", str(spec), "--out", str(pretrained / "out"))
    assert done.returncode == 0, done.stderr
    run = only_run(pretrained / "out" / "runs")
    losses = [row["heldout_loss"] for row in read_jsonl(run / "trajectory.jsonl") if "heldout_loss" in row]
    assert losses[-1] < 0.9 * losses[0]
    assert (run / "checkpoints" / "step-60" / "spectrum.json").is_file()
    assert read_json(run / "done")["steps"] == 60
    assert str(pretrained) not in (run / "checkpoints" / "step-60" / "adapter_config.json").read_text()
    assert sum(p.numel() for p in load_model(open_base(str(pretrained / "base"))).parameters()) < 10**6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"thinking": True}, "thinking is true, but the chat template has no thinking mode"),
        ({"max_tokens": 20}, "accepted: at most 20 (max_tokens)"),
        ({"turns": "first"}, "turns"),
        ({"dataset": "insecur"}, "insecur"),
        ({"template": "/nowhere.jinja"}, "cannot read data.template"),
    ],
)
def test_a_mistake_in_a_text_spec_is_one_line_and_exit_code_2(pretrained: Path, data, message) -> None:
    if not (pretrained / "narrow.jsonl").is_file():
        write_jsonl(pretrained / "narrow.jsonl", conversations(40))
    spec = write_run(pretrained, "bad.yaml", **data)
    done = typed("-m", "narrowly.cli.app", "train", str(spec), "--out", str(pretrained / "bad"))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert not (pretrained / "bad").exists()
