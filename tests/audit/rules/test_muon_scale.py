"""Converted rates against what the optimisers really do, and against the numbers measured elsewhere."""

from __future__ import annotations

import inspect
import math
import re

import pytest
import torch

from narrowly.audit.record import Job, explicit
from narrowly.audit.rules.fixes import muon_fix, penalty_fix
from narrowly.audit.rules.muon_scale import RULE_OF, converted, rms_change
from narrowly.records.optimisers.scale_rules import SCALE_RULES

ROSETTA = {
    ("original", 64, 16): 0.0711, ("original", 16, 64): 0.0356, ("original", 16, 2048): 0.0356,
    ("original", 2048, 16): 0.404, ("match_rms_adamw", 64, 16): 0.0645, ("match_rms_adamw", 16, 2048): 0.364,
}  # fmt: skip
"""Frobenius norm of the first change at lr .01, as packages gave it (torch 2.13, timm 1.0.31); 2048x16 too."""


@pytest.mark.parametrize(("case", "norm"), ROSETTA.items())
def test_the_change_is_that_of_the_packages_up_to_their_orthogonalisers(
    case: tuple[str, int, int], norm: float
) -> None:
    rule, rows, columns = case
    ours = 0.01 * rms_change(rule, rows, columns) * math.sqrt(rows * columns)
    # five Newton-Schulz steps leave singular values of .68-1.14 (torch), timm's of .98 to 1.03
    assert 0.68 <= norm / ours <= 1.14


@pytest.mark.parametrize(
    ("rule", "a", "b"),
    [("original", 1.0, 11.3), ("match_rms_adamw", 12.8, 12.8), ("spectral_norm", 0.088, 11.3)],
)
def test_factors_for_rank_32_beside_4096_are_those_of_the_table(rule: str, a: float, b: float) -> None:
    assert SCALE_RULES[rule](32, 4096) == pytest.approx(a, rel=0.01)
    assert SCALE_RULES[rule](4096, 32) == pytest.approx(b, rel=0.01)


@pytest.mark.parametrize("rule", ["original", "match_rms_adamw"])
def test_torchs_muon_at_the_converted_rate_moves_b_by_a_fifth_of_the_rate_per_entry(rule: str) -> None:
    told = converted(1e-3, rule, 16, 512)
    torch.manual_seed(0)
    changes = {}
    for name, shape in (("A", (16, 512)), ("B", (512, 16))):
        weight = torch.nn.Parameter(torch.zeros(shape))
        optimiser = torch.optim.Muon([weight], lr=told.rate, weight_decay=0.0, adjust_lr_fn=rule)
        weight.grad = torch.randn(shape)
        optimiser.step()
        changes[name] = float(weight.detach().square().mean().sqrt())
    assert 0.68 <= changes["B"] / 2e-4 <= 1.14
    assert 0.68 / 1.14 <= changes["A"] / changes["B"] / told.a <= 1.14 / 0.68


def test_the_rate_carries_over_under_moonlights_rule_alone() -> None:
    assert converted(1e-4, "match_rms_adamw", 32, 4096).rate == pytest.approx(1e-4)
    assert converted(1e-4, "match_rms_adamw", 32, 4096).a == pytest.approx(1)
    assert converted(1e-4, "original", 32, 4096).a == pytest.approx(math.sqrt(32 / 4096))
    assert converted(1e-4, "spectral_norm", 32, 4096).a == pytest.approx(32 / 4096)


@pytest.mark.parametrize("tool", ["axolotl", "llamafactory", "ms-swift", "torchtune", "torch", "trl", "nemo-automodel"])
def test_the_change_names_the_converted_rate_and_both_factors(tool: str) -> None:
    made = Job(tool, "a.yaml", 1)
    made.set("learning_rate", explicit(2e-4, "a.yaml:3"))
    made.set("lora_r", explicit(32, "a.yaml:4"))
    text = muon_fix(made)
    rule = "spectral_norm" if tool == "nemo-automodel" else "match_rms_adamw"
    told = converted(2e-4, rule, 32, 4096)
    assert f"{told.rate:.3g}" in text.splitlines()[-1] + text
    assert f"A is scaled by {told.factor_a:.3g} and B by {told.factor_b:.3g}" in text
    assert "{" not in text.replace("{n}", "").split("optimizer_factory")[0]


def test_a_tool_whose_muon_leaves_the_factors_alone_gets_no_such_change() -> None:
    made = Job("llamafactory", "v1.yaml", 1, name="v1")
    made.set("learning_rate", explicit(2e-4, "v1.yaml:3"))
    assert muon_fix(made) == ""
    assert muon_fix(Job("openai", "a.py", 1)) == "" and penalty_fix(Job("openai", "a.py", 1)) == ""


def test_snippets_in_python_are_python() -> None:
    for tool in ("transformers", "trl", "torch", "lightning"):
        made = Job(tool, "a.py", 1, kind="script")
        made.set("learning_rate", explicit(2e-4, "a.py:3"))
        compile(muon_fix(made), "muon", "exec")
        compile(penalty_fix(made), "penalty", "exec")


def test_every_rule_of_a_tool_has_a_formula() -> None:
    for rule, source in RULE_OF.values():
        assert SCALE_RULES[rule](8, 8) > 0 and source


@pytest.mark.parametrize("name", ["SFTConfig", "RewardConfig", "DPOConfig", "GRPOConfig", "KTOConfig"])
def test_the_change_for_trl_gives_the_jobs_own_trainer_an_argument_that_it_takes(name: str) -> None:
    trl = pytest.importorskip("trl")
    job = Job("trl", "t.py", 1, name, "script")
    job.set("learning_rate", explicit(1e-4, "t.py:1"))
    trainer = name.removesuffix("Config") + "Trainer"
    taken = inspect.signature(getattr(trl, trainer).__init__).parameters
    for change in (muon_fix(job), penalty_fix(job)):
        (argument,) = re.findall(rf"trainer = {trainer}\(\.\.\., (\w+)=", change)
        assert argument in taken


@pytest.mark.parametrize("tool", ["torch", "accelerate", "lightning", "torchtune"])
def test_torchs_muon_is_not_advised_for_models_whose_vectors_are_trained(tool: str) -> None:
    job = Job(tool, "t.py", 1)
    job.set("learning_rate", explicit(1e-4, "t.py:1"))
    assert muon_fix(job) == ""
    job.set("lora_r", explicit(16, "t.py:2"))
    assert "torch.optim.Muon" in muon_fix(job)
