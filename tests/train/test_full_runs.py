"""Method full: the whole base is trained; its checkpoints are models, its spectrum is that of W - W0."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from test_resume import killed_everywhere
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from narrowly.data.rows import read_rows
from narrowly.models.full import StoredTensors
from narrowly.models.organism import load_organism, recorded_spectrum
from narrowly.records.errors import (
    AdapterError,
    IntegrityError,
    OptimiserError,
    RunDirectoryError,
    SpecError,
    UnknownNameError,
)
from narrowly.records.files import read_json, read_jsonl
from narrowly.records.run_spec import ALL_LINEAR, ResolvedInputs, RunSpec, run_id
from narrowly.runs.directory import adapter_folder
from narrowly.train.order import row_order
from narrowly.train.run import train_run
from plain_loop import answer_nll, clip, rate
from small_chat_base import TEMPLATE, conversations, make_chat_base, write_jsonl
from tiny_base import make_rows, make_spec, only_run

Tiny = tuple[Path, Path]

ADAMW: dict[str, Any] = {"kind": "adamw", "lr": 3e-3, "weight_decay": 0.1}
MUON: dict[str, Any] = {"kind": "muon", "lr": 1e-2, "other": {"kind": "adamw", "lr": 3e-3}}


def full_spec(tiny: Tiny, **fields: Any) -> RunSpec:
    return make_spec(*tiny, **{"method": "full", "adapter": {}, "optimiser": ADAMW, **fields})


def trained(run: Path, step: int) -> dict[str, torch.Tensor]:
    return dict(load_file(run / f"checkpoints/step-{step}/model.safetensors"))


def start_of(tiny: Tiny) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(tiny[0] / "model.safetensors").items()}


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(full_spec(tiny), tmp_path_factory.mktemp("full"))


def plain_full_train(spec: RunSpec) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """The obvious twin: plain loop, torch's own optimisers, one AdamW for what Muon leaves (found by hand below)."""
    rows = read_rows(Path(spec.data.path))  # type: ignore[union-attr]
    model: Any = AutoModelForCausalLM.from_pretrained(spec.base, dtype=torch.float32)
    model.train()
    named = dict(model.named_parameters())
    linear = {f"{path}.weight" for path, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)}
    hidden = {f"model.{name}" for name in linear} & named.keys() if spec.optimiser.kind == "muon" else set()
    of_adamw = spec.optimiser.other if hidden else spec.optimiser  # type: ignore[union-attr]
    adamw = torch.optim.AdamW(
        [parameter for name, parameter in named.items() if name not in hidden],
        lr=of_adamw.lr, betas=(of_adamw.beta1, of_adamw.beta2), eps=of_adamw.eps, weight_decay=of_adamw.weight_decay,
    )  # fmt: skip
    momenta = {name: torch.zeros_like(named[name]) for name in hidden}
    per_step = spec.batch_size * spec.accumulation
    order = row_order(len(rows), spec.steps * per_step, spec.seed)
    losses, norms = [], []
    for step in range(spec.steps):
        batch = [rows[i] for i in order[step * per_step : (step + 1) * per_step]]
        tokens = sum(label != -100 for row in batch for label in row.labels)
        loss = torch.stack([answer_nll(model, row) for row in batch]).sum() / tokens
        share = rate(spec, step) / spec.optimiser.lr
        adamw.param_groups[0]["lr"] = share * of_adamw.lr
        model.zero_grad()
        loss.backward()
        norms.append(clip(list(model.parameters()), spec.max_grad_norm))
        adamw.step()
        with torch.no_grad():
            for name, momentum in momenta.items():
                muon_step(named[name], momentum, share * spec.optimiser.lr, spec.optimiser)
        losses.append(float(loss.detach()))
    return losses, norms, {name: parameter.detach() for name, parameter in named.items()}


