"""Write docs/fields.md, the reference of every field of a run and of a study, from the classes that read them.

python docs/figures/field_page.py      # a test fails while the page is out of date
"""

from __future__ import annotations

import inspect
from pathlib import Path

from pydantic import BaseModel

from narrowly.records.edits import EDITS
from narrowly.records.engine_spec import ENGINES
from narrowly.records.field_table import field_rows
from narrowly.records.judged_study import JudgedSpec
from narrowly.records.objectives import Dpo, KlToBase, SailRevKl, SupervisedObjective
from narrowly.records.optimisers.registry import OPTIMISERS
from narrowly.records.penalties import PenaltySpec
from narrowly.records.prereg import (
    Conclusion,
    DifferenceRule,
    EquivalenceRule,
    Finding,
    Prereg,
    PrimaryContrast,
    RiseRule,
    SecondaryContrast,
)
from narrowly.records.run_spec import (
    AdapterSpec,
    MicroData,
    MicroOthers,
    MicroPreferences,
    PreferenceData,
    RowsData,
    RunSpec,
    ScheduleSpec,
    TextData,
)
from narrowly.records.steering import SteeringSpec
from narrowly.records.study_spec import ArmSpec, StudySpec
from narrowly.records.verdicts import Cuts

PAGE = Path(__file__).parents[1] / "fields.md"

HEAD = """\
# Every field of a run and of a study

`python docs/figures/field_page.py` writes this page from the classes that read a spec. A test fails while it is out of
date.

A spec is YAML or JSON. Dotted keys say the same as nested ones: `optimiser.lr: 1e-3`. `narrowly train --schema` and
`narrowly studies --schema` print JSON Schemas for editors. `narrowly train --init` prints a spec to begin from.
`narrowly train SPEC --dry-run` says what a run would be, and everything that is wrong with it.

The last column has the meaning, then where the default comes from. A, B+, B, C and D say how sure we are that it is the
paper's ([studies.md](studies.md)). A default without a source is ours. [sources.md](sources.md) and
[divergences.md](divergences.md) have more.
"""

OPTIMISER_HEAD = """\
## Optimisers

The field `kind` of `optimiser` chooses one. `narrowly optimisers KIND` says what it does to A, B and other parameters.
"""


def table(model: type[BaseModel]) -> str:
    """Return the fields of a spec as a Markdown table."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

    lines = ["| field | type and range | default | meaning, source of the default |", "|---|---|---|---|"]
    for row in field_rows(model):
        lines.append(f"| `{row.name}` | {cell(row.type)} | `{cell(row.default)}` | {cell(row.about)} |")
    return "\n".join(lines)


def about(model: type[BaseModel]) -> str:
    """Return the first sentence of a class, as a caption."""
    return f"{inspect.cleandoc(model.__doc__ or '').partition(chr(10))[0]}"


def section(title: str, model: type[BaseModel], level: int = 3) -> str:
    """Return one section."""
    return f"{'#' * level} {title}\n\n{about(model)}\n\n{table(model)}\n"


def page() -> str:
    """Return the whole page."""
    parts = [
        HEAD,
        section("A run", RunSpec, 2),
        *(
            section(f"`data`, source {data.model_fields['source'].default}", data)
            for data in (MicroData, TextData, RowsData, MicroPreferences, PreferenceData)
        ),
        *(
            section(f"`objective`, kind {one.model_fields['kind'].default}", one)
            for one in (SupervisedObjective, KlToBase, Dpo, SailRevKl)
            if len(one.model_fields) > 1
        ),
        section(f"`objective.data`, source {MicroOthers.model_fields['source'].default}", MicroOthers),
        section("`adapter`", AdapterSpec),
        section("`schedule`", ScheduleSpec),
        section("`penalty`", PenaltySpec),
        section("`steering`", SteeringSpec),
        OPTIMISER_HEAD,
        *(section(f"`optimiser`, kind {kind}", model) for kind, model in OPTIMISERS.items()),
        section("A study", StudySpec, 2),
        section("`arms`, by name", ArmSpec),
        *(section(f"`edits`, kind {kind}", model) for kind, model in EDITS.items()),
        *(section(f"`engine`, kind {kind}", model) for kind, model in ENGINES.items()),
        section("`judged`", JudgedSpec),
        section("`judged.cuts`", Cuts),
        section("`prereg`", Prereg),
        section("`prereg.findings`", Finding),
        section("`prereg.findings.contrast`", PrimaryContrast),
        *(
            section(f"`prereg.findings.rule`, kind {rule.model_fields['kind'].default}", rule)
            for rule in (EquivalenceRule, DifferenceRule, RiseRule)
        ),
        section("`prereg.secondary`", SecondaryContrast),
        section("`prereg.conclusions`", Conclusion),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
