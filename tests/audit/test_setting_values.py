"""What files say, brought to the type of its field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowly.audit.optimiser_names import CANONICAL, canonical_optimiser, family_of
from narrowly.audit.values import canonical_scheduler, flag, listed, number, typed_field


@pytest.mark.parametrize(
    ("text", "value"),
    [("2e-5", 2e-5), ("2.0E-5", 2e-5), (" 1e-4 ", 1e-4), ("1_000", 1000), (".5", 0.5), ("-1", -1), ("5.", 5.0)],
)
def test_numbers_as_text_are_numbers(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "value", ["1e999", "nan", "inf", "", "auto", "1e", "0x10", "1 2", True, None, float("nan"), []]
)
def test_what_is_no_finite_number_is_none(value: object) -> None:
    assert number(value) is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_as_python_writes_it_is_read_back(value: float) -> None:
    assert number(repr(value)) == value


SPELLINGS = {
    "adamw": "adamw_torch adamw_torch_fused adamw_hf torch.optim.AdamW deepspeed.ops.adam.DeepSpeedCPUAdam "
    "apex.optimizers.FusedAdam OptimizerNames.ADAMW_TORCH bnb.optim.AdamW32bit adamw_apex_fused distributed_fused_adam",
    "adamw_8bit": "adamw_8bit adamw_bnb_8bit bnb.optim.AdamW8bit bitsandbytes.optim.AdamW8bit adamw_torch_8bit",
    "paged_adamw": "paged_adamw_32bit bnb.optim.PagedAdamW",
    "paged_adamw_8bit": "paged_adamw_8bit bnb.optim.PagedAdamW8bit",
    "adam": "torch.optim.Adam adam Adam",
    "lion": "lion_32bit lion_pytorch.Lion Lion lion-pytorch",
    "lion_8bit": "lion_8bit Lion8bit",
    "galore_adamw": "galore_adamw galore_adamw_layerwise GaLoreAdamW",
    "badam": "badam BlockOptimizer",
    "adafactor": "adafactor Adafactor transformers.optimization.Adafactor",
    "muon": "muon Muon torch.optim.Muon muon.SingleDeviceMuon",
    "sgd": "sgd torch.optim.SGD",
}


@pytest.mark.parametrize(("name", "spellings"), SPELLINGS.items())
def test_spellings_have_one_canonical_name(name: str, spellings: str) -> None:
    assert {canonical_optimiser(one) for one in spellings.split()} == {name}


def test_every_name_of_transformers_optimizer_names_is_known() -> None:
    names = pytest.importorskip("transformers.training_args").OptimizerNames
    unknown = [one.value for one in names if canonical_optimiser(one.value) is None]
    assert unknown == []


def test_every_optimiser_of_torch_is_known() -> None:
    optim = pytest.importorskip("torch.optim")
    classes = [name for name, one in vars(optim).items() if isinstance(one, type) and issubclass(one, optim.Optimizer)]
    assert [name for name in classes if name != "Optimizer" and canonical_optimiser(name) is None] == []
    assert len(classes) > 10


def test_families_hold_canonical_names_only_and_do_not_overlap() -> None:
    families = [family_of(name) for name in CANONICAL]
    assert {"adam", "lion", "muon", "sgd", None} == set(families)
    assert family_of("adamuon") == "muon" and family_of("adafactor") is None and family_of(None) is None


def test_an_unknown_optimiser_keeps_its_spelling_and_its_raw() -> None:
    assert canonical_optimiser("my.Own") is None
    field = typed_field("optimiser", "my.Own", "a.yaml:1")
    assert (field.value, field.provenance) == ("my.Own", "explicit")
    known = typed_field("optimiser", "adamw_bnb_8bit", "a.yaml:1")
    assert (known.value, known.raw) == ("adamw_8bit", "adamw_bnb_8bit")


@pytest.mark.parametrize("text", ["${lr}", "{{ lr }}", "$LR", "$(cat lr)", "{lr}"])
def test_what_something_else_fills_in_is_unknown_with_the_reason(text: str) -> None:
    field = typed_field("learning_rate", text, "run.sh:3")
    assert (field.provenance, field.value, field.at) == ("unknown", None, "run.sh:3")
    assert "filled in" in field.reason


def test_what_cannot_be_read_as_its_field_is_unknown() -> None:
    assert typed_field("learning_rate", "auto", None).provenance == "unknown"
    assert typed_field("use_rslora", "maybe", None).provenance == "unknown"


def test_flags_lists_and_schedulers() -> None:
    assert [flag(one) for one in (True, "yes", "off", 1, "True", "x", 2)] == [True, True, False, True, True, None, None]
    assert listed("q_proj,k_proj") == ["q_proj", "k_proj"] == listed("['q_proj', 'k_proj']")
    assert listed("all-linear") == "all-linear" and listed(r".*\.(q|v)_proj") == r".*\.(q|v)_proj"
    assert canonical_scheduler("SchedulerType.COSINE") == "cosine" == canonical_scheduler("CosineAnnealingLR")
    assert canonical_scheduler("WarmupLR") == "WarmupLR"
