"""What the Slurm engine makes of what the scheduler says, by a scheduler that says it on demand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from narrowly.engines import remote, slurm, slurm_queue
from narrowly.engines.protocol import CANCELLED, WORKER_DIED, Outcome, Task
from narrowly.engines.slurm import SlurmExecutor
from narrowly.engines.slurm_job import job_of, result_file
from narrowly.engines.slurm_queue import JobState, said, states_of
from narrowly.records.engine_spec import SlurmEngine
from narrowly.records.errors import EngineError
from narrowly.records.files import write_json


class RefusedError(Exception):
    """Stands for submitit's FailedJobError."""


class Scheduler:
    """Says what it is told to, and keeps what was submitted and cancelled."""

    def __init__(self) -> None:
        self.states: dict[str, JobState] = {}
        self.submitted: list[str] = []
        self.cancelled: list[str] = []
        self.refusal: str | None = None
        self.silent: str | None = None

    def submitit(self) -> SimpleNamespace:
        scheduler = self

        class Executor:
            def __init__(self, folder: Path, max_num_timeout: int) -> None:
                assert max_num_timeout == 0

            def update_parameters(self, **parameters: Any) -> None:
                scheduler.parameters = parameters  # type: ignore[attr-defined]

            def map_array(self, function: Any, files: Any, *_: Any) -> list[SimpleNamespace]:
                if scheduler.refusal is not None:
                    raise RefusedError(scheduler.refusal)
                array, chosen = len(scheduler.submitted) + 1, list(files)
                names = [f"{array}_{n}" for n in range(len(chosen))] if len(chosen) > 1 else [str(array)]
                scheduler.submitted += chosen
                return [SimpleNamespace(job_id=name) for name in names]

        errors = SimpleNamespace(FailedJobError=RefusedError, FailedSubmissionError=RefusedError)
        return SimpleNamespace(SlurmExecutor=Executor, core=SimpleNamespace(utils=errors))

    def states_of(self, jobs: Any) -> dict[str, JobState]:
        if self.silent is not None:
            raise EngineError(self.silent)
        return {job: self.states[job] for job in jobs if job in self.states}


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    one = Scheduler()
    monkeypatch.setattr(slurm, "needed", lambda *_: one.submitit())
    monkeypatch.setattr(slurm, "check_cluster", lambda _: None)
    monkeypatch.setattr(slurm, "states_of", one.states_of)
    monkeypatch.setattr(slurm, "largest_array", lambda: 1000)
    monkeypatch.setattr(slurm, "nodes_out_of_use", lambda _: "two is drained (disk)")
    monkeypatch.setattr(slurm, "cancel", lambda jobs: one.cancelled.extend(jobs))
    monkeypatch.setattr(slurm, "GRACE_SECONDS", 0.0)
    return one


def engine(tmp_path: Path, **fields: Any) -> SlurmExecutor:
    return SlurmExecutor(SlurmEngine(poll_seconds=0.5, **fields), tmp_path / "study" / "engine")


def one_look(executor: SlurmExecutor) -> list[Outcome]:
    executor._next_look = 0.0
    return executor.poll(0.01)


def running(node: str = "one") -> JobState:
    return JobState("RUNNING", "None", node)


def submitted(executor: SlurmExecutor, scheduler: Scheduler, number: int = 1) -> list[str]:
    for key in range(number):
        executor.submit(Task(f"t{key}", "builtins:len", [1]))
    executor._flush()
    return list(executor._jobs)


def write_log(executor: SlurmExecutor, job: str) -> None:
    executor._log(job).parent.mkdir(parents=True, exist_ok=True)
    executor._log(job).write_text("began")


def test_a_result_counts_and_is_told_once(tmp_path: Path, scheduler: Scheduler) -> None:
    executor = engine(tmp_path)
    jobs = submitted(executor, scheduler, 2)
    assert jobs == ["1_0", "1_1"]
    scheduler.states = dict.fromkeys(jobs, running())
    assert one_look(executor) == []
    assert executor.in_flight() == ["t0", "t1"]
    assert executor.places()["t1"].where == "Slurm job 1_1 on one"
    write_json(result_file(Path(scheduler.submitted[0])), {"result": 7})
    assert one_look(executor) == [Outcome("t0", 7, None)]
    assert one_look(executor) == []