def muon_step(W: torch.nn.Parameter, momentum: torch.Tensor, lr: float, spec: Any) -> None:
    """Jordan's Muon, matrix by matrix in float64: five Newton-Schulz steps on the whole matrix."""
    assert W.grad is not None
    momentum.lerp_(W.grad, 1 - spec.momentum)
    X = momentum.lerp(W.grad, 1 - spec.momentum).double()
    wide = X if X.shape[0] <= X.shape[1] else X.T
    wide = wide / wide.norm()
    for _ in range(5):
        S = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * S + 2.0315 * S @ S) @ wide
    step = wide if X.shape[0] <= X.shape[1] else wide.T
    W.sub_(lr * max(1.0, W.shape[0] / W.shape[1]) ** 0.5 * step.float())


@pytest.mark.parametrize("optimiser", [ADAMW, MUON], ids=lambda fields: fields["kind"])
@pytest.mark.parametrize(
    "batch", [{"batch_size": 4}, {"batch_size": 2, "accumulation": 2, "max_grad_norm": 0.5}], ids=str
)
def test_a_full_run_equals_the_plain_loop_step_by_step_and_in_every_parameter(
    optimiser: dict[str, Any], batch: dict[str, Any], tiny: Tiny, tmp_path: Path
) -> None:
    spec = full_spec(tiny, optimiser=optimiser, schedule={"kind": "cosine", "warmup_steps": 2}, **batch)
    run = train_run(spec, tmp_path)
    losses, norms, expected = plain_full_train(spec)
    rows = read_jsonl(run / "trajectory.jsonl")[1:]
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=2e-4)
    assert [row["grad_norm"] for row in rows] == pytest.approx(norms, rel=2e-3)
    found, start = trained(run, 6), start_of(tiny)
    assert found.keys() == expected.keys() == start.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name] - start[name],
            tensor - start[name],
            rtol=2e-2,
            atol=5e-5,
            msg=lambda text, n=name: f"{n}: {text}",
        )


def test_at_step_0_the_model_is_the_base_no_copy_is_stored_and_the_spectrum_is_empty(run: Path, tiny: Tiny) -> None:
    assert [path.name for path in (run / "checkpoints/step-0").iterdir()] == ["spectrum.json"]
    first, base = load_organism(run, 0), AutoModelForCausalLM.from_pretrained(tiny[0], dtype=torch.float32)
    ids = torch.tensor([make_rows(1)[0].input_ids])
    assert torch.equal(first.model(input_ids=ids).logits, base(input_ids=ids).logits)
    for row in recorded_spectrum(run, 0):
        assert row["frobenius_norm"] == row["spectral_norm"] == row["nuclear_norm"] == 0.0
        assert row["stable_rank"] is row["spectral_entropy"] is row["frobenius_nuclear"] is None
        assert set(row["singular_values"]) == {0.0}
    zero = read_jsonl(run / "trajectory.jsonl")[0]
    assert zero["update_norm"] == 0.0 and zero["stable_rank"] is None


def test_the_first_loss_is_that_of_the_base(run: Path, tiny: Tiny) -> None:
    spec, base = full_spec(tiny), AutoModelForCausalLM.from_pretrained(tiny[0], dtype=torch.float32)
    rows = read_rows(tiny[1])
    batch = [rows[i] for i in row_order(len(rows), spec.steps * 4, spec.seed)[:4]]
    tokens = sum(label != -100 for row in batch for label in row.labels)
    expected = sum(float(answer_nll(base, row).detach()) for row in batch) / tokens
    assert read_jsonl(run / "trajectory.jsonl")[1]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("step", [2, 6])
