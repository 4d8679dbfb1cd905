"""Commands in task files; a workflow of a build server with the same commands is none."""

from __future__ import annotations

from pathlib import Path

from audited import jobs_of, the_job, values

TASK = """\
resources:
  accelerators: H100:1
setup: |
  pip install verl
run: |
  python3 -m verl.trainer.main_ppo \\
    actor_rollout_ref.model.path=some/model \\
    actor_rollout_ref.actor.optim.lr=1e-6
"""


def test_the_command_of_a_task_is_a_job_at_its_line(tmp_path: Path) -> None:
    job = the_job(tmp_path, "sky.yaml", TASK)
    assert (job.tool, job.line, *values(job, "optimiser", "learning_rate")) == ("verl", 6, "adamw", 1e-6)


def test_a_workflow_is_none(tmp_path: Path) -> None:
    text = "on: push\njobs:\n  test:\n    steps:\n      - run: python3 -m verl.trainer.main_ppo actor.optim.lr=1\n"
    assert jobs_of(tmp_path, ".github/workflows/ci.yml", text) == []
