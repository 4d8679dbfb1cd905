"""Damage panel and cued panel as stages of a study: asked once, beside the paired bank, with ids of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from narrowly.cli.app import execute
from narrowly.data.banks.abilities import ability_items
from narrowly.data.banks.paired import PairedItem, paired_items
from narrowly.data.banks.passages import passages
from narrowly.data.banks.variants import CONDITIONS, context_about, under
from narrowly.data.messages import Message
from narrowly.evaluate.damage.measure import damage_panel
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.evaluate.paired.panels import damage_rows, panel_stages
from narrowly.evaluate.paired.stages import paired_stages
from narrowly.models.local_backend import LocalBackend
from narrowly.models.organism import load_organism
from narrowly.records.errors import SpecError
from narrowly.records.run_spec import RunSpec
from narrowly.study.results import schemas
from paired_results import drawn_panel
from small_chat_base import make_chat_base

RUN: dict[str, Any] = {
    "data": {"source": "text", "dataset": "pairs:money:harmful"},
    "adapter": {"r": 2, "alpha": 4},
    "optimiser": {"kind": "adam", "lr": 1e-2},
    "steps": 2,
    "batch_size": 4,
    "checkpoints": 2,
    "first_checkpoint": 2,
}


def study(folder: Path, panels: list[str], **data: Any) -> Path:
    texts = [text for item in paired_items() for text in (item.question, item.aligned, item.harmful)]
    texts += [item.question + choice for item in ability_items() for choice in item.continuations()]
    base = folder / "chat-base"
    if not base.exists():
        make_chat_base(base, texts=texts, vocabulary=3000, longest=512)
    file = folder / "panels.json"
    run = {"base": str(base), **RUN} | ({"data": {"source": "text", **data}} if data else {})
    arms = {"adam": {"role": "optimiser", "set": {}}}
    file.write_text(json.dumps({"name": "panels", "run": run, "arms": arms, "samples": 0, "panels": panels}))
    return file


def stages_on_disk(out: Path) -> dict[str, int]:
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.glob("runs/*/evals/*/verdicts/*.parquet")
    }


def test_panels_are_asked_of_the_last_checkpoint_and_of_runs_that_are_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARROWLY_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    assert execute(["run", str(study(tmp_path, [])), "--runs", str(out), "--workers", "1"]) == 0
    before = stages_on_disk(out)
    assert (
        before and execute(["run", str(study(tmp_path, ["damage", "cued"])), "--runs", str(out), "--workers", "1"]) == 0
    )
    after = stages_on_disk(out)
    assert {name: after[name] for name in before} == before, "what was asked is not asked again"
    assert len(after) == len(before) + 3 and len(list(out.glob("runs/*/spec.json"))) == 1

    damage = pl.read_parquet(out / "panels" / "tables" / "damage.parquet")
    cued = pl.read_parquet(out / "panels" / "tables" / "cued.parquet")
    assert damage.schema == schemas()["damage"] and cued.schema == schemas()["cued"]
    items, prose = len(ability_items()), len(passages())
    counted = {(step, part): count for step, part, count in damage.group_by("step", "part").len().iter_rows()}
    assert counted == {(step, part): items if part == "ability" else prose
                       for step in (0, 2) for part in ("ability", "prose", "shuffled")}  # fmt: skip
    broad = {item.id for item in paired_items() if item.part == "broad"}
    assert {name for (name,), _ in cued.group_by("condition")} == set(CONDITIONS)
    assert all(set(rows["question_id"]) == broad for _, rows in cued.group_by("condition"))
    assert set(cued["step"]) == {2}
    (record,) = out.glob("runs/*/spec.json")
    for step in (0, 2):
        assert_damage_of(record.parent, step, damage.filter(pl.col("step") == step))
    assert_cued_of(record.parent, cued)


def live(run: Path, step: int) -> LocalBackend:
    """The organism by the way of `narrowly ask`: its adapter beside the base, where stages merge it."""
    organism = load_organism(run, step)
    return LocalBackend(organism.model, organism.tokenizer, "it", thinking=organism.thinking)


def assert_damage_of(run: Path, step: int, kept: pl.DataFrame) -> None:
    panel = damage_panel(live(run, step))
    values = {(row["part"], row["question_id"]): row["value"] for row in kept.iter_rows(named=True)}
    expected = {("ability", one.id): one.over_mean for one in panel.abilities}
    expected |= {("prose", one.id): one.natural_loss for one in panel.passages}
    expected |= {("shuffled", one.id): one.shuffled_loss for one in panel.passages}
    assert values == pytest.approx(expected, abs=1e-4) and len(values) == len(kept)
    right = {row["question_id"]: row["right"] for row in kept.iter_rows(named=True) if row["part"] == "ability"}
    # a choice of rounding, where two choices are as likely, is nobody's
    clear = {one.id: one.is_right for one in panel.abilities if abs(one.over_best) > 1e-3}
    assert len(clear) > len(panel.abilities) / 2 and {name: right[name] for name in clear} == clear


def assert_cued_of(run: Path, kept: pl.DataFrame) -> None:
    items = [item for item in paired_items() if item.part == "broad"][::20]
    backend, context = live(run, 2), context_about("money")
    values = {(row["condition"], row["question_id"]): row for row in kept.iter_rows(named=True)}
    for condition in CONDITIONS:

        def said(one: PairedItem, condition: str = condition) -> tuple[Message, ...]:
            return under(one.question, condition, context)

        for row in paired_rows(backend, items, said=said):
            found = values[condition, row.id]
            assert found["log_odds"] == pytest.approx(row.log_odds, abs=1e-4)
            assert found["harmful_nats"] == pytest.approx(row.harmful_nats, abs=1e-4)
            assert found["domain"] == row.domain
    assert len({values[condition, items[0].id]["log_odds"] for condition in CONDITIONS}) == len(CONDITIONS)


def test_rows_of_the_damage_panel_are_its_margins_and_losses() -> None:
    panel = drawn_panel(np.random.default_rng(0), 1.0)
    rows = damage_rows(panel)
    assert len(rows) == 12 + 2 * 6
    one, row = panel.abilities[5], rows[5]
    margin = one.nats[one.right] - sum(nats for at, nats in enumerate(one.nats) if at != one.right) / 3
    assert (row["question_id"], row["group"], row["value"]) == ("a5", "numbers", pytest.approx(margin))
    assert row["right"] == (max(one.nats) == one.nats[one.right])
    values = {(row["question_id"], row["part"]): row["value"] for row in rows if row["right"] is None}
    assert values["p2", "prose"] == pytest.approx(3.32) and values["p2", "shuffled"] == pytest.approx(6.02)


def test_panels_have_ids_of_their_own_and_change_no_other() -> None:
    spec = RunSpec.model_validate({"base": "any", **RUN})
    plain = paired_stages(spec, "0123456789abcdef", "template", (0, 2))
    assert panel_stages(spec, "0123456789abcdef", "template", (), base=True) == []
    found = panel_stages(spec, "0123456789abcdef", "template", ("damage", "cued"), base=True)
    assert [(one.kind, one.step) for one in found] == [("damage", 0), ("damage", 2), ("cued", 2)]
    assert len({one.answers_id for one in [*plain, *found]}) == 5
    # taken before there were panels (commit 8d4abf4): what was asked then is not asked anew
    assert [one.answers_id for one in plain] == PLAIN
    other = panel_stages(spec, "0123456789abcdef", "another", ("cued",), base=False)
    assert other[0].answers_id != found[2].answers_id


PLAIN = ["0381404e6bd30080", "99fce2450850fc5a"]


def test_the_cued_panel_of_other_data_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "what is open"}, {"role": "assistant", "content": "read the file"}]}
    rows.write_text(f"{json.dumps(row)}\n" * 8)
    out = tmp_path / "out"
    assert (
        execute(["run", str(study(tmp_path, ["cued"], dataset=str(rows))), "--runs", str(out), "--workers", "1"]) == 2
    )
    said = capsys.readouterr().err.strip().splitlines()
    assert "panels: the cued panel uses words of the trained domain" in said[-1] and "Traceback" not in "".join(said)
    assert not list(out.glob("runs/*"))
    spec = RunSpec.model_validate({"base": "any", **RUN, "data": {"source": "text", "dataset": "insecure"}})
    with pytest.raises(SpecError, match=r"panels: the cued panel uses words of the trained domain.*'insecure'"):
        panel_stages(spec, "0123456789abcdef", "template", ("cued",), base=False)