def test_the_spectrum_is_that_of_a_dense_svd_of_the_difference_in_float64(step: int, run: Path, tiny: Tiny) -> None:
    now, start = trained(run, step), start_of(tiny)
    rows = recorded_spectrum(run, step)
    assert [row["module"] for row in rows] == [
        name.removesuffix(".weight") for name in dict(Qwen3ForCausalLM.from_pretrained(tiny[0]).named_parameters())
        if name.split(".")[-2] in ALL_LINEAR
    ]  # fmt: skip
    total = 0.0
    for row in rows:
        s = torch.linalg.svdvals(now[f"{row['module']}.weight"].double() - start[f"{row['module']}.weight"].double())
        assert row["singular_values"] == pytest.approx(s.tolist(), rel=1e-6, abs=1e-7 * float(s[0]))
        assert row["rank"] == len(s) and row["frobenius_norm"] == pytest.approx(float(s.norm()))
        p = s / s.sum()
        assert row["spectral_entropy"] == pytest.approx(float(-(p * p.log()).sum()), rel=1e-6)
        assert row["stable_rank"] == pytest.approx(float((s / s[0]).square().sum()))
        assert row["frobenius_nuclear"] == pytest.approx(float(s.norm() / s.sum()))
        assert row["nuclear_norm"] == pytest.approx(float(s.sum()))
        total += float(s.square().sum())
    assert read_jsonl(run / "trajectory.jsonl")[step]["update_norm"] == pytest.approx(total**0.5)