@pytest.mark.parametrize(
    ("state", "words", "kind"),
    [
        ("FAILED", "ended as FAILED and left no result", WORKER_DIED),
        ("OUT_OF_MEMORY", "ask for more with engine.memory_gb", WORKER_DIED),
        ("NODE_FAIL", "ended as NODE_FAIL", WORKER_DIED),
        ("CANCELLED", "was cancelled", CANCELLED),
        (None, "is forgotten by the scheduler", WORKER_DIED),
    ],
)
def test_a_job_that_ends_without_a_result_is_an_outcome_with_its_state(
    tmp_path: Path, scheduler: Scheduler, state: str | None, words: str, kind: str
) -> None:
    executor = engine(tmp_path)
    (job,) = submitted(executor, scheduler)
    write_log(executor, job)
    scheduler.states = {} if state is None else {job: JobState(state, "", "one")}
    found = one_look(executor) or one_look(executor)
    assert found[0].problem is not None
    assert words in found[0].problem.error
    assert (found[0].problem.kind, found[0].problem.fatal) == (kind, False)


def test_a_job_that_leaves_no_log_says_that_its_node_does_not_see_the_folder(
    tmp_path: Path, scheduler: Scheduler
) -> None:
    executor = engine(tmp_path)
    (job,) = submitted(executor, scheduler)
    scheduler.states = {job: JobState("FAILED", "", "two")}
    found = one_look(executor) or one_look(executor)
    assert found[0].problem is not None
    assert found[0].problem.fatal
    assert f"two does not see {tmp_path / 'study' / 'engine'}" in found[0].problem.error


def test_a_requeued_job_is_waited_for_and_one_that_was_stopped_is_submitted_again(
    tmp_path: Path, scheduler: Scheduler
) -> None:
    executor = engine(tmp_path, requeues=1)
    (job,) = submitted(executor, scheduler)
    write_json(result_file(Path(scheduler.submitted[0])), {"stopped": 15})
    scheduler.states = {job: JobState("PENDING", "BeginTime", "")}
    assert one_look(executor) == []
    assert list(executor._jobs) == [job], "Slurm itself brings it back"
    scheduler.states = {job: JobState("PREEMPTED", "", "one")}
    assert one_look(executor) == []
    assert "submitted again" in executor.notes()[0]
    executor._flush()
    (again,) = executor._jobs
    assert again != job
    write_json(result_file(Path(scheduler.submitted[1])), {"stopped": 15})
    scheduler.states = {again: JobState("TIMEOUT", "", "one")}
    (outcome,) = one_look(executor)
    assert outcome.problem is not None
    assert "was stopped 2 times" in outcome.problem.error


DRAINED = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"


@pytest.mark.parametrize("reason", [DRAINED, "JobHeldAdmin", "BadConstraints", "ReqNodeNotAvail, UnavailableNodes:two"])
def test_jobs_that_only_a_person_can_help_are_said_at_once_and_given_up(
    tmp_path: Path, scheduler: Scheduler, reason: str
) -> None:
    executor = engine(tmp_path, stuck_minutes=1e-9)
    jobs = submitted(executor, scheduler, 2)
    scheduler.states = {jobs[0]: running(), jobs[1]: JobState("PENDING", reason, "")}
    assert one_look(executor) == []
    assert executor.notes() == [f"1 Slurm task cannot start: {reason}; two is drained (disk)"]
    assert one_look(executor) == [], "another one runs"
    assert executor.notes() == [], "not at every look"
    scheduler.states = dict.fromkeys(jobs, JobState("PENDING", reason, ""))
    one_look(executor)
    with pytest.raises(EngineError, match="given up after 1e-09 minutes"):
        one_look(executor)


def test_waiting_for_resources_is_no_fault(tmp_path: Path, scheduler: Scheduler) -> None:
    executor = engine(tmp_path, stuck_minutes=1e-6)
    jobs = submitted(executor, scheduler)
    scheduler.states = dict.fromkeys(jobs, JobState("PENDING", "Priority", ""))
    for _ in range(3):
        assert one_look(executor) == []
    assert executor.notes() == []
    executor._said["waiting"] -= slurm.LONG_WAIT_SECONDS
    one_look(executor)
    assert executor.notes() == ["no Slurm task of this study runs; waiting: 1 (Priority)"]


def test_a_scheduler_that_does_not_answer_is_asked_again_and_at_last_given_up(
    tmp_path: Path, scheduler: Scheduler
) -> None:
    executor = engine(tmp_path)
    submitted(executor, scheduler)
    scheduler.silent = "Slurm: Unable to contact slurm controller (connect failure)"
    assert one_look(executor) == []
    assert executor.notes() == [f"{scheduler.silent}; asking again"]
    executor._silent_since = -1e6
    with pytest.raises(EngineError, match="Unable to contact"):
        one_look(executor)


