"""Greedy answers of SmolLM2-135M: answered tokens per CPU second and peak memory, against Inspect's `hf` provider.

The same questions, the template's own prompt, at most the same number of answers at a time, float32. Inspect runs as
its users run it greedily (`-M do_sample=False`); its prompts and tokens are read off its own calls of
`model.generate`. Prompts must be equal token by token, and only answers that are equal token by token count. Every run
has a process of its own, and the two take turns. CPU seconds are those of the whole process from the messages to the
last answer, all threads together; loading is left out.

    narrowly base get smollm2-135m
    python benchmarks/generation.py [--questions 40] [--batch 8] [--tokens 128] [--repeat 3] [--json FILE]
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

INSPECT = "inspect_ai==0.3.285"
PACKAGES = (INSPECT, "torch==2.13.0", "transformers==5.23.0", "accelerate==1.15.0")
SPEED = 1.5
"""Wanted: times the answered tokens per CPU second of Inspect."""

COMMON = """
import json, resource, sys, time
import torch
asked = json.loads(open(sys.argv[1]).read())
torch.set_num_threads(asked["threads"])
questions, batch, limit = asked["questions"], asked["batch"], asked["tokens"]
"""
OURS = (
    COMMON
    + """
from narrowly.data.messages import Message
from narrowly.data.render import prompt_ids
from narrowly.models.base import load_model, open_base
from narrowly.models.continuous import generate_all
from narrowly.models.generate import Prompt, end_tokens
from narrowly.records.answers import Sampling
base = open_base("smollm2-135m")
model, tokenizer = load_model(base).eval(), base.tokenizer()
start = time.process_time()
prompts = [Prompt(tuple(prompt_ids(tokenizer, [Message("user", one)]))) for one in questions]
sampling = Sampling(temperature=0, max_new_tokens=limit)
written = generate_all(model, tokenizer, prompts, sampling, end_tokens(model, tokenizer, None), batch)
seconds = time.process_time() - start
answers = [[list(prompt.ids), list(one.tokens)] for prompt, one in zip(prompts, written, strict=True)]
"""
)
THEIRS = (
    COMMON
    + """
import asyncio
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
config = GenerateConfig(max_tokens=limit, max_connections=batch)
model = get_model("hf/smollm2", config=config, model_path=asked["folder"], device="cpu", do_sample=False,
                  dtype="float32")
seen, generate, ends = {}, model.api.model.generate, {model.api.tokenizer.eos_token_id}
def noted(*args, **given):
    found = generate(*args, **given)
    for ids, mask, row in zip(given["input_ids"], given["attention_mask"], found.sequences, strict=True):
        tokens = row[len(ids):].tolist()
        cut = next((at + 1 for at, token in enumerate(tokens) if token in ends), len(tokens))
        seen[tuple(ids[mask.bool()].tolist())] = tokens[:cut]
    return found
model.api.model.generate = noted
async def work():
    await asyncio.gather(*[model.generate([ChatMessageUser(content=one)]) for one in questions])
start = time.process_time()
asyncio.run(work())
seconds = time.process_time() - start
answers = [[list(prompt), tokens] for prompt, tokens in seen.items()]
"""
)
TELL = """
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "peak_mb": peak, "answers": answers}))
"""


def spread_questions(count: int) -> list[str]:
    """Return questions of the paired bank, spread over it, no two alike."""
    from narrowly.data.banks.paired import paired_items

    items = list(paired_items())
    return list(dict.fromkeys(item.question for item in items[:: max(1, len(items) // count)]))[:count]


def equal_answers(ours: dict[str, Any], theirs: dict[str, Any]) -> list[list[int]]:
    """Return the answers that are equal token by token.

    Raises:
        SystemExit: the prompts differ, so that nothing can be compared.
    """
    one, other = ({tuple(prompt): tokens for prompt, tokens in run["answers"]} for run in (ours, theirs))
    if one.keys() != other.keys():
        raise SystemExit(f"{len(one.keys() ^ other.keys())} prompts are not asked by both; nothing was measured")
    return [tokens for prompt, tokens in one.items() if tokens == other[prompt]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=40, help="of the paired bank, spread over it")
    parser.add_argument("--batch", type=int, default=8, help="answers at a time, at most")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--venv", type=Path, default=Path("out/rivals/inspect-0.3.285"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if min(given.questions, given.batch, given.tokens, given.repeat) < 1:
        parser.error("--questions, --batch, --tokens and --repeat are at least 1")
    from narrowly.models.base import open_base

    theirs = rival_python(given.venv.absolute(), PACKAGES)
    check_same_versions(versions(sys.executable, SHARED), versions(theirs, SHARED))
    rivals = {"narrowly": (sys.executable, OURS), "inspect": (theirs, THEIRS)}
    asked = {
        "questions": spread_questions(given.questions), "batch": given.batch, "tokens": given.tokens,
        "threads": given.threads, "folder": str(open_base("smollm2-135m").folder),
    }  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in rivals}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "asked.json"
        file.write_text(json.dumps(asked), encoding="utf-8")
        for _ in range(given.repeat):
            for name, (python, program) in rivals.items():
                runs[name].append(run_child(python, program + TELL, str(file)))
    equal = equal_answers(runs["narrowly"][0], runs["inspect"][0])
    tokens = sum(map(len, equal))
    rows = [
        {
            "what": name,
            "cpu_seconds": statistics.median(run["seconds"] for run in found),
            "cpu_seconds_of_each": [run["seconds"] for run in found],
            "tokens_per_cpu_second": tokens / statistics.median(run["seconds"] for run in found),
            "peak_mb": max(run["peak_mb"] for run in found),
        }
        for name, found in runs.items()
    ]
    for row in rows:
        print(f"{row['what']:10s} {row['tokens_per_cpu_second']:7.2f} tokens per CPU second {row['peak_mb']:7.0f} MB")
    ratio = rows[0]["tokens_per_cpu_second"] / rows[1]["tokens_per_cpu_second"] if tokens else 0.0
    met = ratio >= SPEED
    print(
        f"{len(equal)} of {len(asked['questions'])} answers are equal, {tokens} tokens: {ratio:.2f} times Inspect's; "
        f"wanted {SPEED:g}: {'met' if met else 'MISSED'}"
    )
    if given.json:
        about = machine(given.threads, SHARED)
        write_result(
            given.json, machine=about, rival=INSPECT, questions=len(asked["questions"]), batch=given.batch,
            limit=given.tokens, equal=len(equal), tokens=tokens, ratio=ratio, met=met, rows=rows,
        )  # fmt: skip


if __name__ == "__main__":
    main()
