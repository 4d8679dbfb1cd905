"""The last part of `narrowly run` on real models: answers, verdicts and rates, where the study says who judges."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.cli.progress import StepProgress
from narrowly.cli.terminal import complain, say

if TYPE_CHECKING:
    from narrowly.models.endpoint.backend import EndpointBackend
    from narrowly.records.judged_study import JudgedSpec
    from narrowly.records.study_spec import StudySpec
    from narrowly.workbench.judging import JudgeToOpen

JudgeFor = Callable[[Path], "JudgeToOpen"]
"""Gives the judge of a folder of verdicts."""


def judge_of_study(spec: StudySpec, runs: Path, *, yes: bool) -> JudgeFor:
    """Find the judge that a study names before anything is trained, and ask for consent where text leaves the machine.

    Args:
        spec: of a study with `judged`.
        runs: folder of runs, in which a judge may be named too.
        yes: whether the user has agreed to a hosted judge.

    Raises:
        SpecError: runs that no rubric fits, an unknown bank, rubric or judge, no consent.
    """
    from narrowly.study.plan import expand
    from narrowly.workbench.judged_study import check_judged

    judged = spec.judged
    assert judged is not None, "called for studies with a judge"
    cells = expand(spec)
    check_judged(judged, cells)
    device = cells[0].spec.device
    return _at_endpoint(judged, yes) if judged.endpoint is not None else _local(judged, runs, device)


def _local(judged: JudgedSpec, runs: Path, device: str) -> JudgeFor:
    from narrowly.cli.organisms.judge_named import judge_here
    from narrowly.workbench.judged_study import opened_once

    named = judge_here(judged.judge or "", runs, base=None, first_token=False, shown="question", dtype=judged.dtype,
                       device=device)  # fmt: skip
    found = opened_once(named)
    return lambda out: found


def _at_endpoint(judged: JudgedSpec, yes: bool) -> JudgeFor:
    from narrowly.cli.organisms.endpoint_options import DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT, agree, opened
    from narrowly.models.endpoint.address import address_of
    from narrowly.workbench.judges_named import endpoint_judge

    address = address_of(judged.endpoint or "", judged.model, judged.key_env)
    agree(address, "all answers of the study with their questions", yes)

    @cache
    def tried() -> EndpointBackend:
        return opened(address, DEFAULT_TIMEOUT, concurrency=DEFAULT_CONCURRENCY)

    return lambda out: endpoint_judge(address, tried, out, shown="question", tokenizer=judged.tokenizer)


def judge_study(
    judged: JudgedSpec, study_dir: Path, runs: Path, judge_for: JudgeFor, *, as_json: bool
) -> tuple[int, dict[str, Any]]:
    """Ask and judge the finished cells of a study, and show their rates.

    Args:
        judged: of the study.
        study_dir: folder of the study, with its plan.
        runs: folder of all runs.
        judge_for: of `judge_of_study`.
        as_json: whether nothing is printed.

    Returns:
        The exit code, 1 where the judge failed on an arm more than on its base; and the rates as one JSON document.
    """
    from narrowly.analysis.track import track
    from narrowly.cli.organisms.track import as_record, show
    from narrowly.runs.directory import runs_folder
    from narrowly.study.layout import read_plan
    from narrowly.workbench.judged_study import ask_groups, groups_of, judge_groups, verdicts_folder

    groups = groups_of(read_plan(study_dir), runs_folder(runs), judged)
    if not groups:
        return 0, {}
    folder = verdicts_folder(study_dir, judged)
    with StepProgress("judged answers") as progress:
        ask_groups(groups, judged, lambda words, done, total: progress.on_step(done, total, words))
        unequal = judge_groups(
            groups, judged, folder, judge_for, lambda words, done, total: progress.on_step(done, total, words)
        )
    found = track(folder)
    if not as_json:
        say("")
        say("What the models write, by the judge (uncalibrated):", "bold")
        show(found)
        say(f"verdicts in {folder}; for instance narrowly compare BASE ARM --margin 0.03 on two of its folders")
    for words in unequal:
        complain(f"narrowly: {words}")
    return (1 if unequal else 0), {"folder": str(folder), **as_record(found)}
