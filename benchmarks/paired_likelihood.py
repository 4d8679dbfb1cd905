"""The paired bank on SmolLM2-135M: questions per CPU second and peak memory, against lm-evaluation-harness 0.4.13.

The same requests, token by token: SmolLM2's own template, both answers of every question, end of turn scored. Rival is
the harness's `hf` model at batch sizes 1, 8 and 32, of which the best counts; it gets token ids, so that nothing but
scoring is timed. Every run has a process of its own, and the rivals take turns. CPU seconds are those of the whole
process while it scores, all threads together.

    narrowly base get smollm2-135m
    python benchmarks/paired_likelihood.py [--questions 40] [--repeat 3] [--json FILE]

The harness has a virtual environment of its own, made from nothing on the first run, with the versions of torch and
Transformers that score here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import machine, write_result
from rival import SHARED, check_same_versions, rival_python, run_child, versions

HARNESS = "lm_eval==0.4.13"
PACKAGES = (HARNESS, "torch==2.13.0", "transformers==5.23.0", "accelerate==1.15.0")
BATCHES = (1, 8, 32)
SPEED, NATS = 2.0, 1e-3
"""Wanted: times the questions per CPU second of the harness, and the largest difference of a log-likelihood."""

CHILD = """
import json, resource, sys, time
import torch
torch.set_num_threads({threads})
requests = json.load(open({requests!r}))
{load}
start = time.process_time()
{work}
seconds = time.process_time() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({{"seconds": seconds, "peak_mb": peak, "nats": nats}}))
"""
OURS = """
from narrowly.models.base import load_model, open_base
from narrowly.models.likelihood import score
from narrowly.records.likelihood import ScoredText
model = load_model(open_base("smollm2-135m"))
texts = [ScoredText(tuple(prompt), tuple(answer)) for prompt, answer in requests]
"""
OURS_WORK = "nats = [found.total for found in score(model, texts).likelihoods]"
THEIRS = """
from lm_eval.models.huggingface import HFLM
model = HFLM(pretrained={folder!r}, device="cpu", dtype="float32", batch_size={batch})
texts = [(("", ""), prompt, answer) for prompt, answer in requests]
"""
THEIRS_WORK = "nats = [nats for nats, _ in model._loglikelihood_tokens(texts, disable_tqdm=True)]"


def requests_of_bank(questions: int | None) -> list[tuple[list[int], list[int]]]:
    """Return prompt and answer tokens of both answers of every question, or of some spread over the bank."""
    from narrowly.data.banks.paired import paired_items
    from narrowly.data.messages import Conversation, Message
    from narrowly.models.base import open_tokenizer
    from narrowly.models.likelihood import scored_texts

    items = list(paired_items())
    items = items[:: max(1, len(items) // questions)][:questions] if questions else items
    conversations = [
        Conversation((Message("user", item.question), Message("assistant", answer)), 1, {})
        for item in items
        for answer in (item.aligned, item.harmful)
    ]
    texts = scored_texts(open_tokenizer("smollm2-135m"), conversations, closing=True)
    return [(list(text.prompt), list(text.continuation)) for text in texts]


def measure(python: Path | str, load: str, work: str, requests: Path, threads: int) -> dict[str, Any]:
    """Score the requests in a fresh process; return CPU seconds, peak memory and the log-likelihoods."""
    return run_child(python, CHILD.format(threads=threads, requests=str(requests), load=load, work=work))


def rows_of(runs: dict[str, list[dict[str, Any]]], questions: int) -> list[dict[str, Any]]:
    """Return one row per rival: medians of its runs, its peak memory and its largest difference from ours."""
    ours = runs["narrowly"][0]["nats"]
    return [
        {
            "what": name,
            "cpu_seconds": statistics.median(run["seconds"] for run in found),
            "cpu_seconds_of_each": [run["seconds"] for run in found],
            "questions_per_cpu_second": questions / statistics.median(run["seconds"] for run in found),
            "peak_mb": max(run["peak_mb"] for run in found),
            "largest_difference_nats": max(abs(one - two) for one, two in zip(found[0]["nats"], ours, strict=True)),
        }
        for name, found in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, help="of the bank, spread over it; all of it where not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--venv", type=Path, default=Path("out/rivals/lm-eval-0.4.13"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.questions is not None and given.questions < 1:
        parser.error(f"--questions is {given.questions}, accepted: at least 1")
    from narrowly.models.base import open_base

    folder = str(open_base("smollm2-135m").folder)
    theirs = rival_python(given.venv.absolute(), PACKAGES)
    check_same_versions(versions(sys.executable, SHARED), versions(theirs, SHARED))
    rivals = {"narrowly": (sys.executable, OURS, OURS_WORK)}
    for batch in BATCHES:
        rivals[f"harness, batch {batch}"] = (theirs, THEIRS.format(folder=folder, batch=batch), THEIRS_WORK)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in rivals}
    with tempfile.TemporaryDirectory() as temporary:
        requests = Path(temporary) / "requests.json"
        asked = requests_of_bank(given.questions)
        requests.write_text(json.dumps(asked), encoding="utf-8")
        for _ in range(given.repeat):
            for name, (python, load, work) in rivals.items():
                runs[name].append(measure(python, load, work, requests, given.threads))
    questions = len(asked) // 2
    rows = rows_of(runs, questions)
    for row in rows:
        print(
            f"{row['what']:20s} {row['questions_per_cpu_second']:7.2f} questions per CPU second "
            f"{row['peak_mb']:7.0f} MB   {row['largest_difference_nats']:.1e} nats from ours"
        )
    ours, best = rows[0], max(rows[1:], key=lambda row: row["questions_per_cpu_second"])
    ratio = ours["questions_per_cpu_second"] / best["questions_per_cpu_second"]
    nats = max(row["largest_difference_nats"] for row in rows)
    met = ratio >= SPEED and ours["peak_mb"] <= best["peak_mb"] and nats <= NATS
    print(
        f"{questions} questions: {ratio:.2f} times the best of the harness ({best['what']}), "
        f"{ours['peak_mb'] / best['peak_mb']:.2f} of its memory; wanted {SPEED:g} times, no more memory, "
        f"{NATS:g} nats: "
        f"{'met' if met else 'MISSED'}"
    )
    if given.json:
        about = machine(given.threads, SHARED)
        write_result(given.json, machine=about, harness=HARNESS, questions=questions, ratio=ratio, met=met, rows=rows)


if __name__ == "__main__":
    main()
