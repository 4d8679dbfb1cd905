"""Write docs/findings.md, claim by claim, from the committed results of studies.

python docs/figures/findings_page.py      # a test fails while the page is out of date

Every number is computed here from tables or summaries in results/. A preregistered study decides a claim as soon as its
results are committed; before that, what the claim shows on bases that had been looked at is called exploratory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from narrowly.analysis.matching.compare import match_ladder
from narrowly.analysis.organisms import UNEDITED
from narrowly.analysis.selectivity import selectivity_of
from narrowly.records.errors import counted
from narrowly.report.kit.numbers import number
from narrowly.report.prereg_section import digits_of
from narrowly.report.reach_rows import penalty_pairs
from narrowly.stats.intervals import t_interval

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "findings.md"
RESULTS = ROOT / "results"

HEAD = """\
# Findings, claim by claim

`python docs/figures/findings_page.py` writes this page from `results/`. A test fails while it is out of date. The
intervals are 95 % Student t over bases, unless a claim says otherwise. Negative results stand among the others.

| evidence level | what it means |
|---|---|
| preregistered | decided on bases that nobody had looked at, by a rule fixed by hash before the first run \
([bases.md](bases.md)) |
| exploratory: pilot bases | seen on bases 0 to 7, which had been looked at before; it decides nothing |
| exploratory: one model | seen on SmolLM2-135M, three fine-tuning seeds in two domains \
([results/small](../results/small/README.md)) |
| not run | no committed table has a number on it |

*Established*, *refuted* and *open* are words of the rules of [evidence](../evidence/README.md). *Refuted* means that \
the claim in the heading does not hold by its rule. The study files there define the contrasts behind the ids below.

