"""Put a matched comparison into sentences, for the terminal and the page alike."""

from __future__ import annotations

from narrowly.analysis.matching.schema import Contrast, Matched
from narrowly.report.kit.numbers import number, span


def branches(found: Matched, one: Contrast) -> str:
    """Return the names of a pair of branches."""
    return f"{found.first.name} {one.first_branch}, {found.second.name} {one.second_branch}"


def sentences(found: Matched) -> list[str]:
    """Return what was compared and what came out, a sentence each."""
    one = found.primary
    told = [
        f"{found.first.name} minus {found.second.name}: {found.of.replace('_', '-')} misalignment in {found.unit} at "
        f"equal {found.at_words}, on the rising branches of {found.first.dial}.",
        f"Levels in common: {one.compared} of {one.bases} {found.over}s.",
    ]
    difference = number(one.interval.estimate, signed=True)
    if one.interval.low is not None:
        told.append(f"Difference {difference}, {one.interval.method} {span(one.interval, signed=True)}{_drawn(one)}.")
    elif one.interval.estimate is not None:
        told.append(f"Difference {difference}, the mean of these {found.over}s alone: no interval.")
    told.append(f"Margin ±{number(found.margin)}: {one.verdict}{_why(one)}.")
    return told


def _drawn(one: Contrast) -> str:
    return "" if one.bootstrap is None else f", crossed bootstrap {span(one.bootstrap, signed=True)}"


def _why(one: Contrast) -> str:
    if one.reason is not None:
        return f" ({one.reason})"
    return "" if one.p_equivalence is None else f" (two one-sided tests: p = {number(one.p_equivalence, 3)})"


def noise(found: Matched) -> str:
    """Return what split halves say of the matching variable's noise."""
    if found.attenuation is None:
        return f"Noise of what is matched on: not estimated; {found.no_attenuation}."
    one = found.attenuation
    told = (
        f"Noise of what is matched on: reliability {number(one.reliability, 3)} from split halves of {one.questions} "
        f"questions (noise {number(one.noise_sd)}, spread along a curve {number(one.spread_sd)} {found.at_unit})"
    )
    if found.noise_shift is None:
        return f"{told}; a slope on it is that share of the true one."
    shift = number(found.noise_shift, 3, signed=True)
    return f"{told}; were both sets on one line, it would make a difference of {shift} {found.unit}."