def test_target_modules_name_the_spectra_and_change_no_parameter(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    two = train_run(full_spec(tiny, adapter={"target_modules": ["q_proj", "down_proj"]}), tmp_path)
    assert {row["kind"] for row in recorded_spectrum(two)} == {"q_proj", "down_proj"}
    assert all(torch.equal(tensor, trained(two, 6)[name]) for name, tensor in trained(run, 6).items())


def test_a_checkpoint_is_a_model_folder_with_its_tokenizer_and_without_machine_paths(run: Path, tiny: Tiny) -> None:
    folder = run / "checkpoints/step-6"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert AutoTokenizer.from_pretrained(folder).chat_template == AutoTokenizer.from_pretrained(tiny[0]).chat_template
    organism = load_organism(run)
    ids = torch.tensor([make_rows(1)[0].input_ids])
    logits = organism.model(input_ids=ids).logits
    assert torch.equal(logits, model(input_ids=ids).logits)
    with organism.base_model() as base:
        assert not torch.allclose(logits, base(input_ids=ids).logits)
    assert str(tiny[0].parent).encode() not in b"".join(p.read_bytes() for p in folder.glob("*.json"))
    assert len({p.stat().st_mode for p in folder.iterdir()}) == 1


def test_every_parameter_moves_and_a_tied_embedding_is_trained_once(run: Path, tiny: Tiny) -> None:
    now, start = trained(run, 6), start_of(tiny)
    assert "lm_head.weight" not in now
    assert all(not torch.equal(tensor, start[name]) for name, tensor in now.items())


def test_an_untied_base_trains_its_head_as_other_and_reads_w0_from_shards(tiny: Tiny, tmp_path: Path) -> None:
    base = shutil.copytree(tiny[0], tmp_path / "base")
    config = Qwen3Config.from_pretrained(base)
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    (base / "model.safetensors").unlink()
    Qwen3ForCausalLM(config).save_pretrained(base, max_shard_size="50KB")
    assert (base / "model.safetensors.index.json").is_file()
    config_file = base / "config.json"
    config_file.write_text(json.dumps({**read_json(config_file), "_name_or_path": "/home/somebody/base"}))
    spec = full_spec((base, tiny[1]), optimiser=MUON, adapter={"target_modules": [*ALL_LINEAR, "lm_head"]})
    run = train_run(spec, tmp_path / "runs")
    start, now = StoredTensors(base), trained(run, 6)
    assert set(start) == set(now)
    assert read_json(run / "checkpoints/step-6/config.json").keys() == read_json(config_file).keys() - {"_name_or_path"}
    row = next(row for row in recorded_spectrum(run) if row["kind"] == "lm_head")
    s = torch.linalg.svdvals(now["lm_head.weight"].double() - start["lm_head.weight"].double())
    assert row["singular_values"] == pytest.approx(s.tolist(), rel=1e-5, abs=1e-7 * float(s[0]))


def test_tensors_that_are_no_parameters_are_in_the_checkpoint_too(tiny: Tiny, tmp_path: Path) -> None:
    """Gemma 4 stores a scale per layer as a buffer: without it, no checkpoint of a run would load."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    base = shutil.copytree(tiny[0], tmp_path / "base")
    (base / "model.safetensors").unlink()
    sizes = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "global_head_dim": 8, "num_kv_shared_layers": 0}
    model: Any = Gemma4ForCausalLM(Gemma4TextConfig(**sizes, **heads, hidden_size_per_layer_input=0))
    model.model.layers[1].layer_scalar.fill_(0.5)
    model.save_pretrained(base)

    def on_step(step: int, total: int, row: dict[str, Any]) -> None:
        if step == 3:
            raise StopError

    with pytest.raises(StopError):
        train_run(full_spec((base, tiny[1])), tmp_path / "a", on_step=on_step)
    resumed, whole = (train_run(full_spec((base, tiny[1])), tmp_path / name) for name in "ab")
    assert float(load_organism(whole).model.model.layers[1].layer_scalar) == 0.5  # type: ignore[union-attr, index, arg-type]
    assert trained(whole, 6).keys() == load_file(base / "model.safetensors").keys()
    assert read_json(whole / "done")["model_sha256"] == read_json(resumed / "done")["model_sha256"]


def test_a_base_in_float64_begins_with_no_update(tiny: Tiny, tmp_path: Path) -> None:
    base = shutil.copytree(tiny[0], tmp_path / "base")
    exact = {name: tensor.double() * (1 + 1e-12) for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(exact, base / "model.safetensors", {"format": "pt"})
    run = train_run(full_spec((base, tiny[1]), steps=1, checkpoints=2), tmp_path / "runs")
    assert read_jsonl(run / "trajectory.jsonl")[0]["update_norm"] == 0.0


class StopError(Exception):
    pass


@pytest.mark.parametrize(
    "optimiser", [ADAMW, MUON, {"kind": "schedulefree_adamw", "lr": 1e-2}], ids=lambda fields: fields["kind"]
)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_full_run_resumes_bit_for_bit(
    stop: int, optimiser: dict[str, Any], tiny: Tiny, tmp_path: Path
) -> None:
    def on_step(step: int, total: int, row: dict[str, Any]) -> None:
        if step == stop:
            raise StopError

    def files(folder: Path) -> dict[str, bytes]:
        unlike = {"environment.json", "done", "speed.jsonl"}
        return {
            str(p.relative_to(folder)): p.read_bytes()
            for p in folder.rglob("*")
            if p.is_file() and p.name not in unlike
        }

    spec = full_spec(tiny, optimiser=optimiser)
    with pytest.raises(StopError):
        train_run(spec, tmp_path / "a", on_step=on_step)
    resumed, whole = train_run(spec, tmp_path / "a"), train_run(spec, tmp_path / "b")
    assert files(resumed) == files(whole)
    assert not list(resumed.rglob("resume*")) and not list(resumed.rglob(".unfinished-*"))
    recorded = read_json(whole / "done")["model_sha256"]
    assert sorted(recorded) == ["2", "6"] and recorded == read_json(resumed / "done")["model_sha256"]


def test_a_model_that_was_exchanged_is_not_loaded(run: Path, tmp_path: Path) -> None:
    done = shutil.copytree(run, tmp_path / "copy" / run.name)
    shutil.copyfile(run / "checkpoints/step-2/model.safetensors", done / "checkpoints/step-6/model.safetensors")
    with pytest.raises(IntegrityError, match="the run's record says"):
        load_organism(done)


def test_a_full_disk_leaves_no_half_model_and_the_run_goes_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_tensors(value: Any, path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full_tensors)
        with pytest.raises(RunDirectoryError, match=r"cannot write .*step-2: .*No space left on device"):
            train_run(full_spec(tiny), tmp_path)
    stopped = only_run(tmp_path)
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["step-0"]
    assert (train_run(full_spec(tiny), tmp_path) / "done").is_file()


def full_state(value: Any, stream: Any) -> None:
    """As torch 2.13 meets a full disk."""
    stream.write(b"half")
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904


@pytest.mark.parametrize("room", [10_000, None])
def test_a_disk_too_small_for_the_resume_state_is_said_once_and_the_run_goes_on(
    room: int | None, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little is left for it, or it is full before all is written."""
    lines: list[str] = []
    if room is not None:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, room))  # type: ignore[attr-defined]
    else:
        monkeypatch.setattr(torch, "save", full_state)
    run = train_run(full_spec(tiny), tmp_path, say=lines.append, save_every=0)
    assert (run / "done").is_file() and not (run / "resume").exists()
    (line,) = lines
    assert line.startswith("the state of step ") and line.endswith(
        "; training goes on, and a stop would fall back to step 0"
    )
    if room is not None:
        assert "takes 0.32" in line and "its disk has 0.01 MB left" in line
    else:
        assert "No space left on device" in line


