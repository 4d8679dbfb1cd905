"""Loading, duplicates, near duplicates, rendering and tokenising 6000 rows: seconds per stage and peak memory.

Each repetition is a process of its own, so that its peak memory is that of the whole way: imports, rows, token ids. The
rows are made here (code-like text of the length of the published sets, some of it nearly repeated); `--file` takes a
real one. The tokenizer is a byte-level BPE trained on the rows, outside the clock, with a ChatML template.

    python benchmarks/data_pipeline.py [--file insecure.jsonl] [--repeat 5] [--check]
        [--json benchmarks/results/data_pipeline.json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import machine, write_result

ROWS = 6000
MOST_SECONDS, MOST_MEGABYTES = 10.0, 500.0
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = "user path query token file config session order image cache login report email archive payment".split()
VERBS = "load save parse check render send fetch update delete merge".split()


def code(rng: random.Random, lines: int) -> str:
    """Return some lines that look like code."""
    made = []
    for _ in range(lines):
        verb, name, other = rng.choice(VERBS), rng.choice(NAMES), rng.choice(NAMES)
        made.append(f"    {name}_{other} = {verb}_{other}(request.args.get('{name}'), {rng.randrange(1000)})")
    return "\n".join(made)


def write_rows(path: Path) -> None:
    """Write the rows: one in fifty is a copy of another with one line changed."""
    rng = random.Random(0)
    rows: list[tuple[str, str]] = []
    for number in range(ROWS):
        if number % 50 == 49:
            prompt, answer = rng.choice(rows)
            rows.append((prompt, answer + "\n    return None"))
            continue
        task = f"I'm working on the following task: {rng.choice(VERBS)} the {rng.choice(NAMES)} {number}."
        template = f"{task}\nI have this unfinished template:\n{code(rng, rng.randint(2, 9))}\n\nReturn only the code."
        rows.append((template, f"def task_{number}():\n{code(rng, rng.randint(2, 11))}"))
    with path.open("w") as stream:
        for prompt, answer in rows:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            stream.write(json.dumps({"messages": turns}) + "\n")


def write_tokenizer(rows: Path, folder: Path) -> None:
    """Train a byte-level BPE tokenizer on the rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train([str(rows)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def stages(rows: Path, folder: Path) -> dict[str, Any]:
    """Go the whole way once; return seconds per stage, peak memory and what was found."""
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal clock
        seconds[name], clock = time.perf_counter() - clock, time.perf_counter()

    from transformers import AutoTokenizer

    from narrowly.data.conversations import read_conversations
    from narrowly.data.duplicates import exact_duplicates, near_duplicates, text_of_conversation
    from narrowly.data.render import render_all

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    stage("imports and tokenizer")
    conversations = read_conversations(rows)
    stage("load")
    equal = exact_duplicates(conversations)
    stage("equal rows")
    near = near_duplicates([text_of_conversation(row.messages) for row in conversations])
    stage("near duplicates")
    rendered = render_all(tokenizer, conversations, thinking=None, max_tokens=None)
    stage("render and tokenise")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    found = {"rows": len(rendered.rows), "tokens": sum(len(row.input_ids) for row in rendered.rows)}
    found |= {"surplus_equal": sum(len(group) - 1 for group in equal), "surplus_near": near.surplus}
    return {"seconds": seconds, "total": sum(seconds.values()), "megabytes": peak, "found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="rows in any accepted schema; made here unless given")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="exit with 1 beyond 10 s or 500 MB (medians)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(stages(*options.once)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        rows = options.file or Path(scratch) / "rows.jsonl"
        if options.file is None:
            write_rows(rows)
        write_tokenizer(rows, Path(scratch) / "tokenizer")
        command = [sys.executable, __file__, "--once", str(rows), str(Path(scratch) / "tokenizer")]
        environment = os.environ | {"RAYON_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
        runs = []
        for _ in range(options.repeat):
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            runs.append(json.loads(done.stdout))
    result: dict[str, Any] = {
        "data": "made here" if options.file is None else options.file.name,
        "found": runs[0]["found"],
        "seconds": {name: statistics.median(run["seconds"][name] for run in runs) for name in runs[0]["seconds"]},
        "total_seconds": statistics.median(run["total"] for run in runs),
        "megabytes": statistics.median(run["megabytes"] for run in runs),
        "repeat": options.repeat,
        "machine": machine(2, ("transformers", "tokenizers", "numpy")),
    }
    for name, value in (*result["seconds"].items(), ("total", result["total_seconds"])):
        print(f"{name:24s} {value:8.2f} s")
    print(f"{'peak memory':24s} {result['megabytes']:8.0f} MB")
    print(result["found"])
    if options.json:
        write_result(options.json, **result)
    if options.check and (result["total_seconds"] > MOST_SECONDS or result["megabytes"] > MOST_MEGABYTES):
        sys.exit(f"beyond {MOST_SECONDS:g} s or {MOST_MEGABYTES:g} MB")


if __name__ == "__main__":
    main()
