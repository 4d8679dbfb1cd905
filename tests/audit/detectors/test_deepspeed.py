"""DeepSpeed files alone; joined to a host they are tested beside that host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audited import jobs_of, the_job, values


def settings(kind: str | None, **parameters: object) -> str:
    said: dict[str, object] = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto", "bf16": {}}
    if kind:
        said["optimizer"] = {"type": kind, "params": parameters}
    return json.dumps(said, indent=2)


@pytest.mark.parametrize(
    ("kind", "parameters", "found"),
    [
        ("Adam", {}, "adamw"),
        ("Adam", {"adam_w_mode": True}, "adamw"),
        ("Adam", {"adam_w_mode": False}, "adam"),
        ("AdamW", {"adam_w_mode": False}, "adamw"),
        ("Lion", {}, "lion"),
        ("Muon", {}, "muon"),
    ],
)
def test_adam_is_adamw_unless_its_mode_is_off(
    tmp_path: Path, kind: str, parameters: dict[str, object], found: str
) -> None:
    assert the_job(tmp_path, "ds.json", settings(kind, **parameters)).value("optimiser") == found


def test_auto_is_unknown_without_a_host(tmp_path: Path) -> None:
    job = the_job(tmp_path, "ds.json", settings("AdamW", lr="auto", weight_decay=0.1, betas=[0.9, 0.95]))
    assert job["learning_rate"].provenance == "unknown"
    assert "auto" in job["learning_rate"].reason
    assert values(job, "weight_decay", "beta1", "beta2") == (0.1, 0.9, 0.95)


def test_a_file_without_an_optimiser_declares_no_job(tmp_path: Path) -> None:
    assert jobs_of(tmp_path, "ds.json", settings(None)) == []


@pytest.mark.parametrize(("pin", "rate", "shared"), [("0.18.2", 1e-3, True), ("0.18.9", 0.02, False)])
def test_muons_own_rate_counts_from_0_18_9_on(tmp_path: Path, pin: str, rate: float, shared: bool) -> None:
    text = settings("Muon", lr=1e-3, muon_lr=0.02)
    job = the_job(tmp_path, "ds.json", text, requirements__txt=f"deepspeed=={pin}\n")
    assert job.value("learning_rate") == rate
    assert ("muon_aux_lr" in job.marks) == shared


def test_an_optimiser_block_makes_a_file_deepspeeds(tmp_path: Path) -> None:
    text = '{"train_batch_size": "auto", "optimizer": {"type": "Adam", "params": {"lr": 3e-4}}}'
    job = the_job(tmp_path, "ds.json", text)
    assert (job.tool, *values(job, "optimiser", "learning_rate")) == ("deepspeed", "adamw", 3e-4)


def test_a_file_that_a_host_refers_to_has_no_job_of_its_own(tmp_path: Path) -> None:
    host = (
        "model_name_or_path: m\nnum_train_epochs: 1\nper_device_train_batch_size: 1\nlearning_rate: 1e-5\n"
        "warmup_ratio: 0.1\ndeepspeed: ds.json\n"
    )
    assert jobs_of(tmp_path, "ds.json", settings("Adam", lr="auto"), **{"sft___c__yaml": host}) == []
    assert the_job(tmp_path, "other.json", settings("Adam", lr="auto")).tool == "deepspeed"


def with_host(**block: object) -> dict[str, str]:
    return {
        "ds__json": settings("Lion", **block),
        "sft___c__yaml": "model_name_or_path: m\nnum_train_epochs: 1\nper_device_train_batch_size: 1\n"
        "learning_rate: 1e-5\nwarmup_ratio: 0.1\ndeepspeed: ds.json\n",
    }


def test_what_the_block_leaves_out_has_deepspeeds_own_default_and_not_the_hosts(tmp_path: Path) -> None:
    files = with_host(lr="auto")
    host = files.pop("sft___c__yaml") + "adam_beta2: 0.95\n"
    job = the_job(tmp_path, "c.yaml", host, **files)
    assert values(job, "optimiser", "learning_rate", "beta2", "weight_decay") == ("lion", 1e-5, 0.999, 0.0)
    assert "deepspeed" in job["beta2"].reason
    assert "rejected" not in job.marks


def test_a_trainer_refuses_a_block_whose_values_differ_from_its_arguments(tmp_path: Path) -> None:
    files = with_host(lr=3e-5)
    job = the_job(tmp_path, "c.yaml", files.pop("sft___c__yaml"), **files)
    assert "learning_rate 3e-05" in str(job.marks["rejected"].value)
    same = with_host(lr=1e-5, weight_decay=0.0)
    assert "rejected" not in the_job(tmp_path / "same", "c.yaml", same.pop("sft___c__yaml"), **same).marks
