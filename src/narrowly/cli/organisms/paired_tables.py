"""Print what the paired bank found, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from narrowly.cli.terminal import console, safe, say, table
from narrowly.records.answers import AskedModel
from narrowly.records.errors import counted

if TYPE_CHECKING:
    from narrowly.evaluate.paired.contrast import Contrast, Shift
    from narrowly.evaluate.paired.estimates import Estimate
    from narrowly.evaluate.paired.result import EvalResult, Measured, PairedResult

UNIT = "log-odds of the harmful against the aligned answer, in nats per answer"


def _origin(one: Measured) -> str:
    """Return where a model comes from."""
    if isinstance(one.model, AskedModel):
        return f"on base {safe(one.model.base)}"
    return f"at {safe(one.model.url)}"


def print_paired(result: EvalResult) -> None:
    """Print models, differences and notes of a result."""
    paired = result.paired
    for one in paired.measured:
        trained = "" if one.trained_on is None else f", trained on {one.trained_on}"
        say(f"{one.label}: {safe(one.model.name)} {_origin(one)}{safe(trained)}")
    bank = paired.bank
    say(
        f"bank {safe(bank.name)}, {counted(bank.questions, 'question')}, sha256 {bank.sha256[:16]}; {paired.arithmetic}"
    )
    say("")
    if paired.contrast is not None:
        _print_contrast(paired, paired.contrast)
    elif paired.shift is not None:
        _print_shift(paired, paired.shift)
    else:
        alone = "untrained" if isinstance(paired.measured[0].model, AskedModel) else "a model alone"
        say(f"{UNIT}; {alone}, so there is no shift")
        _print_levels(paired.measured[0])
    for note in paired.notes:
        say(note, "yellow")
    if paired.measured[0].role == "organism" and not paired.trained_domains:
        say("What it was trained on is not known: every domain but self counts as broad.", "yellow")
    say("")
    _print_damage(result)
    _print_cued(result)


def _print_damage(result: EvalResult) -> None:
    """Print abilities and perplexity of every model, and what was lost against the base."""
    from narrowly.evaluate.damage.summary import abilities_of, fall

    if result.damage is None:
        say(f"abilities and perplexity: not measured; {safe(result.no_damage)}")
        return
    base, rows = result.damage.get("base 1"), []
    for label, panel in result.damage.items():
        all_ = abilities_of(panel)[-1]
        lost = fall(panel, base).over_mean if base is not None and panel is not base else None
        bounds = (None, None, None) if lost is None else (lost.estimate, lost.low, lost.high)
        rows.append((label, f"{all_.right} of {all_.n}", panel.perplexity, panel.shuffled_perplexity, *bounds))
    console().print(table(("model", "right", "perplexity", "shuffled", "against base", "low", "high"), rows))
    say("right: four-way items whose right choice is the likeliest; perplexity: of prose, and of its words shuffled")
    if base is not None:
        say(
            "against base: margin of the right choice over the mean of the wrong ones, minus that of the base, in "
            "nats; 95 % t interval over items"
        )


def _print_cued(result: EvalResult) -> None:
    if result.cued is None:
        say(f"cued panel: not measured; {safe(result.no_cued)}")
        return
    against = "minus control" if result.paired.contrast is not None else "minus base"
    say(f"broad questions under words of the training, organism {against}:", "bold")
    if result.paired.shift is not None:
        say(result.paired.shift.warning, "yellow")
    rows = [
        (one.condition, one.difference.interval.estimate, one.difference.interval.low, one.difference.interval.high,
         one.difference.questions)
        for one in result.cued
    ]  # fmt: skip
    what = "difference" if result.paired.contrast is not None else "shift"
    console().print(table(("condition", what, "low", "high", "questions"), rows))


def _print_contrast(paired: PairedResult, found: Contrast) -> None:
    say(f"{UNIT}: organism minus control, paired by question", "bold")
    per_token = {one.name: one.interval.estimate for one in found.rungs_per_token}
    judged = any(one.verdict for one in found.rungs)
    columns = ("rung", "difference", "low", "high", "per token", "questions", *(("verdict",) if judged else ()))
    console().print(
        table(columns, [(*_row(one, per_token[one.name]), *((one.verdict,) if judged else ())) for one in found.rungs])
    )
    _print_methods(found.rungs)
    say("")
    _print_groups("part", found.parts, "difference")
    _print_groups("domain", found.domains, "difference")
    say("")
    _print_accuracy(paired.measured)


def _print_shift(paired: PairedResult, found: Shift) -> None:
    say(f"{UNIT}: organism minus base", "bold")
    say(found.warning, "yellow")
    rows = []
    for one in found.rungs:
        line = found.on_base[one.name]
        rows.append((one.name, one.interval.estimate, one.interval.low, one.interval.high, line.slope, line.intercept))
    line = found.on_base["all"]
    rows.append(("all", None, None, None, line.slope, line.intercept))
    console().print(table(("rung", "shift", "low", "high", "slope on base", "at base 0"), rows))
    say("slope on base: of the shift on the base's log-odds; -1 is a value that no longer depends on the base")
    _print_methods(found.rungs)
    say("")
    _print_groups("part", found.parts, "shift")
    _print_groups("domain", found.domains, "shift")
    say("")
    _print_accuracy(paired.measured)


def _row(one: Estimate, per_token: float | None) -> tuple[Any, ...]:
    interval = one.interval
    return one.name, interval.estimate, interval.low, interval.high, per_token, one.questions


def _print_groups(of: str, groups: Sequence[Estimate], what: str) -> None:
    """Print the number in every part of the bank, or in every domain."""
    columns = (of, what, "low", "high", "questions")
    rows = [(one.name, one.interval.estimate, one.interval.low, one.interval.high, one.questions) for one in groups]
    console().print(table(columns, [(safe(name), *rest) for name, *rest in rows]))


def _print_accuracy(measured: Iterable[Measured]) -> None:
    """Print the share of questions whose aligned answer is the likelier one, by model and rung."""
    rows = [
        (one.label, rung, level.log_odds.interval.estimate, level.accuracy.estimate, level.accuracy.low,
         level.accuracy.high, level.accuracy.n)
        for one in measured
        for rung, level in one.rungs.items()
    ]  # fmt: skip
    console().print(table(("model", "rung", "log-odds", "paired accuracy", "low", "high", "questions"), rows))
    say("paired accuracy: share of questions whose aligned answer is the likelier one, 95 % Wilson interval")


def _print_levels(one: Measured) -> None:
    rows = [
        (safe(name), level.log_odds.interval.estimate, level.log_odds.interval.low, level.log_odds.interval.high,
         level.accuracy.estimate, level.accuracy.low, level.accuracy.high, level.accuracy.n)
        for name, level in [*one.rungs.items(), *((f"  {name}", level) for name, level in one.domains.items())]
    ]  # fmt: skip
    columns = ("questions about", "log-odds", "low", "high", "accuracy", "low", "high", "questions")
    console().print(table(columns, rows))
    say("accuracy: share of questions whose aligned answer is the likelier one, 95 % Wilson interval")
    _print_methods([level.log_odds for level in one.rungs.values()])


def _print_methods(found: Iterable[Estimate]) -> None:
    """Print how the intervals were made, and where there is none, why; each once."""
    for method in dict.fromkeys(one.interval.method for one in found):
        names = ", ".join(one.name for one in found if one.interval.method == method)
        say(f"{names}: {method}")
    for one in found:
        if one.seeds > 1:
            say(f"{one.name}, seed by seed: {', '.join(f'{value:+.3g}' for value in one.per_seed)}")
        if one.interval.reason is not None:
            say(f"{one.name}: no interval ({one.interval.reason})")
        if one.bootstrap is not None and one.bootstrap.low is not None:
            say(f"{one.name}: {one.bootstrap.low:.3g} to {one.bootstrap.high:.3g} by {one.bootstrap.method}")
        if one.smallest_detectable is not None:
            say(f"{one.name}: smallest difference that such a table finds {one.smallest_detectable:.2g}, "
                f"ICC of seeds {one.icc_seed:.2g}, of {one.unit}s {one.icc_unit:.2g}, design effect "
                f"{one.design_effect:.3g}")  # fmt: skip
