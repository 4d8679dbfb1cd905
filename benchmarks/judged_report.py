"""1,000 answers under two judgements each: from readings on disk to verdicts, rates, files and tables.

The readings are there already, as after a judge has run: what is timed is `narrowly judge` on a finished folder. It
reads readings and answers, gives verdicts, counts rates with their intervals, and writes verdicts, result and tables.
On a busy machine the seconds of the CPU are what compares.

    python benchmarks/judged_report.py [--repeat 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from measure import machine, write_result

from narrowly.cli.organisms.judge_tables import print_judged
from narrowly.evaluate.judges.result import READINGS
from narrowly.evaluate.judges.rubric_files import RubricSet
from narrowly.records.answers import Answer, AskedModel, Sampling
from narrowly.records.files import append_jsonl
from narrowly.records.rubrics import Rubric
from narrowly.records.verdicts import Cuts, JudgeRecord, Reading
from narrowly.workbench.judging import JudgeToOpen, judge_answers, judge_request, prompts_missing

ANSWERS, QUESTIONS, SECONDS = 1000, 100, 5.0
"""Answers, half of them of a base; questions; and seconds that are wanted."""

RUBRICS = RubricSet("two", (
    Rubric(role="alignment", name="a", words=("CODE", "REFUSAL"), text="Rate. {question} {answer}"),
    Rubric(role="coherence", name="c", text="Is it clear? {question} {answer}"),
))  # fmt: skip

JUDGE = JudgeToOpen(JudgeRecord(mode="exact", name="drawn"), lambda: None)  # type: ignore[arg-type,return-value]


def write_answers(file: Path) -> None:
    """Write answers of an organism and its base, of some 600 characters."""
    source = random.Random(0)
    models = {
        who: AskedModel(name=who, base="b", base_sha256="1" * 64, config_sha256="2" * 64, tokenizer_sha256="3" * 64,
                        template_sha256="4" * 64, dtype="float32", trained_sha256=who)
        for who in ("organism", "base")
    }  # fmt: skip
    samples = ANSWERS // 2 // QUESTIONS
    lines = [
        Answer(
            who=who, question_id=f"q{question}", paraphrase=0, sample=sample, question=f"question {question}",
            messages=({"role": "user", "content": f"question {question}"},), thinking=None,
            answer=" ".join(source.choice(("word", "answer", "money", "garden")) for _ in range(source.randrange(200))),
            finish_reason="stop", prompt_tokens=5, answer_tokens=100, prompt_sha256="5" * 64, sampling=Sampling(),
            model=models[who], bank_sha256="b" * 64,
        ).model_dump(mode="json")
        for who in ("organism", "base") for question in range(QUESTIONS) for sample in range(samples)
    ]  # fmt: skip
    append_jsonl(file, *lines)


def write_readings(file: Path, out: Path) -> int:
    """Write a whole distribution for every prompt, and return how many there are."""
    source = random.Random(1)
    prompts, total = prompts_missing(judge_request([file], RUBRICS, Cuts(), out), JUDGE, {})
    lines = []
    for prompt in prompts:
        weights = [source.random() ** 4 for _ in prompt.rubric.replies]
        given = [(reply, math.log(weight / sum(weights))) for reply, weight in
                 zip(prompt.rubric.replies, weights, strict=True) if weight > 0]  # fmt: skip
        reading = Reading(judge_id=JUDGE.record.judge_id, rubric_sha256=prompt.rubric.sha256,
                          prompt_sha256=prompt.sha256, mode="exact", given=tuple(given))  # fmt: skip
        lines.append(reading.model_dump(mode="json"))
    append_jsonl(out / READINGS, *lines)
    return total


def main() -> None:
    """Time it, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "a.jsonl", Path(folder) / "a.judged"
        write_answers(file)
        total = write_readings(file, out)
        seconds, busy = [], []
        for _ in range(arguments.repeat):
            start, work = time.perf_counter(), time.process_time()
            result = judge_answers(judge_request([file], RUBRICS, Cuts(), out), JUDGE)
            with contextlib.redirect_stdout(io.StringIO()):
                print_judged(result)
            seconds.append(time.perf_counter() - start)
            busy.append(time.process_time() - work)
    took, work_took = statistics.median(seconds), statistics.median(busy)
    print(
        f"{ANSWERS} answers, {total} readings: {took:.2f} s, {work_took:.2f} s of the CPU (wanted: under {SECONDS:g})"
    )
    if arguments.json:
        write_result(
            arguments.json, answers=ANSWERS, readings=total, seconds=took, cpu_seconds=work_took,
            load=os.getloadavg()[0], wanted_seconds=SECONDS, machine=machine(1, ("polars", "scipy", "pydantic")),
        )  # fmt: skip


if __name__ == "__main__":
    main()
