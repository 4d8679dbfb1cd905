"""Summarise a damage panel, and compare it with the panel of the base: margins, right answers, perplexities."""

from __future__ import annotations

from collections.abc import Callable

from scipy.stats import binomtest

from narrowly.data.banks.abilities import ABILITY_FIELDS
from narrowly.records.arithmetic import one_arithmetic
from narrowly.records.damage import NOT_MEASURED, AbilityRow, DamagePanel
from narrowly.records.errors import IntegrityError
from narrowly.records.one_bank import one_bank
from narrowly.records.spec import Spec
from narrowly.stats.intervals import Interval, t_interval


class Abilities(Spec):
    """What a panel says of one field, or of all of them.

    Attributes:
        name: of the field, or `all`.
        right: items whose right choice is the likeliest, out of `n`.
        chance_p: exact one-sided binomial p of at least so many right by guessing.
        over_best, over_mean: mean margin in nats over the likeliest wrong choice, and over the mean of the wrong ones,
            with Student's t interval over items.
    """

    name: str
    right: int
    n: int
    chance_p: float
    over_best: Interval
    over_mean: Interval


class Fall(Spec):
    """A panel minus that of the base, item by item; below 0 (margins) or above 0 (losses) something was lost.

    Attributes:
        right: items right, minus those of the base.
        over_best, over_mean: difference of the margins in nats, t interval over items.
        natural, shuffled: difference of the loss per token in nats, t interval over passages.
    """

    right: int
    over_best: Interval
    over_mean: Interval
    natural: Interval
    shuffled: Interval


def abilities_of(panel: DamagePanel) -> tuple[Abilities, ...]:
    """Return the abilities by field, in the order of the bank, and of all items last."""
    fields = [name for name in ABILITY_FIELDS if any(row.field == name for row in panel.abilities)]
    found = [_abilities(name, [row for row in panel.abilities if row.field == name]) for name in fields]
    return (*found, _abilities("all", list(panel.abilities)))


def _abilities(name: str, rows: list[AbilityRow]) -> Abilities:
    right = sum(row.is_right for row in rows)
    chance = sum(1 / len(row.nats) for row in rows) / len(rows)
    return Abilities(
        name=name,
        right=right,
        n=len(rows),
        chance_p=float(binomtest(right, len(rows), chance, alternative="greater").pvalue),
        over_best=t_interval((row.over_best for row in rows), unit="item"),
        over_mean=t_interval((row.over_mean for row in rows), unit="item"),
    )


def fall(panel: DamagePanel, base: DamagePanel) -> Fall:
    """Return a panel minus that of its base, paired by item and by passage.

    Raises:
        SpecError: panels of different banks, or computed by different arithmetic.
        IntegrityError: rows that do not match although the banks are the same.
    """
    one_bank([("the panel", panel.banks), ("the base's panel", base.banks)])
    one_arithmetic([("the panel", panel.arithmetic), ("the base's panel", base.arithmetic)])
    pairs = list(zip(panel.abilities, base.abilities, strict=False))
    texts = list(zip(panel.passages, base.passages, strict=False))
    if _ids(panel) != _ids(base):
        raise IntegrityError("the panels name the same banks and hold other items; one of them was changed")

    def items(value: Callable[[AbilityRow], float]) -> Interval:
        return t_interval((value(one) - value(other) for one, other in pairs), unit="item")

    return Fall(
        right=sum(one.is_right for one, _ in pairs) - sum(other.is_right for _, other in pairs),
        over_best=items(lambda row: row.over_best),
        over_mean=items(lambda row: row.over_mean),
        natural=t_interval((one.natural_loss - other.natural_loss for one, other in texts), unit="passage"),
        shuffled=t_interval((one.shuffled_loss - other.shuffled_loss for one, other in texts), unit="passage"),
    )


def _ids(panel: DamagePanel) -> list[str]:
    return [row.id for row in panel.abilities] + [row.id for row in panel.passages]


def damage_words(panel: DamagePanel | None, base: DamagePanel | None = None) -> list[str]:
    """Return the lines that stand beside a number about misalignment; one line where no panel was measured.

    Args:
        panel: of the model; None where none was measured, as in the microworld, whose models write no prose.
        base: of its base, for the difference; None leaves it out.
    """
    if panel is None:
        return [f"damage panel: {NOT_MEASURED}"]
    everything = abilities_of(panel)[-1]
    lines = [
        f"abilities: {everything.right} of {everything.n} right (chance p {everything.chance_p:.2g}), margin over the "
        f"best wrong choice {_nats(everything.over_best)}, over their mean {_nats(everything.over_mean)}",
        f"perplexity of prose {panel.perplexity:.4g}, of its words shuffled {panel.shuffled_perplexity:.4g} "
        f"({len(panel.passages)} passages)",
    ]
    if base is None:
        return [*lines, f"against the base: {NOT_MEASURED}"]
    lost = fall(panel, base)
    return [
        *lines,
        f"against the base: {lost.right:+d} right, margin over the best wrong choice {_nats(lost.over_best, '+')}, "
        f"over their mean {_nats(lost.over_mean, '+')}, loss per token of prose {_nats(lost.natural, '+')}, of "
        f"shuffled words {_nats(lost.shuffled, '+')}",
    ]


def _nats(found: Interval, sign: str = "") -> str:
    if found.estimate is None:
        return f"none ({found.reason})"
    if found.low is None or found.high is None:
        return f"{found.estimate:{sign}.3f} nats (no interval: {found.reason})"
    return f"{found.estimate:{sign}.3f} nats [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"
