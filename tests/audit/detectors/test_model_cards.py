"""Cards in README.md; the texts are ours, in the layout that Trainers write."""

from __future__ import annotations

from pathlib import Path

import pytest

from audited import jobs_of, the_job, values

CARD = """\
---
base_model: some/base
datasets: [some/data]
---
# Ours

### Training hyperparameters

The following hyperparameters were used during training:
- learning_rate: 5e-05
- train_batch_size: 8
- optimizer: {optimiser}
- lr_scheduler_type: cosine
- num_epochs: 3

### Framework versions
"""
NEW = "Use adamw_bnb_8bit with betas=(0.9,0.95) and epsilon=1e-08 and optimizer_args=none"


def test_a_new_card_names_its_optimiser(tmp_path: Path) -> None:
    job = the_job(tmp_path, "m/README.md", CARD.format(optimiser=NEW))
    assert (job.kind, *values(job, "optimiser", "learning_rate", "beta2", "epochs", "base_model")) == (
        "saved",
        "adamw_8bit",
        5e-5,
        0.95,
        3,
        "some/base",
    )
    assert job["learning_rate"].at == "m/README.md:10"


def test_an_old_card_says_adam_whatever_ran(tmp_path: Path) -> None:
    job = the_job(tmp_path, "README.md", CARD.format(optimiser="Adam with betas=(0.9,0.999) and epsilon=1e-08"))
    assert job["optimiser"].provenance == "unknown"
    assert job.value("learning_rate") == 5e-5


def test_the_axolotl_config_of_a_card_counts(tmp_path: Path) -> None:
    config = "base_model: some/base\nadapter: lora\nlora_r: 8\noptimizer: lion_8bit\nlearning_rate: 1e-5\nnum_epochs: 1"
    text = f"# Ours\n\naxolotl version: `0.21.0`\n```yaml\n{config}\n```\n" + CARD.format(optimiser=NEW)
    job = the_job(tmp_path, "README.md", text)
    assert (job.tool, *values(job, "optimiser", "learning_rate", "lora_r")) == ("axolotl", "lion_8bit", 1e-5, 8)
    assert job["learning_rate"].at == "README.md:9"


@pytest.mark.parametrize("text", ["# A tool\n\n- learning_rate: 1e-4\n- optimizer: adam\n", ""])
def test_other_pages_are_none(tmp_path: Path, text: str) -> None:
    assert jobs_of(tmp_path, "README.md", text) == []
