"""What Muon and Lion are in other packages: the table, its rates, and the settings of those that tests can run."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch

from narrowly.cli.app import execute
from narrowly.optim.muon import Muon
from narrowly.records.optimisers.elsewhere import ELSEWHERE, in_package, settings
from narrowly.records.optimisers.scale_rules import SCALE_RULES

PAGE = Path(__file__).parents[2] / "docs" / "muon-elsewhere.md"
SHAPES = [(16, 64), (64, 16), (16, 16)]
ASKED = "timm trl axolotl llamafactory heavyball optax pytorch-optimizer muon-optimizer emerging-optimizers".split()


def test_every_package_has_a_row_for_both_optimisers() -> None:
    for rows in ELSEWHERE.values():
        assert sorted(row.package for row in rows) == sorted({*ASKED, "torch"})


def steps(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    taken = []
    for _ in range(3):
        before = parameter.detach().clone()
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        taken.append(parameter.detach() - before)
    return taken


@pytest.mark.parametrize("package", ["torch", "pytorch-optimizer"])
@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_the_printed_call_takes_our_steps_up_to_bfloat16(package: str, shape: tuple[int, int]) -> None:
    import pytorch_optimizer

    call = settings(in_package("muon", package), 0.01, 16, 64)
    theirs, ours = torch.nn.Parameter(torch.zeros(shape)), torch.nn.Parameter(torch.zeros(shape))
    ast.parse(call, mode="eval")
    made = eval(call, {"torch": torch, "pytorch_optimizer": pytorch_optimizer, "factors": [theirs]})
    own = Muon(
        [ours], lr=0.01, momentum=0.95, nesterov=True, weight_decay=0.0, orthogonaliser="newton_schulz5", ns_steps=5,
        scale_rule="original", eps=1e-7,
    )  # fmt: skip
    for one, other in zip(steps(made, theirs), steps(own, ours), strict=True):
        assert float((one - other).norm() / other.norm()) < 0.06


def test_where_the_scale_rule_is_another_a_and_b_have_rates_of_their_own() -> None:
    axolotl = in_package("muon", "axolotl")
    printed = settings(axolotl, 0.01, 16, 2048)
    for shape in ((16, 2048), (2048, 16)):
        rate = 0.01 * SCALE_RULES["original"](*shape) / SCALE_RULES["match_rms_adamw"](*shape)
        assert f"{rate:.3g}" in printed


@pytest.mark.parametrize("optimiser", ELSEWHERE)
def test_every_row_is_printed_and_stands_in_the_page(optimiser: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for row in ELSEWHERE[optimiser]:
        assert execute(["optimisers", optimiser, "--in", row.package]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert execute(["optimisers", optimiser, "--in", row.package, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["here"] is None or shown["here"] in printed
        for text in (row.A, row.vectors, row.stacks, *row.silently, shown["settings"]):
            assert " ".join(text.split()) in printed
        assert row.package in page
        assert all(text in page for text in row.silently)
        if not row.same.startswith("has no"):
            assert settings(row, 1e-3, 16, 2048) in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["muon", "--in", "tim"], "did you mean 'timm'"),
        (["soap", "--in", "timm"], "muon and lion"),
        (["--in", "timm"], "--in needs an optimiser"),
    ],
)
def test_what_is_not_in_the_table_is_refused_in_a_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["optimisers", *arguments]) == 2
    assert said in capsys.readouterr().err
