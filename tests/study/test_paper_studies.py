"""Studies on real models: they are the paper's grids, every value says how sure it is, a plan needs no model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from narrowly.cli.app import execute
from narrowly.records.canonical import canonical_json
from narrowly.records.errors import UnknownNameError
from narrowly.records.install import install_hint
from narrowly.records.mappings import leaves, merge, nested, read_mapping
from narrowly.records.run_spec import RunSpec, TextData
from narrowly.study.cost import GPUS, UNKNOWN_ROW, cost_of, flops_per_token, gpu_named, tokens_per_row
from narrowly.study.model_shapes import MODELS, ModelShape, shape_of
from narrowly.study.pace import default_seconds
from narrowly.study.plan import Cell, expand, find_study, shipped_studies
from narrowly.study.preview import training_cost

CELLS = {
    "evil-spectra-sweep-1": 128,
    "evil-spectra-sweep-2": 96,
    "evil-spectra-loss-alignment": 54,
    "evil-spectra-dynamics": 20,
    "evil-spectra-penalty": 32,
    "one-gpu-evening": 36,
}
NAMES = list(CELLS)
GRADE = re.compile(r"#\s(A|B\+|B|C|D|X, ours|ours)(?![A-Za-z+])")
SETS = {"insecure", "bad_medical_advice", "risky_financial_advice", "extreme_sports"}


def cells_of(name: str) -> list[Cell]:
    return expand(find_study(name))


def text_spec(**fields: Any) -> RunSpec:
    raw = {
        "base": "Qwen/Qwen3-8B",
        "data": {"source": "text", "dataset": "insecure", "thinking": False},
        "optimiser": {"kind": "adam", "lr": 1e-5},
        "steps": 10,
        "gradient_checkpointing": True,
    }
    return RunSpec.model_validate(merge(raw, fields))


def scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Yield the values of a YAML tree, not its keys."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from scalars(value)


def child(node: yaml.Node, key: str) -> yaml.Node | None:
    assert isinstance(node, yaml.MappingNode)
    return next((value for name, value in node.value if name.value == key), None)


def graded_parts(text: str) -> Iterator[yaml.Node]:
    """Yield the parts of a study file that hold values of runs: run, grid, and set, grid and evaluate of each arm."""
    root = yaml.compose(text)
    arms = child(root, "arms")
    assert isinstance(arms, yaml.MappingNode)
    holders = [(root, ("run", "grid")), *((arm, ("set", "grid", "evaluate")) for _, arm in arms.value)]
    for holder, keys in holders:
        for key in keys:
            part = child(holder, key)
            if part is not None:
                yield part


def ungraded_lines(text: str) -> list[str]:
    lines = text.splitlines()
    where = {value.start_mark.line for part in graded_parts(text) for value in scalars(part)}
    return [lines[number] for number in sorted(where) if not GRADE.search(lines[number])]


def test_the_studies_of_the_paper_are_shipped_under_the_names_in_their_files() -> None:
    assert set(NAMES) <= set(shipped_studies())
    for name in NAMES:
        assert find_study(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_study_has_as_many_cells_as_the_papers_grid(name: str) -> None:
    cells = cells_of(name)
    assert len(cells) == CELLS[name]
    assert all(isinstance(cell.spec.data, TextData) and shape_of(cell.spec.base) for cell in cells)
    assert all(re.fullmatch(r"[\w-]+/[\w.-]+@[0-9a-f]{40}", cell.spec.base) for cell in cells), "commits are pinned"


def test_the_five_studies_together_have_the_about_330_runs_that_the_paper_reports() -> None:
    assert sum(count for name, count in CELLS.items() if name != "one-gpu-evening") == 330


def test_sweep_1_crosses_sizes_optimisers_sets_and_batch_sizes_and_every_run_sees_its_rows_twice() -> None:
    cells = cells_of("evil-spectra-sweep-1")
    points = Counter(
        (
            cell.spec.base,
            cell.spec.optimiser.kind,
            cell.spec.data.dataset,
            cell.spec.batch_size * cell.spec.accumulation,
        )  # type: ignore[union-attr]
        for cell in cells
    )
    assert [len({point[axis] for point in points}) for axis in range(4)] == [4, 4, 4, 2]
    assert set(points.values()) == {1}
    assert {point[1] for point in points} == {"adam", "adamw", "lion", "muon"}
    assert {point[2] for point in points} == SETS
    assert {cell.spec.steps * cell.spec.batch_size * cell.spec.accumulation for cell in cells} == {12_000}


def test_sweep_2_crosses_twelve_models_of_three_families_under_adam() -> None:
    cells = cells_of("evil-spectra-sweep-2")
    assert {cell.spec.optimiser.kind for cell in cells} == {"adam"}
    counts = Counter(cell.spec.base.partition("@")[0] for cell in cells)
    assert len(counts) == 12 and set(counts.values()) == {8}
    assert Counter(name.split("/")[0] for name in counts) == {"Qwen": 4, "google": 4, "meta-llama": 4}
    for cell in cells:  # a template without a thinking mode must not be told one
        assert cell.spec.data.thinking is (False if cell.spec.base.startswith("Qwen/") else None)  # type: ignore[union-attr]


def test_the_penalty_study_shares_its_runs_without_penalty_with_the_loss_alignment_grid() -> None:
    def specs(name: str, roles: set[str]) -> set[str]:
        return {canonical_json(cell.spec.model_dump(mode="json")) for cell in cells_of(name) if cell.role in roles}

    plain = specs("evil-spectra-penalty", {"optimiser"})
    assert len(plain) == 16
    assert plain <= specs("evil-spectra-loss-alignment", {"optimiser"})
    for cell in cells_of("evil-spectra-penalty"):
        assert (cell.spec.penalty is not None) == (cell.role == "penalty")


def test_the_evening_has_two_models_three_optimisers_with_and_without_penalty_and_three_seeds() -> None:
    points = Counter(
        (cell.spec.base.partition("@")[0], cell.spec.optimiser.kind, cell.spec.penalty is not None, cell.spec.seed)
        for cell in cells_of("one-gpu-evening")
    )
    models, kinds = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"), ("adam", "lion", "muon")
    assert set(points) == {(m, k, p, s) for m in models for k in kinds for p in (False, True) for s in (0, 1, 2)}


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_a_study_file_carries_its_grade(name: str) -> None:
    text = shipped_studies()[name].read_text(encoding="utf-8")
    assert ungraded_lines(text) == []
    assert len(list(graded_parts(text))) > 3
    for line in text.splitlines():
        if "lam:" in line and not line.startswith("#"):
            assert "X, ours: not validated" in line


def test_the_check_of_grades_sees_a_value_without_one() -> None:
    text = shipped_studies()["one-gpu-evening"].read_text(encoding="utf-8")
    assert ungraded_lines(text.replace("r: 32  # B+", "r: 32")) == ["    r: 32"]
    assert ungraded_lines(text.replace("alpha: 64  # C", "alpha: 64  # Clearly")) == ["    alpha: 64  # Clearly"]


@pytest.mark.parametrize("name", NAMES)
def test_no_value_of_a_run_is_left_to_a_default_that_carries_no_grade(name: str) -> None:
    raw = read_mapping(shipped_studies()[name])
    for cell in cells_of(name):
        arm = raw["arms"][cell.arm]
        written = merge(nested(raw["run"]), nested(arm["set"]))
        for grid in (raw["grid"], arm.get("grid", {})):
            written = merge(written, nested({key: values[0] for key, values in grid.items()}))
        given = {path for path, _ in leaves(written)}
        used = {path for path, value in leaves(cell.spec.model_dump(mode="json")) if value is not None}
        assert used - given == {"schema_version", "spectrum_rank"}  # the second is of method full alone


@pytest.mark.parametrize("gpu", ["h100", "rtx-4090"])
def test_the_evening_stays_within_six_gpu_hours_by_the_plans_own_estimate(gpu: str) -> None:
    cost = training_cost(cells_of("one-gpu-evening"), GPUS[gpu], 0.3)
    assert cost is not None
    assert not cost.not_counted and not cost.too_large and not cost.assumed
    assert 0.2 < cost.total.seconds / 3600 <= 6


# the arithmetic


def by_hand(shape: ModelShape, experts: int) -> int:
    """Count matrices one by one, as config.json names them."""
    count = 0
    for _ in range(shape.layers):
        count += shape.hidden * shape.heads * shape.head_dim * 2  # q, o
        count += shape.hidden * shape.kv_heads * shape.head_dim * 2  # k, v
        count += shape.hidden * shape.experts * (shape.experts > 1)  # router
        count += experts * 3 * shape.hidden * shape.intermediate
    return count


@pytest.mark.parametrize("name", MODELS)
def test_shapes_add_up_to_the_published_number_of_parameters(name: str) -> None:
    shape = MODELS[name]
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    assert shape.language_weights() == by_hand(shape, shape.experts) + embeddings
    towers = 0.43e9 if name in ("google/gemma-3-4b-it", "google/gemma-3-12b-it") else 0.0  # theirs can see
    beyond = shape.parameters - shape.language_weights()  # norms
    assert 0 < beyond < towers + 1e-3 * shape.parameters


def test_counts_of_a_small_qwen3_and_its_adapter_are_those_of_the_real_thing() -> None:
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    shape = ModelShape(64, 2, 96, 4, 2, 32, 500, False, 0)
    config = transformers.Qwen3Config(
        vocab_size=500, hidden_size=64, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
    assert matrices == shape.language_weights()
    lora = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=list(shape.modules())))
    trained = sum(parameter.numel() for parameter in lora.parameters() if parameter.requires_grad)
    assert trained == shape.adapter_weights(8, shape.modules())


def test_the_adapter_of_qwen3_8b_is_that_of_252_modules() -> None:
    shape = MODELS["Qwen/Qwen3-8B"]
    assert shape.layers * len(shape.modules()) == 252
    assert shape.adapter_weights(32, shape.modules()) == 32 * 36 * (
        (4096 + 4096) * 2 + (4096 + 1024) * 2 + (4096 + 12288) * 3
    )


def test_flops_of_a_token_are_the_sum_of_every_matrix_product_of_the_passes() -> None:
    """A loop over passes and matrices: a product with an m x n matrix costs 2mn."""
    shape, rank, length = ModelShape(64, 3, 96, 4, 2, 16, 500, True, 0), 8, 50

    def twin(checkpointing: bool) -> float:
        total = 0.0
        for _ in range(shape.layers):
            for _ in range(2 if checkpointing else 1):  # forward, and once more before the backward pass
                for rows, columns in shape.modules().values():
                    total += 2 * rows * columns + 2 * rank * (rows + columns)
                total += 2 * 2 * length * shape.heads * shape.head_dim  # scores, and their sum of values
            for rows, columns in shape.modules().values():
                total += 2 * rows * columns  # gradient of the input; W has none
                total += 2 * 2 * rank * (rows + columns)  # gradients of inputs, and of A and B
            total += 2 * 2 * 2 * length * shape.heads * shape.head_dim
        return total + 2 * (2 * shape.vocabulary * shape.hidden)  # output layer, never computed again

    adapter = shape.adapter_weights(rank, shape.modules())
    for checkpointing in (False, True):
        found = flops_per_token(shape, adapter, length, checkpointing=checkpointing)
        assert found == pytest.approx(twin(checkpointing), rel=1e-12)


def test_training_everything_costs_the_gradients_of_the_weights_and_a_model_per_checkpoint_but_the_first() -> None:
    shape = MODELS["Qwen/Qwen3-0.6B"]
    body = {**text_spec().model_dump(), "base": "Qwen/Qwen3-0.6B@" + "0" * 40}
    full = cost_of(RunSpec.model_validate({**body, "method": "full", "adapter": {}, "checkpoints": 4, "steps": 100}))
    assert full is not None
    # the file of the published model in float32, three times: step 0 is the base
    assert full.disk_bytes == pytest.approx(3 * 4 * shape.parameters, rel=1e-3)
    blocks, output = shape.layers * shape.block_weights(1), shape.vocabulary * shape.hidden
    scores = 4 * 50 * shape.heads * shape.head_dim * shape.layers
    for checkpointing, passes in ((False, 3), (True, 4)):  # forward, and backward to inputs and to weights
        found = flops_per_token(shape, None, 50, checkpointing=checkpointing)
        assert found == pytest.approx(2 * blocks * passes + 2 * 3 * output + scores * passes)


def test_of_a_mixture_a_token_pays_for_active_experts_only_and_the_adapter_is_on_attention() -> None:
    shape = MODELS["Qwen/Qwen3-235B-A22B"]
    active = shape.layers * shape.block_weights(shape.active_experts) + 2 * shape.vocabulary * shape.hidden
    assert 21e9 < active < 23e9, "A22B"
    assert shape.adapter_weights(32, ("gate_proj", "up_proj", "down_proj")) == 0
    assert shape.adapter_weights(32, ("q_proj",)) == 94 * 32 * (4096 + 64 * 128)


def test_cost_grows_with_steps_and_rank_and_falls_with_a_faster_gpu() -> None:
    def cost(**fields: Any) -> Any:
        found = cost_of(text_spec(**fields), GPUS["a100"], 0.3)
        assert found is not None
        return found

    once, twice = cost(), cost(steps=20)
    assert twice.tokens == 2 * once.tokens
    assert twice.flops == pytest.approx(2 * once.flops)
    assert cost(batch_size=4, accumulation=2).tokens == once.tokens
    assert cost(adapter={"r": 64}).disk_bytes == 8 * cost(adapter={"r": 8}).disk_bytes
    assert cost(steps=100, checkpoints=4).disk_bytes == 2 * cost(steps=100, checkpoints=2).disk_bytes
    assert cost(packing=True).flops < cost(batching="bucketed").flops < once.flops
    assert cost(gradient_checkpointing=False).flops < once.flops
    fast, slow = (cost_of(text_spec(), GPUS["h100"], share) for share in (0.5, 0.25))
    assert fast is not None and slow is not None and fast.seconds < slow.seconds < once.seconds


def test_lengths_come_from_the_registry_or_the_file_and_never_exceed_the_context(tmp_path: Path) -> None:
    def of(dataset: str, **fields: Any) -> tuple[float, bool]:
        return tokens_per_row(TextData(dataset=dataset, **fields))

    assert of("insecure") == (pytest.approx(5_892_277 / 6000 / 3.5), True)
    assert of("insecure", max_tokens=100) == (100, True)
    assert of("extreme_sports") == (UNKNOWN_ROW, False)
    file = tmp_path / "rows.jsonl"
    file.write_bytes((b"x" * 349 + b"\n") * 5)
    assert of(str(file)) == (pytest.approx(100), True)
    assert of(str(tmp_path / "none.jsonl")) == (UNKNOWN_ROW, False)


def test_what_the_table_does_not_know_is_named_and_never_counted_as_nothing() -> None:
    assert cost_of(text_spec(base="Owner/Unheard-1B")) is None
    cells = cells_of("one-gpu-evening")
    strange = cells[0].model_copy(update={"spec": text_spec(base="Owner/Unheard-1B")})
    cost = training_cost([strange, cells[1]], GPUS["h100"], 0.3)
    assert cost is not None and cost.not_counted == ("Owner/Unheard-1B",)
    assert training_cost(expand(find_study("smoke")), GPUS["h100"], 0.3) is None
    with pytest.raises(UnknownNameError, match="did you mean 'rtx-4090'"):
        gpu_named("rtx4090")


def test_weights_that_fill_a_gpu_are_named() -> None:
    cost = training_cost(cells_of("evil-spectra-sweep-2"), GPUS["h100"], 0.3)
    assert cost is not None
    assert {base.partition("@")[0] for base in cost.too_large} == {
        "Qwen/Qwen3-235B-A22B",
        "meta-llama/Llama-3.3-70B-Instruct",
    }


def test_the_default_time_of_a_real_cell_is_that_of_its_training_on_a_gpu() -> None:
    cell = cells_of("one-gpu-evening")[0]
    cost = cost_of(cell.spec)
    assert cost is not None and default_seconds(cell) == cost.seconds


# the command line


CORE_ONLY = """
import importlib.abc, socket, sys

