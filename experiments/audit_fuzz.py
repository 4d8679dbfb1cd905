"""Fuzz the parsers and detectors of the audit with mutated training files; any error but a skip is printed.

    python experiments/audit_fuzz.py --minutes 10 --seed 0

The seeds of the mutations are the texts in tests/audit (fixtures of every tool and the hostile files). Each round takes
one, cuts, repeats, swaps and overwrites parts of it, gives it a name of some kind, and runs all that a scan of one
file runs, rules and JSON included. A round that takes over 20 s of CPU time counts as a failure too.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from narrowly.audit.review import review

TESTS = Path(__file__).resolve().parents[1] / "tests" / "audit"
NAMES = (
    "a.py", "a.yaml", "a.json", "a.toml", "a.sh", "a.ipynb", "trainer_state.json", "adapter_config.json", "README.md",
    "requirements.txt", "ds_config.json", "pyproject.toml", "Makefile",
)  # fmt: skip
PIECES = (
    b"\r", b"\n", b"\t", b"[" * 70, b"- " * 70, b"&a ", b"*a ", b"<<: *a\n", b"${a.b}", b"{{ x }}", b"1e999", b"-1",
    b"null", b"{}", b"[]", b"'", b'"', b"\\\n", b"$(x)", b"lambda: ", b"(" * 200, b"9" * 400, b"*", b"=", b":", b"True",
    b"optimizer", b"learning_rate", b"learning_rate: 2e-5\n", b"TrainingArguments(", b"\x00", b"\xc3\x28", b"{a: [1]}",
)  # fmt: skip
SLOW = 20.0


def seeds() -> list[bytes]:
    """Return every text of some length in the tests of the audit."""
    found = []
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and len(node.value) > 40:
                found.append(node.value.encode() if isinstance(node.value, str) else node.value)
    return found


def likely_name(text: bytes, chance: random.Random) -> str:
    """Return a file name that fits a text, and now and then any other."""
    if chance.random() < 0.2:
        return chance.choice(NAMES)
    if text.lstrip()[:1] in (b"{", b"["):
        return chance.choice([name for name in NAMES if name.endswith(".json")])
    return "a.py" if b"import " in text else "a.sh" if b" --" in text else "a.yaml"


def mutated(text: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return a text with a few changes."""
    data = bytearray(text)
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.randint(0, 40))
        kind = chance.randrange(6)
        if kind == 0:
            del data[start:end]
        elif kind == 1:
            data[start:start] = chance.choice(PIECES)
        elif kind == 2:
            data[start:end] = bytes(chance.randrange(32, 127) for _ in range(chance.randint(1, 8)))
        elif kind == 3:
            data[start:start] = data[start:end] * chance.randint(1, 20)
        elif kind == 4:
            other = chance.choice(others)
            cut = chance.randrange(len(other) + 1)
            data[start:end] = other[cut : cut + 200]
        else:
            data[start:end] = chance.choice(PIECES)
    return bytes(data[:200_000])


def main() -> None:
    """Run rounds until the time is over, print each failure and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, texts, failures = random.Random(options.seed), seeds(), 0
    counts: Counter[str] = Counter()
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() < end:
            for text in chance.sample(texts, 3):
                (Path(scratch) / likely_name(text, chance)).write_bytes(mutated(text, texts, chance))
            started = time.process_time()
            try:
                found = review([Path(scratch)])
                json.dumps(found.to_json(), default=str)
                counts["jobs"] += len(found.jobs)
                counts["skipped"] += len(found.skipped)
            except Exception:
                failures += 1
                traceback.print_exc()
            if time.process_time() - started > SLOW:
                failures += 1
                print(f"round {counts['rounds']} took {time.process_time() - started:.0f} s")
            counts["rounds"] += 1
            for file in Path(scratch).iterdir():
                file.unlink()
    print(f"{counts['rounds']} rounds, {counts['jobs']} jobs, {counts['skipped']} skips, {failures} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