def test_a_refusal_is_one_line_in_slurms_words(tmp_path: Path, scheduler: Scheduler) -> None:
    scheduler.refusal = (
        "Error: submission failed\nsbatch: error: invalid account or qos\n"
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    )
    executor = engine(tmp_path, account="nobody")
    executor.submit(Task("t", "builtins:len", []))
    with pytest.raises(EngineError) as caught:
        executor.poll(0.01)
    assert str(caught.value) == (
        "Slurm refused the jobs: invalid account or qos; Batch job submission failed: Invalid account or "
        "account/partition combination specified"
    )


def test_detached_jobs_are_left_and_taken_up_by_the_next_command(tmp_path: Path, scheduler: Scheduler) -> None:
    executor = engine(tmp_path)
    jobs = submitted(executor, scheduler, 3)
    told = executor.stop()
    assert "3 tasks, which go on without this command" in told
    assert "scancel 1" in told
    executor.cancel()
    assert scheduler.cancelled == []
    waits, ended = JobState("PENDING", "Resources", ""), JobState("COMPLETED", "", "")
    scheduler.states = dict(zip(jobs, (running(), waits, ended), strict=True))
    later = engine(tmp_path)
    assert [task.key for task in later.adopt()] == ["t0", "t1"]
    assert later.notes() == ["taken up again: 2 Slurm tasks of an earlier command"]
    write_json(result_file(Path(scheduler.submitted[1])), {"result": 3})
    assert one_look(later) == [Outcome("t1", 3, None)]
    scheduler.states = {}
    assert engine(tmp_path).adopt() == []
    assert list((tmp_path / "study" / "engine" / "arrays").iterdir()) == [], "forgotten once it has ended"


def test_a_command_that_cancels_ends_its_jobs_when_it_is_stopped_and_when_it_fails(
    tmp_path: Path, scheduler: Scheduler
) -> None:
    executor = engine(tmp_path, on_stop="cancel")
    jobs = submitted(executor, scheduler, 2)
    assert executor.stop() == "ended: 2 Slurm tasks"
    assert scheduler.cancelled == jobs
    failing = engine(tmp_path)
    (job,) = submitted(failing, scheduler)
    failing.cancel()
    failing.cancel()
    assert scheduler.cancelled == [*jobs, job]


def test_what_squeue_prints_is_read_and_other_jobs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "45_0|RUNNING|one|None\n45_1|PENDING||Nodes required | are DOWN\n46|COMPLETED||None\n"
    monkeypatch.setattr(slurm_queue, "ask", lambda *_: printed)
    assert states_of(["45_0", "45_1", "47"]) == {
        "45_0": JobState("RUNNING", "None", "one"),
        "45_1": JobState("PENDING", "Nodes required | are DOWN", ""),
    }
    assert said("sinfo: error: a\nsinfo: error: a\nslurm_load_partitions: Unable to contact slurm controller\n") == (
        "a; Unable to contact slurm controller"
    )


def test_a_partition_that_does_not_exist_is_named_with_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_queue, "ask", lambda *_: "gpu\ncpu\ngpu\n")
    slurm_queue.check_cluster("gpu,cpu")
    with pytest.raises(EngineError, match=r"no partition 'gpuu'; did you mean 'gpu'\? \(accepted: cpu, gpu\)"):
        slurm_queue.check_cluster("gpuu")


def test_the_task_of_an_array_that_has_the_arrays_own_number_is_still_one_task() -> None:
    last = {"SLURM_JOB_ID": "45", "SLURM_ARRAY_JOB_ID": "45", "SLURM_ARRAY_TASK_ID": "7"}
    assert job_of(last) == "45_7"
    assert job_of({"SLURM_JOB_ID": "46"}) == "46"


def test_a_task_in_a_cluster_answers_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exits = remote.run_task(Task("k", "sys:exit", 0), None, None)
    assert exits["problem"]["kind"] == "SystemExit"
    stranger = remote.Shared(str(tmp_path / "shared-x"), "x")
    told = remote.run_task(Task("k", "builtins:len", []), None, remote.share(tmp_path))
    assert told == {"result": 0}
    monkeypatch.setattr(remote, "LOOKS", 1)
    told = remote.run_task(Task("k", "builtins:len", []), None, stranger)
    assert told["problem"]["fatal"]
    assert str(tmp_path) in told["problem"]["error"]