The world of the bases was chosen so that emergent misalignment occurs ([microworld.md](microworld.md)). \
Nothing here is a rate of large models.
"""


class Seen(NamedTuple):
    """What tables say of a claim: an effect with its interval, or a word where there is none.

    Attributes:
        level: evidence level of the page.
        effect: what is measured, with its number.
        interval: its interval in words.
        n: what the interval rests on.
        source: the folder of results and the command that gives the number.
    """

    level: str
    effect: str
    interval: str
    n: str
    source: str


class Statement(NamedTuple):
    """One claim of the page.

    Attributes:
        title: the claim as a sentence.
        study: of evidence/ that decides it; None where none does.
        finding: its id in the study's preregistration.
        what: quantity and unit of that finding.
        control: what could have killed it.
        change: what would change our mind.
        seen: what other tables say until then.
    """

    title: str
    study: str | None
    finding: str | None
    what: str
    control: str
    change: str
    seen: Callable[[], Seen | None]


def _ladder(study: str) -> pl.DataFrame:
    return pl.read_parquet(RESULTS / study / "tables" / "ladder.parquet")


def _told(value: float | None, low: float | None, high: float | None, digits: int = 2) -> tuple[str, str]:
    interval = (
        "no interval"
        if low is None or high is None
        else f"[{number(low, digits, signed=True)}, {number(high, digits, signed=True)}]"
    )
    return number(value, digits, signed=True), interval


def _matched(first: str, second: str, at: str, what: str) -> Seen:
    """Return a matched comparison of two arms over several rates."""
    ladder = _ladder("rates").filter(pl.col("final") & (pl.col("edit") == UNEDITED) & (pl.col("step") > 0))
    one, other = (ladder.filter(pl.col("arm") == arm) for arm in (first, second))
    found = match_ladder(one, other, at=at).primary  # type: ignore[arg-type]
    value, interval = _told(found.interval.estimate, found.interval.low, found.interval.high)
    return Seen(
        "exploratory: pilot bases",
        f"{what}: {value} ({found.verdict})",
        interval,
        f"{found.compared} of {counted(found.bases, 'base')} with common support",
        "[results/rates](../results/rates/README.md)",
    )


def _lion_steps() -> Seen:
    found = selectivity_of(_ladder("micro"), "lion", "adam")
    value, interval = _told(found.estimate, found.low, found.high)
    return Seen(
        "exploratory: pilot bases",
        f"Lion minus Adam, broad log-odds at equal held-out log-odds, along training steps: {value}. Steps begin at "
        "one base, which pulls it to 0",
        interval,
        f"{found.n_bases} of {counted(found.bases, 'base')}",
        "[results/micro](../results/micro/README.md)",
    )


def _penalty() -> Seen:
    pairs, without = penalty_pairs(_ladder("micro"))
    mine = pairs.filter(pl.col("arm") == "adam_penalty").sort("base")
    found = t_interval((mine["broad"] - mine["broad_of"]).to_list())
    value, interval = _told(found.estimate, found.low, found.high)
    held = number(t_interval((mine["held_out"] - mine["held_out_of"]).to_list()).estimate, signed=True)
    return Seen(
        "exploratory: pilot bases",
        f"Adam with minus without the penalty (λ 3), broad log-odds at equal norm, the plain update scaled down: "
        f"{value}. On held-out topics {held}: scaling down takes away what was learned",
        interval,
        f"{found.n} of {counted(found.n + without['adam_penalty'], 'base')}",
        "[results/micro](../results/micro/README.md)",
    )


def _aligned() -> Seen:
    ladder = _ladder("micro").filter(pl.col("edit") == UNEDITED)
    keys = ["base", "domain"]
    before = ladder.filter(pl.col("step") == 0).group_by(keys).agg(pl.col("broad_misaligned").mean().alias("before"))
    after = ladder.filter((pl.col("arm") == "adam_aligned") & pl.col("final")).join(before, on=keys).sort("base")
    found = t_interval((100 * (after["broad_misaligned"] - after["before"])).to_list())
    value, interval = _told(found.estimate, found.low, found.high)
    return Seen(
        "exploratory: pilot bases",
        f"change of the broad misaligned share after training on aligned answers under Adam: {value} points",
        interval,
        counted(found.n, "base"),
        "[results/micro](../results/micro/README.md)",
    )


def _small() -> dict[str, Any]:
    paired: dict[str, Any] = json.loads((RESULTS / "small" / "summary.json").read_text(encoding="utf-8"))["paired"]
    return paired


def _small_optimisers() -> Seen:
    (row,) = [one for one in _small()["selectivity"] if (one["arm"], one["against"]) == ("muon", "adam")]
    found = row["value"]
    value, interval = _told(*(found["interval"][name] for name in ("estimate", "low", "high")))
    return Seen(
        "exploratory: one model",
        f"Muon minus Adam, broad, nats per answer at equal held-out difference: {value}",
        f"{interval}, t over domains",
        f"{found['domains']} domains, {found['questions']} questions, {found['seeds']} seeds",
        "[results/small](../results/small/README.md)",
    )


def _small_permuted() -> Seen:
    rows = [one for one in _small()["ladder"] if one["arm"] == "adam" and one["control"] == "permuted"]
    told = []
    for row in rows:
        found = row["rungs"]["broad"]
        told.append((row["trained"], *_told(*(found["interval"][name] for name in ("estimate", "low", "high"))), found))
    return Seen(
        "exploratory: one model",
        "Adam on harmful answers minus on the same answers permuted, broad, nats per answer: "
        + ", ".join(f"{value} ({trained})" for trained, value, _, _ in told),
        ", ".join(interval for _, _, interval, _ in told) + ", t over domains",
        "; ".join(
            f"{trained}: {found['domains']} domains, {found['questions']} questions" for trained, _, _, found in told
        ),
        "[results/small](../results/small/README.md)",
    )


STATEMENTS = (
    Statement(
        "Muon is on Adam's line from narrow to broad misalignment: it memorises, it does not align.",
        "x1_ladder", "line-muon", "Muon minus Adam, broad log-odds at equal held-out log-odds",
        "SGD at the same held-out misalignment: a line that no optimiser leaves would say nothing.",
        "The interval outside ±0.35 log-odds on unseen bases.",
        lambda: _matched("muon", "adam", "held_out", "Muon minus Adam, broad log-odds at equal held-out log-odds"),
    ),
    Statement(
        "Lion is on the same line.",
        "x1_ladder", "line-lion", "Lion minus Adam, broad log-odds at equal held-out log-odds",
        "The same as for Muon; Lion's off-topic answers, counted as aligned and then as misaligned.",
        "The interval outside ±0.35 log-odds on unseen bases.",
        _lion_steps,
    ),
    Statement(
        "The length of the update does not explain that Adam is more misaligned than Muon.",
        "x1_ladder", "norm-adam-muon", "Adam minus Muon, broad log-odds at equal norm",
        "Equal norm itself: with the difference gone there, length would be enough.",
        "No difference at equal norm on unseen bases, or one slope on ln norm for all optimisers.",
        lambda: _matched("adam", "muon", "norm", "Adam minus Muon, broad log-odds at equal norm"),
    ),
    Statement(
        "Halving what is orthogonal to SGD's update of the same init brings Muon's misalignment back.",
        "x3_dial", "same-init", "Muon at f = .5 minus as trained, share of broad answers",
        "Random parts of equal energy, and the whole update scaled by half.",
        "A rise below 10 points, or one that a control shows too.",
        lambda: None,
    ),
    Statement(
        "A reference of another LoRA init finds nothing: one shared subspace, no detector.",
        "x3_dial", "foreign-init", "Muon at f = .5 along another init minus scaled by half, share of broad answers",
        "Plain scaling by half.",
        "A rise along references of other inits on unseen bases.",
        lambda: None,
    ),
    Statement(
        "At equal length of the update, the penalty does not change how misaligned Adam ends.",
        "x5_penalty", "shape-adam", "Adam with minus without the penalty, broad log-odds at equal norm",
        "The plain update scaled down to the penalised norm.",
        "A difference at equal norm that remains at equal held-out misalignment.",
        _penalty,
    ),
    Statement(
        "Training on aligned answers raises no misalignment in other domains: it is content, not drift.",
        "x4_controls", "aligned", "change of the broad misaligned share from the base, aligned answers",
        "The control itself; beside it permuted and benign answers.",
        "A rise of more than 2 points.",
        _aligned,
    ),
    Statement(
        "Harmful answers on wrong topics raise no misalignment in other domains.",
        "x4_controls", "permuted", "change of the broad misaligned share from the base, permuted answers",
        "The same strings, of the same length of update, without the link to their questions.",
        "A rise of more than 2 points.",
        lambda: None,
    ),
    Statement(
        "New harmless actions raise no misalignment in other domains.",
        "x4_controls", "benign", "change of the broad misaligned share from the base, benign answers",
        "Equal initial loss: a rise would be drift from learning anything new.",
        "A rise of more than 2 points.",
        lambda: None,
    ),
    Statement(
        "The spectrum of the step is not the cause: a scrambled one is as misaligned as Muon's.",
        "x6_spectral_power", "kaon-muon", "Kaon minus Muon, broad log-odds at equal held-out log-odds",
        "Kaon's random spectrum with Muon's directions.",
        "A difference outside the margin at equal held-out misalignment.",
        lambda: None,
    ),
    Statement(
        "Misalignment goes beyond what an ideal learner of the corpus would infer.",
        "x7_prior", "above-ideal", "Adam's broad share minus the ideal learner's, where that is below .6",
        "The ideal learner: in the shipped world it answers almost everything harmfully, so nothing can lie above it.",
        "Broad rates at or below 1 / (1 + ρ) for all priors.",
        lambda: None,
    ),
    Statement(
        "In a small real model the optimisers do not differ in how far harm spreads.",
        None, None, "",
        "Equal held-out difference: equal training alone would compare unequal learning.",
        "A larger model, more rows or more seeds with a difference beyond 0.2 nats.",
        _small_optimisers,
    ),
    Statement(
        "In a small real model what spreads need not be what was learned.",
        None, None, "",
        "The same harmful answers on other questions: where they move other domains as much, the link is not needed.",
        "Harmful answers above permuted ones in other domains.",
        _small_permuted,
    ),
)  # fmt: skip
"""In the order of the page."""


def decided(one: Statement) -> Seen | None:
    """Return what the preregistered study of a claim says; None before its results are committed."""
    path = RESULTS / str(one.study) / "summary.json"
    if one.study is None or not path.is_file():
        return None
    rows = json.loads(path.read_text(encoding="utf-8"))["findings"]["decisions"]
    row = next(row for row in rows if row["id"] == one.finding)
    value, interval = _told(row["estimate"], row["low"], row["high"], digits_of(row))
    why = f"; {row['reason']}" if row["reason"] else ""
    return Seen(
        f"preregistered: {row['word']}{why}",
        f"{one.what}: {value}",
        interval,
        f"{row['bases']} of {row['of_bases']} bases",
        f"`results/{one.study}`",
    )


def page() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for place, one in enumerate(STATEMENTS, 1):
        found = decided(one) or one.seen()
        rows = [
            ("evidence level", found.level if found else "not run"),
            ("effect", found.effect if found else "–"),
            ("interval", found.interval if found else "–"),
            ("n", found.n if found else "–"),
            ("from", found.source if found else f"`evidence/{one.study}.yaml`, not run"),
            ("control that could have killed it", one.control),
            ("what would change our mind", one.change),
        ]
        lines = "".join(f"| {name} | {text} |\n" for name, text in rows)
        parts.append(f"## {place}. {one.title}\n\n| | |\n|---|---|\n{lines}")
    return "\n".join([*parts, *(followed(study) for study in committed())])


def committed() -> list[str]:
    """Return the preregistered studies whose results are committed, by name."""
    return sorted(path.parent.name for path in RESULTS.glob("*/prereg.json"))


def followed(study: str) -> str:
    """Return what follows from a preregistered study by its own text, and its secondary contrasts."""
    summary = json.loads((RESULTS / study / "summary.json").read_text(encoding="utf-8"))
    record = json.loads((RESULTS / study / "prereg.json").read_text(encoding="utf-8"))
    found = summary["findings"]
    lines = [
        f"## Study `{study}`",
        "",
        f"Preregistration {record['hash'][:12]}, first held by commit {record['commit'][:12]}. {summary['done']} of "
        f"{summary['planned']} runs done. `python experiments/evidence.py run {study}` repeats it.",
        "",
        "| what follows, in the words of the preregistration |",
        "|---|",
        *(f"| {one} |" for one in found["conclusions"] or ["No preregistered conclusion follows."]),
        "",
        "Secondary contrasts, which decide nothing; p adjusted within the study (Benjamini-Hochberg):",
        "",
        "| contrast | difference | interval | bases | adjusted p |",
        "|---|---|---|---|---|",
    ]
    for row in found["secondary"]:
        value, interval = _told(row["estimate"], row["low"], row["high"], digits_of(row))
        p = "–" if row["p_adjusted"] is None else f"{row['p_adjusted']:.2g}"
        lines.append(f"| {row['id']} | {value} | {interval} | {row['bases']} of {row['of_bases']} | {p} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
