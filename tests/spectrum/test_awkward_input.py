"""Input that is legal but odd, or hostile in other ways than a broken file: sizes, dtypes, numbers, a cut write."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from narrowly.records.edits import DropTop, Flatten, KeepTop, Scale
from narrowly.records.errors import AdapterError, SpecError, TrainingError
from narrowly.spectrum import (
    SpectralPenalty,
    apply_edit,
    pairs_from_folder,
    singular_values,
    spectral_penalty,
    spectrum_metrics,
    spectrum_summary,
    spectrum_table,
)
from spectrum_cases import dense, dense_values, live, pair_of_spectrum, random_pair
from tiny_adapters import CONFIG, WEIGHTS, change_config, change_tensors, saved


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_every_edit_works_where_the_rank_exceeds_one_or_both_sides_of_the_module(rank, outputs, inputs, seed) -> None:
    pair = random_pair(rank, outputs, inputs, seed=seed, dtype=torch.float64)
    values = dense_values(pair)
    count = len(values)
    kept, flat, half = apply_edit(pair, KeepTop(k=1)), apply_edit(pair, Flatten()), apply_edit(pair, Scale(factor=0.5))
    assert kept.A_R_I.shape == pair.A_R_I.shape
    assert kept.B_O_R.shape == pair.B_O_R.shape
    tolerance = {"rtol": 1e-7, "atol": 1e-9 * float(values[0])}
    torch.testing.assert_close(dense_values(kept)[0], values[0], **tolerance)
    torch.testing.assert_close(dense_values(kept)[1:], torch.zeros(count - 1).double(), **tolerance)
    torch.testing.assert_close(dense_values(flat), torch.full_like(values, values.norm() / count**0.5), **tolerance)
    torch.testing.assert_close(dense(half), dense(pair) / 2, **tolerance)
    if count > 1:
        dropped = apply_edit(pair, DropTop(k=1))
        torch.testing.assert_close(dense(kept) + dense(dropped), dense(pair), **tolerance)


def test_scale_one_and_a_full_keep_top_leave_the_update_as_it_is() -> None:
    pair = random_pair(4, 12, 9, dtype=torch.float64)
    for edit in (Scale(factor=1.0), KeepTop(k=4)):
        torch.testing.assert_close(dense(apply_edit(pair, edit)), dense(pair), rtol=1e-12, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)))
def test_the_summary_does_not_depend_on_the_order_of_the_modules(order) -> None:
    pairs = [random_pair(3, 8, 7, seed=s) for s in range(4)]
    one = spectrum_summary(spectrum_table(pairs))
    other = spectrum_summary(spectrum_table([pairs[i] for i in order]))
    assert other == pytest.approx(one, rel=1e-12)


def test_a_negative_scale_counts_by_its_size() -> None:
    pair = random_pair(scale=-3.0)
    torch.testing.assert_close(singular_values(pair).double(), dense_values(pair), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dense(apply_edit(pair, Scale(factor=1.0))), dense(pair), rtol=1e-4, atol=1e-4)


def test_a_condition_number_made_of_rounding_does_not_exist() -> None:
    """Float32 leaves a last value around 1e-8 where the true one is 0; the quotient would be noise."""
    pair = random_pair(4, 30, 20)
    deficient = pair._replace(B_O_R=pair.B_O_R.clone())
    deficient.B_O_R[:, 3] = deficient.B_O_R[:, :3].sum(1)
    assert float(singular_values(deficient)[-1]) > 0
    metrics = spectrum_metrics(singular_values(deficient))
    assert metrics.condition_number is None
    assert metrics.stable_rank is not None
    assert spectrum_metrics(torch.tensor([1.0, 1e-5])).condition_number == pytest.approx(1e5, rel=1e-4)


@pytest.mark.parametrize("values", [[], [1.0, -0.1], [1.0, math.nan], [math.inf]])
def test_metrics_refuse_what_is_no_spectrum(values) -> None:
    with pytest.raises(AdapterError, match="accepted: at least one finite value, none negative"):
        spectrum_metrics(values)


def test_an_update_beyond_float32_names_its_module_instead_of_a_solver() -> None:
    """What a diverged run looks like: both factors finite, their product not."""
    huge = random_pair(name="model.layers.1.mlp.up_proj")
    huge = huge._replace(A_R_I=huge.A_R_I * 1e25, B_O_R=huge.B_O_R * 1e25)
    with pytest.raises(AdapterError, match=r"layers\.1\.mlp\.up_proj: B @ A is NaN or beyond torch\.float32"):
        spectrum_table([random_pair(), huge])
    torch.testing.assert_close(singular_values(huge, torch.float64), dense_values(huge), rtol=1e-9, atol=0)
    exact = huge._replace(A_R_I=huge.A_R_I.double(), B_O_R=huge.B_O_R.double())
    found = float(SpectralPenalty([live(huge)], lam=1.0).seed_gradients())  # Gram matrices in float64 bear it
    assert found == pytest.approx(float(SpectralPenalty([live(exact)], lam=1.0).value()))


@pytest.mark.parametrize("lam", [True, "0.1", None])
def test_a_lambda_that_is_no_number_is_refused_in_one_line(lam) -> None:
    with pytest.raises(SpecError, match=r"penalty lambda is .*, accepted: a finite number"):
        SpectralPenalty([random_pair()], lam=lam)


@pytest.mark.parametrize("side", ["A_R_I", "B_O_R"])
def test_a_nan_in_training_is_never_read_as_no_penalty(side) -> None:
    pairs = [live(random_pair(seed=1)), live(random_pair(seed=2, name="model.layers.1.mlp.up_proj"))]
    penalty = SpectralPenalty(pairs, lam=1.0)
    paper = SpectralPenalty(pairs, lam=1.0, form="cholesky_g1")
    with torch.no_grad():
        getattr(pairs[1], side).fill_(math.nan)
    for value in (penalty.value(), penalty.seed_gradients()):
        assert math.isnan(float(value))
        with pytest.raises(TrainingError, match=r"the spectral penalty is nan: model\.layers\.1\.mlp\.up_proj"):
            penalty.checked(value)
    for call in (paper.value, paper.seed_gradients, lambda: spectral_penalty(pairs)):
        with pytest.raises(AdapterError, match=r"model\.layers\.1\.mlp\.up_proj"):
            call()


@pytest.mark.parametrize("form", ["gram", "cholesky_g1"])
def test_lambda_zero_trains_bit_for_bit_as_no_penalty_while_a_small_one_does_not(form) -> None:
    inputs = torch.randn(6, 9, generator=torch.Generator().manual_seed(3))

    def train(lam: float | None) -> torch.Tensor:
        pair = live(pair_of_spectrum([3.0, 1.0, 0.5, 0.2]))
        penalty = None if lam is None else SpectralPenalty([pair], lam=lam, form=form)
        optimizer = torch.optim.Adam([pair.A_R_I, pair.B_O_R], lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            if penalty is not None:
                penalty.seed_gradients()
            (inputs @ pair.A_R_I.T @ pair.B_O_R.T).square().mean().backward()
            optimizer.step()
        return pair.B_O_R.detach()

    assert torch.equal(train(0.0), train(None))
    assert not torch.equal(train(1e-3), train(None))


# ------------------------------------------------------------------------------------------------- folders


def test_one_byte_floats_are_refused_by_name(tmp_path) -> None:
    folder = saved(tmp_path / "adapter")
    change_tensors(folder, **{"0__self_attn__q_proj__lora_A__weight": lambda tensor: tensor.to(torch.float8_e4m3fn)})
    with pytest.raises(AdapterError, match=r"q_proj: lora_A has .*float8_e4m3fn, accepted: a matrix of floats"):
        pairs_from_folder(folder)


@pytest.mark.parametrize("start", ["pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_starts_that_change_the_base_weights_are_refused(tmp_path, start) -> None:
    folder = saved(tmp_path / "adapter")
    change_config(folder, init_lora_weights=start)
    with pytest.raises(AdapterError, match=f"init_lora_weights is '{start}'"):
        pairs_from_folder(folder)


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_base_alone_are_accepted(tmp_path, start) -> None:
    folder = saved(tmp_path / "adapter")
    change_config(folder, init_lora_weights=start)
    assert len(pairs_from_folder(folder)) == 14


@pytest.mark.parametrize("alpha", ["1" + "0" * 400, "1" + "0" * 6000, "0", "-8", '"8"', "true", "null", "NaN"])
def test_an_alpha_that_is_no_usable_number_is_refused_in_one_line(tmp_path, alpha) -> None:
    folder = saved(tmp_path / "adapter")
    config = json.loads((folder / CONFIG).read_text()) | {"lora_alpha": "ALPHA"}
    (folder / CONFIG).write_text(json.dumps(config).replace('"ALPHA"', alpha))
    with pytest.raises(AdapterError, match=r"lora_alpha of .* is|is not valid JSON"):
        pairs_from_folder(folder)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from narrowly.records.edits import Flatten
from narrowly.records.errors import RunDirectoryError
from narrowly.spectrum import edit_adapter_folder
import safetensors.torch
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    edit_adapter_folder(Path(sys.argv[1]), Path(sys.argv[2]), Flatten())
except RunDirectoryError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on file sizes")
def test_a_write_that_the_system_cuts_short_leaves_nothing_and_is_one_line(tmp_path) -> None:
    """A limit on file size stands for a full disk: safetensors reports both as an error of its own."""
    source = saved(tmp_path / "adapter")
    where = tmp_path / "edits"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(source), str(where / "flat")],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert [path for path in Path(where).rglob("*") if path.is_file()] == []
    assert list(where.iterdir()) == []


def test_dora_is_refused_by_its_config_alone(tmp_path) -> None:
    folder = saved(tmp_path / "adapter")
    change_config(folder, use_dora=True)
    with pytest.raises(AdapterError, match=r"down_proj: DoRA: .*accepted: plain LoRA or rsLoRA"):
        pairs_from_folder(folder)


def test_a_pattern_names_whole_parts_of_a_module_path(tmp_path) -> None:
    folder = saved(tmp_path / "adapter", use_rslora=False)
    change_config(folder, alpha_pattern={"roj": 80, "1.mlp.up_proj": 16})
    scales = {pair.name: pair.scale for pair in pairs_from_folder(folder)}
    assert {name for name, scale in scales.items() if scale != 2.0} == {"model.layers.1.mlp.up_proj"}
    assert scales["model.layers.1.mlp.up_proj"] == 4.0


def test_two_tensors_for_one_factor_are_refused(tmp_path) -> None:
    folder = saved(tmp_path / "adapter")
    tensors = load_file(folder / WEIGHTS)
    key = next(key for key in tensors if key.endswith("lora_A.weight"))
    save_file(tensors | {key.removeprefix("base_model.model."): tensors[key].clone()}, folder / WEIGHTS)
    with pytest.raises(AdapterError, match="two tensors for lora_A, accepted: one adapter per folder"):
        pairs_from_folder(folder)


@pytest.mark.parametrize(
    "pattern",
    [
        "([a-z_.0-9]+)+!",
        "a" * 200 + ".*",
        r"(x)\1",
        "(a|aa)*b",
        "a{2}{3}",
        ".*" * 20 + "x",
        ".*.*a?.*.*x",
        "a?" * 30 + "a" * 30,
    ],
)
def test_a_pattern_that_could_run_for_ever_is_refused_and_not_tried(tmp_path, pattern):
    from narrowly.spectrum.folder.peft_numbers import matches

    with pytest.raises(AdapterError, match="could run for ever"):
        matches(tmp_path, pattern, "model.layers.0.self_attn.q_proj." + "a" * 60)


def test_an_ordinary_pattern_still_matches(tmp_path):
    from narrowly.spectrum.folder.peft_numbers import matches

    assert matches(tmp_path, r"model\.layers\.[0-3]\..*q_proj", "model.layers.2.self_attn.q_proj")
    assert not matches(tmp_path, r"layers\.(1|3)\.self_attn\.q_proj", "model.layers.2.self_attn.q_proj")
