"""Tools started from Python: their entry functions called with arguments, and their command lines run as a process.

Sources: ms-swift 2.6.1, 4.6.0 (`sft_main`, `rlhf_main`, `pt_main` take an object of arguments or a list of words);
LLaMA-Factory 0.9.5 `train/tuner.py` `run_exp(args)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from narrowly.audit.detectors import llamafactory, swift
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.fields import file_and_line
from narrowly.audit.python.follow import followed
from narrowly.audit.python.machine import constant_text
from narrowly.audit.python.values import Items, Object, Sequence, Unknown, Value, known, plain, why_unknown
from narrowly.audit.record import Job
from narrowly.audit.shell.command_jobs import command_jobs
from narrowly.audit.shell.commands import Command, Word, commands_in
from narrowly.audit.trees import Document

TOOL = "transformers"
KINDS = ("python", "notebook")
TRIGGERS = (b"subprocess", b"_main(", b"run_exp(", b"os.system(")

_ENTRIES = re.compile(rb"\b(?:sft_main|rlhf_main|pt_main)\(\s*[^)\s]|\brun_exp\(\s*[^)\s]")
_RUNS = re.compile(rb"subprocess\b|os\.(?:system|popen)\(")
_TOOLS = (
    b"llamafactory-cli", b"axolotl", b"swift", b"torchrun", b"tune", b"trl", b"mlx_lm", b"autotrain", b"accelerate",
    b"openrlhf", b"verl.", b"deepspeed",
)  # fmt: skip
_TOLD = re.compile(rb"learning[_-]rate|--lr\b|\.ya?ml\b|\.json\b|\.toml\b|optim|dataset")
_COMMANDS = re.compile(
    rb"llamafactory-cli|axolotl.{1,8}train|axolotl\.cli|\bswift\b.{1,8}\b(?:sft|rlhf|pt|grpo|dpo)\b|torchrun|mlx_lm|autotrain|openrlhf"
    rb"|\btune\b.{1,8}\brun\b|\btrl\b.{1,8}\b(?:sft|dpo|grpo|kto|reward|rloo)\b|\bverl\.trainer|accelerate.{1,8}launch"
    rb"|accelerate\.commands\.launch|\bdeepspeed\b[^\n]{1,80}\.py"
)
"""Asked last, of the few files that are left: it costs more than all the tests before."""
_PROCESSES = frozenset(
    ("subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output",
     "subprocess.getoutput", "os.system", "os.popen")
)  # fmt: skip


def promises(file: SourceFile) -> bool:
    """Tell whether a script calls a tool's entry or runs a command line that names a tool."""
    if file.has(b"_main(", b"run_exp(") and _ENTRIES.search(file.data):
        return True
    return file.has(*_TOOLS) and all(pattern.search(file.data) for pattern in (_RUNS, _TOLD, _COMMANDS))


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of tools that a script or notebook starts.

    Raises:
        UnreadableError: the file is not Python.
    """
    if not promises(file):
        return []
    trace = followed(file, repository, promised=True)
    jobs: list[Job] = []
    for made in trace.objects if trace is not None else ():
        first = made.args[0] if made.args else made.get("args") or made.get("cmd")
        name = made.path.rsplit(".", 1)[-1]
        if first is None:
            continue
        if made.path in _PROCESSES:
            jobs += _run(made, first, file, repository)
        elif name in ("sft_main", "rlhf_main", "pt_main"):
            jobs += _called(swift.job_of, made, first, file, repository)
        elif name == "run_exp" and any(package in made.path.lower() for package in ("llama", "llmtuner")):
            jobs += _called(llamafactory.job_of, made, first, file, repository)
    return jobs


def _called(
    job_of: Callable[[Document, SourceFile, Repository], Job],
    made: Object,
    first: Value,
    file: SourceFile,
    repository: Repository,
) -> list[Job]:
    """Return the job of an entry function that is given settings: a mapping, an object of arguments, or words."""
    if isinstance(first, Sequence):
        words = [Word("swift", made.line), Word("sft", made.line), *_words(first, made)]
        return _at_call(command_jobs(Command(words, made.line), file, repository), made, file, "script")
    settings = first.items if isinstance(first, Items) else None
    if isinstance(first, Object):
        settings = {**first.kwargs, **first.attrs}
    if not settings:
        return []
    content: dict[str, object] = {}
    lines: dict[tuple[str | int, ...], int] = {(): made.line}
    for key, value in settings.items():
        content[str(key)] = plain(value) if known(value) else f"${{{why_unknown(value)[:120]}}}"
        where, line = file_and_line(value.at)
        lines[(str(key),)] = line if where == file.shown else made.line
    document = Document(content, file.shown, lines, {}, (), content)
    return _at_call([job_of(document, file, repository)], made, file, "script")


def _run(made: Object, first: Value, file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a command that runs as a process: a list of words, or text that a shell reads."""
    if isinstance(first, Object) and first.path == "shlex.split" and first.args:
        first = first.args[0]
    text = constant_text(first)
    if text is None and isinstance(first, Unknown) and isinstance(first.base, str):
        text = first.base
    if text is not None:
        commands = commands_in(text)
        for command in commands:
            command.line = made.line
            for word in command.words:
                word.line = made.line
    elif isinstance(first, Sequence) and first.elements:
        commands = [Command(_words(first, made), made.line)]
    else:
        return []
    jobs = [job for command in commands for job in command_jobs(command, file, repository)]
    return _at_call(jobs, made, file, "command")


def _words(listed: Sequence, made: Object) -> list[Word]:
    """Return the words of a list; `sys.executable` is Python, and what is not known stays open."""
    words = []
    for element in listed.elements:
        line = file_and_line(element.at)[1] if element.at else made.line
        if known(element):
            words.append(Word(str(plain(element)), line))
        elif getattr(element, "path", "") == "sys.executable":
            words.append(Word("python", line))
        else:
            words.append(Word(f"${{{why_unknown(element)[:80]}}}", line, "a value of the script"))
    return words


def _at_call(jobs: list[Job], made: Object, file: SourceFile, kind: str) -> list[Job]:
    for job in jobs:
        job.file, job.line = file.shown, made.line
        job.kind = "hosted" if job.kind == "hosted" else kind
    return jobs
