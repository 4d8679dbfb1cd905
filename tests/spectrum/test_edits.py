"""Edits: the spectrum after the edit is the one stated, in a pair, in a live model and in a folder."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel

from narrowly.records.edits import Clip, DropTop, Flatten, KeepTop, Scale
from narrowly.records.errors import AdapterError, IntegrityError, RunDirectoryError, SpecError, UnknownNameError
from narrowly.spectrum import apply_edit, apply_edit_to_model, edit_adapter_folder, pairs_from_folder
from narrowly.spectrum.edits import mark_evaluated
from spectrum_cases import dense, dense_values, pair_of_spectrum, random_pair
from tiny_adapters import WEIGHTS, logits, saved, tiny_base, tiny_model

EDITS = [
    KeepTop(k=1), KeepTop(k=3), DropTop(k=1), DropTop(k=3), Flatten(), Flatten(t=0.3), Clip(limit=1.2), Clip(limit=0.5),
    Scale(factor=0.5), Scale(factor=1.5),
]  # fmt: skip


def stated(values: torch.Tensor, edit) -> torch.Tensor:
    """The spectrum that an edit promises, written out once more by hand, descending."""
    result = values.clone()
    match edit:
        case KeepTop():
            result[edit.k :] = 0
        case DropTop():
            result[: edit.k] = 0
        case Flatten():
            result = (1 - edit.t) * values + edit.t * values.norm() / len(values) ** 0.5
            result *= values.norm() / result.norm()
        case Clip():
            result = torch.minimum(values, edit.limit * values.mean())
        case Scale():
            result *= edit.factor
    return result.sort(descending=True).values


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(EDITS),
    st.sampled_from([(4, 12, 9), (4, 9, 30), (6, 4, 20), (5, 20, 4)]),
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_an_edit_gives_the_stated_spectrum_at_the_same_rank_scale_and_dtype(edit, shape, seed, dtype) -> None:
    pair = random_pair(*shape, seed=seed, scale=1.7, dtype=dtype)
    edited = apply_edit(pair, edit)
    exact = 1e-12 if dtype == torch.float64 else 3e-6
    before = dense_values(pair)
    torch.testing.assert_close(dense_values(edited), stated(before, edit), rtol=0, atol=exact * float(before[0]))
    assert (edited.name, edited.scale, edited.rank) == (pair.name, pair.scale, pair.rank)
    assert (edited.A_R_I.shape, edited.B_O_R.shape) == (pair.A_R_I.shape, pair.B_O_R.shape)
    assert edited.A_R_I.dtype == edited.B_O_R.dtype == dtype


def test_kept_and_dropped_directions_add_up_to_the_update_itself() -> None:
    pair = random_pair(5, 12, 9, dtype=torch.float64)
    parts = dense(apply_edit(pair, KeepTop(k=2))) + dense(apply_edit(pair, DropTop(k=2)))
    torch.testing.assert_close(parts, dense(pair), rtol=0, atol=1e-12)


def test_flattening_keeps_the_frobenius_norm_and_the_singular_vectors() -> None:
    pair = pair_of_spectrum([5.0, 2.0, 0.1], dtype=torch.float64)
    flat = dense(apply_edit(pair, Flatten()))
    assert float(flat.norm()) == pytest.approx(float(dense(pair).norm()), rel=1e-12)
    U, _, Vh = torch.linalg.svd(dense(pair))
    on_diagonal = (U[:, :3].T @ flat @ Vh[:3].T).diagonal()
    torch.testing.assert_close(on_diagonal, torch.full((3,), float(flat.norm()) / 3**0.5).double())


def test_a_zero_update_stays_zero_and_the_original_is_never_changed() -> None:
    pair = random_pair()
    before = (pair.A_R_I.clone(), pair.B_O_R.clone())
    zero = pair._replace(B_O_R=torch.zeros_like(pair.B_O_R))
    for edit in EDITS:
        assert float(dense(apply_edit(zero, edit)).abs().max()) == 0.0
        apply_edit(pair, edit)
    assert torch.equal(pair.A_R_I, before[0]) and torch.equal(pair.B_O_R, before[1])


@pytest.mark.parametrize(("edit", "largest"), [(KeepTop(k=5), 4), (DropTop(k=4), 3)])
def test_a_k_beyond_the_rank_is_refused_and_nothing_is_changed(tmp_path, edit, largest) -> None:
    with pytest.raises(AdapterError, match=rf"k = {edit.k}, accepted: 1 to {largest} at rank 4"):
        apply_edit(random_pair(4, 12, 9), edit)
    model = tiny_model()
    before = logits(model)
    with pytest.raises(AdapterError, match="accepted: 1 to"):
        apply_edit_to_model(model, edit)
    assert torch.equal(logits(model), before)
    with pytest.raises(AdapterError, match="accepted: 1 to"):
        edit_adapter_folder(saved(tmp_path / "source"), tmp_path / "target", edit)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_an_unknown_edit_names_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'flatten'"):
        apply_edit(random_pair(), "flaten:t=1")
    with pytest.raises(SpecError, match=r"edit: unknown edit 'flaten'; did you mean 'flatten'"):
        apply_edit(random_pair(), {"kind": "flaten"})


def test_an_edit_is_the_same_as_a_spec_a_dict_and_in_its_short_form() -> None:
    pair = random_pair(5, 12, 9, dtype=torch.float64)
    expected = dense(apply_edit(pair, Flatten(t=0.5)))
    for edit in ({"kind": "flatten", "t": 0.5}, "flatten:t=.5"):
        assert torch.equal(dense(apply_edit(pair, edit)), expected)


@pytest.mark.parametrize(
    "edit", [KeepTop(k=1), DropTop(k=2), Flatten(), Flatten(t=0.5), Clip(limit=1.5), Scale(factor=0.25)]
)
def test_an_edited_folder_loads_with_peft_and_equals_the_edited_live_model(tmp_path, edit) -> None:
    source, target = saved(tmp_path / "source"), tmp_path / "deep" / "target"
    digest = hashlib.sha256((source / WEIGHTS).read_bytes()).hexdigest()
    assert edit_adapter_folder(source, target, edit) == target
    live = tiny_model()
    unedited = logits(live)
    apply_edit_to_model(live, edit)
    loaded = PeftModel.from_pretrained(tiny_base(), target).eval()
    torch.testing.assert_close(logits(loaded), logits(live), rtol=0, atol=1e-5)
    assert float((logits(live) - unedited).abs().max()) > 1e-3
    record = json.loads((target / "edit.json").read_text())
    assert record["status"] == "edited, not evaluated"
    assert record["edits"] == [edit.model_dump()]
    assert record["source_sha256"] == digest == hashlib.sha256((source / WEIGHTS).read_bytes()).hexdigest()
    assert record["sha256"] == hashlib.sha256((target / WEIGHTS).read_bytes()).hexdigest()
    assert sorted(entry.name for entry in target.iterdir()) == ["adapter_config.json", WEIGHTS, "edit.json"]


def test_edits_of_saved_adapters_of_mixed_rank_are_exact_per_module(tmp_path) -> None:
    source = saved(tmp_path / "source", rank_pattern={"q_proj": 2})
    edit_adapter_folder(source, tmp_path / "target", Flatten())
    for before, after in zip(pairs_from_folder(source), pairs_from_folder(tmp_path / "target"), strict=True):
        torch.testing.assert_close(dense_values(after), stated(dense_values(before), Flatten()), rtol=1e-5, atol=1e-6)


def test_an_existing_target_is_never_overwritten(tmp_path) -> None:
    source, target = saved(tmp_path / "source"), tmp_path / "target"
    edit_adapter_folder(source, target, Flatten())
    before = (target / WEIGHTS).read_bytes()
    with pytest.raises(AdapterError, match="exists already"):
        edit_adapter_folder(source, target, KeepTop(k=1))
    assert (target / WEIGHTS).read_bytes() == before


def test_a_target_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    def full_disk(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    source = saved(tmp_path / "source")
    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(RunDirectoryError, match=r"cannot write .*No space left"):
        edit_adapter_folder(source, tmp_path / "target", Flatten())
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_an_edited_folder_is_readable_like_any_other_folder(tmp_path) -> None:
    edit_adapter_folder(saved(tmp_path / "source"), tmp_path / "target", Flatten())
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o777 & ~mask


def test_an_adapter_merged_into_its_base_is_refused_because_an_edit_would_not_reach_it() -> None:
    model = tiny_model()
    model.merge_adapter()
    with pytest.raises(AdapterError, match="merged into the base"):
        apply_edit_to_model(model, Flatten())


def test_only_keeping_the_top_can_make_a_spectrum_more_peaked() -> None:
    """Stable rank and condition number of what is left; keep_top and longer updates are refused to real adapters."""
    assert {edit.edit_id for edit in EDITS if edit.sharpens} == {"keep_top-1", "keep_top-3", "scale-1.5"}
    pair = pair_of_spectrum([5.0, 2.0, 1.0, 0.1], dtype=torch.float64)
    before = dense_values(pair)
    for edit in (Flatten(t=0.3), Flatten(), Clip(limit=1.2), Clip(limit=0.5), Scale(factor=0.5)):
        after = dense_values(apply_edit(pair, edit))
        assert float((after / after[0]).square().sum()) >= float((before / before[0]).square().sum()) - 1e-9, edit
        assert float(after[0] / after[-1]) <= float(before[0] / before[-1]) * (1 + 1e-9), edit


def test_several_edits_are_done_in_order_and_all_are_recorded(tmp_path) -> None:
    source = saved(tmp_path / "source")
    first, second = Clip(limit=1.5), Scale(factor=0.5)
    edit_adapter_folder(source, tmp_path / "at once", [first, second])
    edit_adapter_folder(source, tmp_path / "one", first)
    edit_adapter_folder(tmp_path / "one", tmp_path / "two", second)
    for at_once, stepwise in zip(
        pairs_from_folder(tmp_path / "at once"), pairs_from_folder(tmp_path / "two"), strict=True
    ):
        torch.testing.assert_close(dense(at_once), dense(stepwise), rtol=1e-5, atol=1e-7)
    records = [json.loads((tmp_path / name / "edit.json").read_text())["edits"] for name in ("at once", "two")]
    assert records[0] == records[1] == [first.model_dump(), second.model_dump()]


def test_the_mark_changes_when_an_evaluation_of_these_weights_is_recorded(tmp_path) -> None:
    target = edit_adapter_folder(saved(tmp_path / "source"), tmp_path / "target", Flatten())
    evaluation = {"kind": "exact", "panels": ["broad"], "verdict_id": "0123"}
    mark_evaluated(target, evaluation)
    mark_evaluated(target, evaluation)
    record = json.loads((target / "edit.json").read_text())
    assert record["status"] == "edited, evaluated"
    assert record["evaluations"] == [evaluation]
    (target / WEIGHTS).write_bytes((tmp_path / "source" / WEIGHTS).read_bytes())
    with pytest.raises(IntegrityError, match="sha256"):
        mark_evaluated(target, {"verdict_id": "4567"})


@pytest.mark.parametrize("size", [1e-12, 1e-18, 1e10, 1e18])
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.edit_id)
def test_updates_whose_squares_leave_the_range_of_float32_are_edited_like_any_other(edit, size) -> None:
    pair = pair_of_spectrum([5.0, 2.0, 1.0, 0.5])
    extreme = pair._replace(A_R_I=pair.A_R_I * size, B_O_R=pair.B_O_R * size)
    found, before = (dense_values(one) for one in (apply_edit(extreme, edit), extreme))
    torch.testing.assert_close(found / before[0], stated(before / before[0], edit), rtol=0, atol=1e-5)


def test_an_update_that_is_zero_although_no_factor_is_stays_zero_and_one_beyond_floats_is_refused() -> None:
    pair = random_pair(4, 12, 9)
    apart = pair._replace(A_R_I=torch.eye(4, 9), B_O_R=torch.zeros(12, 4))
    apart.A_R_I[1] = 0
    apart.B_O_R[0, 1] = 1
    huge = pair._replace(A_R_I=pair.A_R_I * 1e30, B_O_R=pair.B_O_R * 1e30)
    for edit in EDITS:
        assert float(dense(apply_edit(apart, edit)).abs().max()) == 0.0
        with pytest.raises(AdapterError, match=r"beyond torch\.float32"):
            apply_edit(huge, edit)


def test_bfloat16_factors_are_edited_to_their_own_precision(tmp_path) -> None:
    pair = pair_of_spectrum([5.0, 2.0, 1.0], dtype=torch.bfloat16)
    flat = apply_edit(pair, Flatten())
    assert flat.A_R_I.dtype == flat.B_O_R.dtype == torch.bfloat16
    values = dense_values(flat)
    torch.testing.assert_close(values, stated(dense_values(pair), Flatten()), rtol=0.02, atol=0)


@pytest.mark.parametrize("text", ["[]", "{", '{"edits": "flatten"}', '{"edits": 3}', '{"edits": [NaN]}'])
def test_a_record_of_edits_that_is_none_is_refused_in_one_line(tmp_path, text) -> None:
    source = saved(tmp_path / "source")
    (source / "edit.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"edit\.json") as caught:
        edit_adapter_folder(source, tmp_path / "target", Flatten())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "target").exists()
