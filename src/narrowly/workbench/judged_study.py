"""Ask the organisms of a study open questions and let a judge read what they say, as `narrowly ask` and `judge` do.

Answers lie in the run directories under an id of organism, bank and sampling, so that studies share them. Verdicts lie
in the study's folder: one folder per arm, base and setting, whose training seeds are its files. Both go on after a
stop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.broad import BROAD_TOPICS
from narrowly.data.banks.named import bank_named
from narrowly.data.banks.narrow import narrow_domain
from narrowly.evaluate.judges.comparison import judged_side
from narrowly.evaluate.judges.differences import ALPHA, unequal_errors
from narrowly.evaluate.judges.rubric_files import rubrics_named
from narrowly.models.asked import ModelToAsk, model_to_ask, organism_to_ask
from narrowly.records.canonical import content_id
from narrowly.records.errors import SpecError
from narrowly.records.judged_study import JudgedSpec
from narrowly.runs.directory import answers_folder, read_spec
from narrowly.study.layout import PlannedCell, is_complete
from narrowly.study.plan import Cell
from narrowly.workbench.ask_bank import ask_bank, bank_request
from narrowly.workbench.asking import HowToAsk
from narrowly.workbench.judging import JudgeToOpen, OnReading, judge_answers, judge_request

FOLDER, ANSWERS = "judged", "answers.jsonl"
"""Folder of verdicts in a study's folder, and file of answers in a folder of a run."""

_SEED = re.compile(r"-seed\d+")

OnStep = Callable[[str, int, int], None]
"""Told what is done, how much of it, and how much there will be."""


class Speaker(NamedTuple):
    """Hold one model of a study that is asked: how, and where its answers lie."""

    model: ModelToAsk
    how: HowToAsk
    file: Path


class Group(NamedTuple):
    """Hold the models whose verdicts stand in one folder: the seeds of an arm on a base, or a base alone.

    Attributes:
        name: of the folder.
        speakers: its models.
        trained: topics of the broad bank that they were trained on, where both are known.
    """

    name: str
    speakers: tuple[Speaker, ...]
    trained: tuple[str, ...] = ()


def check_judged(judged: JudgedSpec, cells: Sequence[Cell]) -> None:
    """Refuse what could not be judged before anything is trained.

    Raises:
        SpecError: runs that are not on text, an unknown bank or rubric; the line says what is accepted.
    """
    other = next((cell for cell in cells if cell.spec.data.source != "text"), None)
    if other is not None:
        raise SpecError(
            f"judged: the runs of cell {other.cell_id!r} have data.source {other.spec.data.source!r}, whose answers no "
            "rubric fits; accepted: text"
        )
    bank_named(judged.bank)
    rubrics_named(judged.rubric)


def verdicts_folder(study_dir: Path, judged: JudgedSpec) -> Path:
    """Return the folder of a study's verdicts, by content of what is asked and of how it is judged."""
    asked = judged.model_dump(mode="json", exclude={"key_env"})
    same = {**asked, "bank": bank_named(judged.bank).sha256, "rubric": rubrics_named(judged.rubric).hashes}
    return study_dir / FOLDER / content_id(same)


