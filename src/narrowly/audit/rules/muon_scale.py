"""Convert a learning rate between AdamW and each tool's Muon, and say what that Muon does to A and to B.

All Muons replace a matrix by its polar factor UV^T and multiply it by the rate and a scale rule. AdamW's rate x is
taken over at Moonlight's level: a change of .2 x per entry in root mean square (arXiv 2502.16982, section 2.2). Which
rule a tool has was run or read (docs/muon-elsewhere.md); a rule that is not known here gives no number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from narrowly.records.optimisers.scale_rules import SCALE_RULES, ScaleRule

RULE_OF: dict[str, tuple[ScaleRule, str]] = {
    "torch": ("original", "torch.optim.Muon 2.13, adjust_lr_fn=None"),
    "torchtune": ("original", "torch.optim.Muon 2.13, adjust_lr_fn=None"),
    "lightning": ("original", "torch.optim.Muon 2.13, adjust_lr_fn=None"),
    "accelerate": ("original", "torch.optim.Muon 2.13, adjust_lr_fn=None"),
    "axolotl": ("match_rms_adamw", "axolotl-contribs-mit 0.0.6 muon.py (one process)"),
    "llamafactory": ("match_rms_adamw", "llamafactory 0.9.5 third_party/muon"),
    "ms-swift": ("match_rms_adamw", "Moonlight's script, which ms-swift clones"),
    "nemo-automodel": ("spectral_norm", "dion's rule, components/optim/dion.py"),
}
"""Scale rule of each tool's Muon where nothing is said, and where that was read."""

FORMULA = {
    "original": "sqrt(max(1, out/in))",
    "match_rms_adamw": "0.2 sqrt(max(out, in))",
    "spectral_norm": "sqrt(out/in)",
}

RMS_LEVEL = 0.2
"""Root mean square of a change per entry for rate 1, at which AdamW's rate carries over (Moonlight)."""


def rms_change(rule: ScaleRule, rows: int, columns: int) -> float:
    """Return the root mean square of a step's entries for rate 1: the scale times sqrt(rank / entries)."""
    return SCALE_RULES[rule](rows, columns) * math.sqrt(min(rows, columns) / (rows * columns))


class Conversion(NamedTuple):
    """Hold a converted rate and what it does to the factors of an adapter.

    Attributes:
        rate: for the tool's Muon, matched at B.
        rule: of the tool.
        a: change of A per step relative to .2 x per entry.
        b: the same of B, 1 by the choice of the rate.
        factor_a: the scale rule's factor for A.
        factor_b: the scale rule's factor for B.
    """

    rate: float
    rule: ScaleRule
    a: float
    b: float
    factor_a: float
    factor_b: float


def converted(adamw_rate: float, rule: ScaleRule, rank: int, width: int) -> Conversion:
    """Convert AdamW's rate to a Muon with this scale rule, so that B changes by as much as under Moonlight's rule.

    Args:
        adamw_rate: of the job.
        rule: of the tool's Muon.
        rank: of the adapter.
        width: of the layer, both sides.
    """
    rms_a, rms_b = rms_change(rule, rank, width), rms_change(rule, width, rank)
    rate = adamw_rate * RMS_LEVEL / rms_b
    return Conversion(rate, rule, rms_a / rms_b, 1.0, SCALE_RULES[rule](rank, width), SCALE_RULES[rule](width, rank))
