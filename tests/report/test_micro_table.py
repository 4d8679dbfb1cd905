"""The script behind README.md and docs/microworld.md writes the numbers of a summary, each with its interval."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from narrowly.analysis.frames import read_frames
from narrowly.analysis.summary import summarise
from synthetic import make_tables, write_tables

SCRIPT = Path(__file__).parents[2] / "docs" / "figures" / "micro_table.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("micro_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    tables = write_tables(tmp_path_factory.mktemp("study"), make_tables(hostile=False))
    return summarise(read_frames(tables), {"name": "micro", "ideal_broad": 0.998}).as_json()


def test_the_ladder_leads_with_selectivity_and_has_the_held_out_rung(script, summary):
    lines = script.ladder(summary)
    assert lines[0].startswith("| optimiser | selectivity | trained topics | held-out topics | broad |")
    muon = next(line for line in lines if line.startswith("| Muon"))
    found = summary["ladder"]["muon"]["selectivity"]
    assert f"{found['estimate']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]" in muon
    held = summary["ladder"]["muon"]["misaligned"]["held_out"]
    assert f"{100 * held['estimate']:.1f} [{100 * held['low']:.1f}, {100 * held['high']:.1f}]" in muon
    assert "| Adam | the reference |" in "\n".join(lines)


def test_every_other_part_is_written_with_intervals_or_reasons(script, summary):
    text = {part: "\n".join(getattr(script, part)(summary)) for part in
            ("beside", "statements", "contrasts", "penalties", "edits", "regressions", "claims")}  # fmt: skip
    assert "excess loss, trained | excess loss, held-out" in text["beside"] and "not tested (" in text["beside"]
    assert "broad_minus_held_out" in text["contrasts"] and "at_most_15_percent" in text["contrasts"]
    assert "norm ratio" in text["penalties"] and "scaled" in text["edits"] and "within" in text["regressions"]
    assert "ideal learner, broad misaligned: 0.998" in text["statements"]
    assert text["claims"].startswith("claims of the paper that this design can test: 7 of 15")
    whole = "\n".join(text.values())
    assert not re.search(r"[-+]0\.?0*(?![\d.])", whole) and not re.search(r"\bnan\b|None", whole)