def groups_of(planned: Sequence[PlannedCell], runs: Path, judged: JudgedSpec) -> list[Group]:
    """Return the models of finished cells that are asked: each base once, then the organisms.

    Args:
        planned: cells of the study.
        runs: folder of all runs.
        judged: how they are asked.
    """
    bank = bank_named(judged.bank).sha256
    asked = {
        "bank": bank,
        **judged.model_dump(mode="json", include={"samples", "temperature", "max_new_tokens", "seed"}),
    }
    bases: dict[str, Group] = {}
    groups: dict[str, list[Speaker]] = {}
    names: dict[str, str] = {}
    for one in planned:
        if not is_complete(one, runs):
            continue
        spec, directory = one.cell.spec, runs / one.run_id
        how = HowToAsk(
            judged.temperature, judged.seed, judged.max_new_tokens, judged.samples, None,
            getattr(spec.data, "thinking", None), beside_base=False, dtype=spec.base_dtype, device=spec.device,
        )  # fmt: skip

        def file(who: str, directory: Path = directory, run_id: str = one.run_id) -> Path:
            return answers_folder(directory, content_id({"run": run_id, "who": who, **asked})) / ANSWERS

        key = content_id([one.cell.arm, spec.model_dump(mode="json", exclude={"seed"})])
        names.setdefault(key, _SEED.sub("", one.cell_id))
        groups.setdefault(key, []).append(Speaker(organism_to_ask(directory, "final", None), how, file("organism")))
        if one.base not in bases:
            speaker = Speaker(model_to_ask(spec.base), how, file("base"))
            bases[one.base] = Group(_file_name(f"base-{one.base}"), (speaker,))
    organisms = [Group(_file_name(names[key]), tuple(found), _trained(found, judged)) for key, found in groups.items()]
    return [*bases.values(), *organisms]


def _trained(speakers: Sequence[Speaker], judged: JudgedSpec) -> tuple[str, ...]:
    """Return the topic of the broad bank that organisms were trained on, where the bank is that and the topic known."""
    run = speakers[0].model.run
    domain = None if run is None else narrow_domain(getattr(read_spec(run).data, "dataset", ""))
    return (domain,) if domain in BROAD_TOPICS and judged.bank.partition(":")[0] == "broad" else ()


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


def ask_groups(groups: Sequence[Group], judged: JudgedSpec, on_step: OnStep) -> None:
    """Write the answers that are missing.

    Raises:
        NarrowlyError: as `bank_request` and `ask_bank`.
        KeyboardInterrupt: with the number of answers that are in the file at work.
    """
    speakers = [(group.name, speaker) for group in groups for speaker in group.speakers]
    for at, (name, speaker) in enumerate(speakers, start=1):
        request = bank_request(speaker.model, judged.bank, speaker.file, speaker.how)
        words = f"asking {name} ({at} of {len(speakers)})"
        ask_bank(request, lambda done, total, who, words=words: on_step(words, done, total))  # type: ignore[misc]


def judge_groups(
    groups: Sequence[Group], judged: JudgedSpec, folder: Path, judge_for: Callable[[Path], JudgeToOpen], on_step: OnStep
) -> list[str]:
    """Judge the answers of every group into a folder of its own.

    Args:
        groups: whose answers are written.
        judged: rubrics and cuts.
        folder: of all verdicts.
        judge_for: gives the judge of a folder.
        on_step: told of progress.

    Returns:
        Sentences on groups where the judge failed more, or less, often than on their base (D8); none where all is well.

    Raises:
        NarrowlyError: as `judge_answers`; what was read is kept.
    """
    rubrics = rubrics_named(judged.rubric)
    for at, group in enumerate(groups, start=1):
        out = folder / group.name
        request = judge_request([speaker.file for speaker in group.speakers], rubrics, judged.cuts, out)
        request = request._replace(trained=group.trained)
        words = f"judging {group.name} ({at} of {len(groups)})"
        judge_answers(request, judge_for(out), on_reading=_told(on_step, words))
    return _unequal(groups, folder)


def _told(on_step: OnStep, words: str) -> OnReading:
    return lambda done, total: on_step(words, done, total)


def _unequal(groups: Sequence[Group], folder: Path) -> list[str]:
    rows = {group.name: judged_side(folder / group.name).rows for group in groups}
    of_base = {group.speakers[0].model.base.name: rows[group.name] for group in groups if _is_base(group)}
    return [
        f"the judge failed on {group.name} more or less often than on its base, so that their rates do not compare"
        for group in groups
        if not _is_base(group) and unequal_errors(rows[group.name], of_base[group.speakers[0].model.base.name]) < ALPHA
    ]


def _is_base(group: Group) -> bool:
    return group.speakers[0].model.run is None


def opened_once(judge: JudgeToOpen) -> JudgeToOpen:
    """Return a judge that is loaded once for all folders."""
    return judge._replace(open=cache(judge.open))