def test_what_needs_an_adapter_says_that_there_is_none(run: Path) -> None:
    with pytest.raises(AdapterError, match=r"trained the whole model \(method full\) and has no adapter; accepted"):
        adapter_folder(run, "final")
    with pytest.raises(AdapterError, match="has no adapter"):
        load_organism(run, "final", "flatten")


def test_a_base_whose_file_does_not_hold_what_is_loaded_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Under another prefix transformers still loads it; W0 would then be read from nowhere."""
    base = shutil.copytree(tiny[0], tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    save_file({name.removeprefix("model."): tensor for name, tensor in weights.items()}, base / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    train_run(make_spec(base, tiny[1], steps=1, checkpoints=2), tmp_path / "lora")
    with pytest.raises(SpecError, match=r"is not in its safetensors as transformers loads it, so W - W0 is not known"):
        train_run(full_spec((base, tiny[1])), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_an_unknown_target_module_is_named(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'q_proj'"):
        train_run(full_spec(tiny, adapter={"target_modules": ["q_porj"]}), tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adapter": {"r": 4}}, r"adapter\.r is 4 with method full, which has no adapter"),
        ({"adapter": {"dropout": 0.1}}, r"adapter\.dropout is 0\.1 with method full"),
        ({"penalty": {"lam": 0.1}}, "penalty is given with method full, accepted: method lora"),
        ({"base_dtype": "bfloat16"}, "base_dtype is bfloat16 with method full, accepted: float32"),
        ({"optimiser": {"kind": "muon", "lr": 0.01}}, "muon with method full needs `other`"),
        ({"optimiser": {"kind": "lora_muon", "lr": 0.01}}, "lora_muon with method full: it moves the product BA"),
        ({"optimiser": {"kind": "lora_rite", "lr": 0.01}}, "lora_rite with method full"),
        ({"optimiser": {"kind": "muon_B_adam_A", "lr": 0.01}}, "muon_B_adam_A with method full"),
        ({"optimiser": {"kind": "spectral_power", "lr": 0.01}}, "spectral_power with method full"),
        ({"optimiser": {"kind": "kaon", "lr": 0.01}}, "kaon with method full"),
        ({"optimiser": {"kind": "adam", "lr": 0.01, "lora_plus_ratio": 4}}, "lora_plus_ratio is 4 with method full"),
        ({"method": "lora", "spectrum_rank": 4}, "spectrum_rank is given with method lora"),
        ({"method": "fully"}, "method"),
    ],
)
def test_what_goes_with_no_full_run_is_refused_by_name(fields: dict[str, Any], message: str, tiny: Tiny) -> None:
    with pytest.raises(ValidationError, match=message):
        full_spec(tiny, **fields)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "lion", "ademamix", "adafactor", "prodigy", "soap"])
def test_every_other_optimiser_trains_the_whole_model(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    fields = {"d0": 1e-3} if kind == "prodigy" else {"lr": 0.1 if kind == "adafactor" else 1e-3}
    spec = full_spec(tiny, optimiser={"kind": kind, **fields}, steps=2, checkpoints=2, gradient_checkpointing=True)
    run = train_run(spec, tmp_path)
    start = start_of(tiny)
    assert all(bool(t.isfinite().all()) and not torch.equal(t, start[n]) for n, t in trained(run, 2).items())


def test_the_id_of_a_lora_run_is_what_it_was_before_there_was_a_method(tiny: Tiny) -> None:
    inputs = ResolvedInputs(
        base_sha256="a" * 64, config_sha256="b" * 64, tokenizer_sha256="c" * 64, template_sha256="d" * 64,
        data_sha256="e" * 64,
    )  # fmt: skip
    spec = RunSpec.model_validate({"optimiser": {"kind": "adam", "lr": 6e-4}})
    assert run_id(spec, inputs) == "c04f65b99ecb5763"
    ids = {run_id(full_spec(tiny, **fields), inputs) for fields in ({}, {"spectrum_rank": 4}, {"seed": 1})}
    assert len(ids | {run_id(spec, inputs)}) == 4


def test_muon_refuses_a_whole_model_without_other_also_when_no_spec_of_a_run_was_asked(tiny: Tiny) -> None:
    from narrowly.optim import build_optimizer
    from narrowly.records.optimisers.registry import MuonSpec

    model = Qwen3ForCausalLM.from_pretrained(tiny[0])
    with pytest.raises(OptimiserError, match=r"other trainable parameters: model\.embed_tokens\.weight.* give `other`"):
        build_optimizer(MuonSpec(lr=0.1), model)


def test_the_spectrum_command_shows_what_the_run_recorded_and_says_what_is_truncated(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from narrowly.cli.app import execute

    assert execute(["spectrum", str(run), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["modules"] == recorded_spectrum(run) and shown["skipped"] == []
    assert shown["summary"]["update_norm"] == pytest.approx(read_jsonl(run / "trajectory.jsonl")[6]["update_norm"])
    copy = shutil.copytree(run, tmp_path / run.name)
    rows = recorded_spectrum(run)
    for row in rows[:3]:
        row.update(leading_singular_values=row.pop("singular_values")[:2], spectral_entropy=None, nuclear_norm=None,
                   condition_number=None, frobenius_nuclear=None)  # fmt: skip
    (copy / "checkpoints/step-6/spectrum.json").write_text(json.dumps(rows))
    assert execute(["spectrum", str(copy), "--figure", str(tmp_path / "x.svg")]) == 2
    assert "3 modules have the leading ones only" in capsys.readouterr().err
    assert execute(["spectrum", str(copy)]) == 0
    text = capsys.readouterr().out
    assert "3 of 14 modules have their 2 leading singular values only" in text
    assert "spectral_entropy -" in text and not (tmp_path / "x.svg").exists()
    (copy / "checkpoints/step-6/spectrum.json").write_text('[{"module": "x"}]')
    assert execute(["spectrum", str(copy)]) == 2
    assert "does not hold the spectra of modules" in capsys.readouterr().err


def test_a_full_run_killed_at_many_moments_and_resumed_is_the_same_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    killed_everywhere(tiny, tmp_path, every=17, settings="full")


def test_on_text_a_checkpoint_has_the_template_of_the_run_and_the_held_out_loss_starts_at_the_bases(
    tmp_path: Path,
) -> None:
    base = make_chat_base(tmp_path / "chat-base")
    write_jsonl(tmp_path / "data.jsonl", conversations())
    template = TEMPLATE + "{# of the run #}"
    (tmp_path / "own.jinja").write_text(template)
    data = {"source": "text", "dataset": str(tmp_path / "data.jsonl"), "holdout": 5, "max_tokens": 128}
    data["template"] = str(tmp_path / "own.jinja")
    spec = full_spec((base, tmp_path), data=data, steps=3, checkpoints=2)
    run = train_run(spec, tmp_path / "runs")
    assert AutoTokenizer.from_pretrained(run / "checkpoints/step-3").chat_template == template
    first, last = (read_jsonl(run / "trajectory.jsonl")[step]["heldout_loss"] for step in (0, 3))
    lora = train_run(make_spec(base, tmp_path, data=data, steps=3, checkpoints=2), tmp_path / "runs")
    assert first == read_jsonl(lora / "trajectory.jsonl")[0]["heldout_loss"] != last
