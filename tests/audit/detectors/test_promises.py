"""What decides whether a script is followed at all: cheap tests of its bytes, against what they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

import narrowly
from narrowly.audit.detectors.registry import detectors
from narrowly.audit.files import NEEDS, SourceFile
from narrowly.audit.python.follow import promises

BY_MODULE = {b"sft.train(", b"run_exp(", b"default_adamw(", b".jobs.create(", b"foundation_model", b"FineTun"}
"""Literals whose need is no part of them: it stands in the name of the module or argument that goes with them."""


def test_a_literal_is_found_as_a_plain_search_finds_it() -> None:
    assert {word for word, need in NEEDS.items() if need not in word} == BY_MODULE
    words = {word for one in detectors() for word in one.triggers} | set(NEEDS)
    files = [*Path(narrowly.__file__).parent.rglob("*.py"), *Path(__file__).parents[1].rglob("*.py")]
    found = 0
    for path in files:
        file = SourceFile(path.name, path.name, "python", path.read_bytes())
        for word in words - BY_MODULE:
            assert file.has(word) is (word in file.data), (path, word)
            found += file.has(word)
    assert found > 100


@pytest.mark.parametrize(
    ("code", "promised"),
    [
        ("loss.backward(); opt = Lion(model.parameters())", True),
        ("loss.backward(); optimizer = Adan(model.parameters())", True),
        ("optimizer: Optimizer = kinds[name](p)\nloss.backward()\noptimizer.step()", False),
        ("loss.backward(); opt = build_optimizer(model)", True),
        ("loss.backward(); opt = getattr(torch.optim, name)(p)", True),
        ("loss.backward(); optimizer.step(); optimizer.zero_grad()", False),
        ("loss.backward(); graph = optimize_graph(graph); LambdaVariable(3)", False),
        ("def build_optimizer(model): ...\nloss.backward()", False),
        ("loss.backward(); opt = torch.optim.Adan(p)", True),
        ("from trl import SFTTrainer\nSFTTrainer(model).train()", True),
        ("from trl import SFTTrainer\nfor one in [SFTTrainer(model)]: one.train()", True),
        ("from trl import SFTTrainer\nclass Mine(SFTTrainer):\n    pass\nMyTrainer(model).train()", True),
        ("from trl import _B\nclass SFTTrainer(_B):\n    pass", False),
        ('from trl import x\n"""SFTTrainer(model)"""', False),
        ("client.fine_tuning.jobs.create(model=m)", True),
        ("client.tunings.tune(base_model=m)", True),
    ],
)
def test_a_script_is_followed_where_its_code_may_make_an_optimiser_or_start_a_job(code: str, promised: bool) -> None:
    assert promises(SourceFile("a.py", "a.py", "python", code.encode())) is promised