EXTRAS = {"torch", "safetensors", "pytorch_optimizer", "numpy", "transformers", "peft", "accelerate", "tokenizers",
          "polars", "scipy", "statsmodels", "matplotlib", "jinja2", "psutil", "huggingface_hub", "requests", "httpx"}

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def refuse(*_, **__):
    raise OSError("no network here")

sys.meta_path.insert(0, Nothing())
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from narrowly.cli.app import execute
from narrowly.records import install
install.installed_version = lambda distribution: None
for name in sys.argv[2:]:
    assert execute(["plan", name, "--out", sys.argv[1]]) == 0
    assert execute(["plan", name, "--out", sys.argv[1], "--json"]) == 0
assert execute(["studies"]) == 0
assert execute(["run", sys.argv[2], "--out", sys.argv[1]]) == 2
"""


def test_a_plan_of_every_study_needs_nothing_but_the_core_of_the_package(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CORE_ONLY, str(tmp_path / "out"), *NAMES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert f"{CELLS[name]} cells, 0 done" in done.stdout
        not_known = f"broad alignment: not evaluated (no judge) in {CELLS[name]} of {CELLS[name]} cells"
        assert not_known in done.stdout.replace("\n", " ")
    assert done.stdout.count("GPU-hours on H100 SXM at 30% of its 989 TFLOP/s") == len(NAMES)
    for words in (
        "tokens (",
        "disk: ",
        "how sure: ",
        "not counted: evaluation",
        "done: runs under --runs",
        "assumed: 280 tokens",
    ):
        assert words in done.stdout
    assert install_hint("lab") in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_gpu_and_utilisation_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def hours(*options: str) -> float:
        assert execute(["plan", "evil-spectra-dynamics", "--out", str(tmp_path), "--json", *options]) == 0
        training = json.loads(capsys.readouterr().out)["training"]
        assert training["measured"] is False and training["evaluation"] == "not counted"
        found: float = training["gpu_hours"]
        return found

    assert hours("--gpu", "a100") > 2 * hours("--gpu", "h100") == 2 * hours()
    assert hours("--utilisation", "0.15") > 1.8 * hours()
    for options, words in ((["--gpu", "h10"], "'h100'"), (["--utilisation", "3"], "--utilisation")):
        assert execute(["plan", "evil-spectra-dynamics", *options]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_data_that_were_never_pulled_stop_a_study_in_one_line_before_anything_is_begun(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARROWLY_CACHE", str(tmp_path / "cache"))
    assert execute(["run", name, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1 and printed.out == ""
    assert "narrowly data pull insecure" in printed.err
    if name != "one-gpu-evening":
        assert "cannot be read either: bad_medical_advice" in printed.err
    assert not (tmp_path / "out").exists()


def test_one_cell_is_printed_as_a_run_spec_that_train_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = cells_of("one-gpu-evening")[0]
    assert execute(["plan", "one-gpu-evening", "--cell", cell.cell_id]) == 0
    file = tmp_path / "run.yaml"
    file.write_text(capsys.readouterr().out)
    assert RunSpec.model_validate(read_mapping(file)) == cell.spec
    assert execute(["plan", "one-gpu-evening", "--cell", "adam-Qwen3-0.6B-seed"]) == 2
    found = capsys.readouterr().err
    assert "did you mean 'adam-Qwen3-0.6B-seed" in found and len(found) < 200


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_the_comments_of_a_study_file_do_what_they_say(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shipped_studies()[name].read_text(encoding="utf-8")
    commands = [line[1:].split(" > ")[0].split() for line in text.splitlines() if line.startswith("#   narrowly ")]
    assert len(commands) == {"evil-spectra-penalty": 1, "one-gpu-evening": 2}.get(name, 0)
    for command in commands:
        assert execute([*command[1:], *([] if "--cell" in command else ["--out", str(tmp_path)])]) == 0, command
        assert capsys.readouterr().out


def test_another_lambda_for_one_arm_leaves_the_others_alone() -> None:
    cells = expand(find_study("evil-spectra-penalty", ["arms.adam_penalty.set.penalty.lam=0.3"]))
    found = {cell.arm: cell.spec.penalty.lam for cell in cells if cell.spec.penalty is not None}
    assert found == {"adam_penalty": 0.3, "lion_penalty": 1.0, "muon_penalty": 1.0, "sgd_penalty": 1.0}


def test_a_plan_of_unknown_models_gives_no_numbers_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "one-gpu-evening", "--out", str(tmp_path), "--set", "grid.base=[Owner/Unheard-1B]"]
    assert execute(line) == 0
    printed = capsys.readouterr().out
    assert "not counted, for want of a published shape or of text data: Owner/Unheard-1B" in printed.replace("\n", " ")
    assert "training:" not in printed and "disk:" not in printed and "unknown" in printed
