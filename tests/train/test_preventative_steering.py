"""Preventative steering: the direction acts in the passes of training and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from narrowly.directions.steering import added
from narrowly.directions.store import save
from narrowly.models.base import load_model, open_base
from narrowly.records.answers import AskedModel
from narrowly.records.directions import DirectionCard, Separability
from narrowly.records.errors import NarrowlyError
from narrowly.records.files import read_json, read_jsonl
from narrowly.records.run_spec import run_id
from narrowly.runs.directory import adapter_folder
from narrowly.train.inputs import load_inputs
from narrowly.train.observe import ObserverContext
from narrowly.train.run import train_run
from tiny_base import make_base, make_spec

Tiny = tuple[Path, Path]
HIDDEN, LAYER = 32, 1


def direction_file(folder: Path, base: Path, scale: float = 1.0) -> Path:
    """Write a direction of a base at layer 1."""
    opened = open_base(str(base))
    asked = AskedModel(
        name=opened.name, base=opened.name, base_sha256=opened.sha256, config_sha256=opened.config_sha256,
        tokenizer_sha256=opened.tokenizer_sha256, template_sha256=opened.template_sha256, dtype="float32",
    )  # fmt: skip
    known = Separability(layer=LAYER, auc=1.0, low=None, high=None, groups=1, method="none")
    card = DirectionCard(
        name="evil", kind="trait", contrast_sha256="0" * 64, model=asked, hidden=HIDDEN, top=2, layers=(LAYER,),
        layer=LAYER, position="last", made_from=("a",), held_out=(), positive=1, negative=1, norms=(1.0,), rms=(1.0,),
        separability=(known,), sha256="",
    )  # fmt: skip
    vector = scale * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(3))
    save(folder / "evil.safetensors", {LAYER: vector}, card)
    return folder / "evil.safetensors"


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(run / "trajectory.jsonl")[1:]]


def weights(run: Path) -> bytes:
    return (adapter_folder(run, "final") / "adapter_model.safetensors").read_bytes()


def test_states_are_moved_while_a_run_trains_and_nowhere_else(tiny: Tiny, tmp_path: Path) -> None:
    file = direction_file(tmp_path, tiny[0])
    seen: dict[int, torch.Tensor] = {}
    ids = torch.tensor([[1, 5, 9, 2, 7]])

    def observe(context: ObserverContext) -> dict[str, float]:
        seen[context.step] = context.model(input_ids=ids)["logits"].clone()
        return {}

    steering = {"directions": str(file), "strength": 3.0}
    run = train_run(make_spec(*tiny, steering=steering), tmp_path / "steered", observers=[observe])
    plain = train_run(make_spec(*tiny), tmp_path / "plain")
    # the first loss is that of the base whose states are moved, asked directly
    base: Any = load_model(open_base(str(tiny[0])))
    rows = load_inputs(make_spec(*tiny)).rows
    assert losses(run)[0] != pytest.approx(losses(plain)[0], rel=1e-4)
    from narrowly.data.rows import collate
    from narrowly.train.objectives.supervised import at_supervised, nll_sum
    from narrowly.train.order import row_order

    batch = at_supervised(collate([rows[i] for i in row_order(len(rows), 4, 0)], 0), False)
    labels = batch.pop("labels")
    vectors = load_inputs(make_spec(*tiny, steering=steering)).steering
    assert vectors is not None
    with torch.no_grad(), added(base, vectors, 3.0):
        expected = float(nll_sum(base(**batch)["logits"], labels)) / int((labels >= 0).sum())
    assert losses(run)[0] == pytest.approx(expected, rel=1e-5)
    # what is measured at step 0 is the base as it is
    with torch.no_grad():
        torch.testing.assert_close(seen[0], base(input_ids=ids)["logits"], rtol=1e-4, atol=1e-4)


def test_strength_0_trains_the_same_adapter_bit_for_bit_and_a_resumed_run_is_steered_too(
    tiny: Tiny, tmp_path: Path
) -> None:
    file = direction_file(tmp_path, tiny[0])
    plain = train_run(make_spec(*tiny), tmp_path)
    none = train_run(make_spec(*tiny, steering={"directions": str(file), "strength": 0.0}), tmp_path)
    assert weights(none) == weights(plain) and none.name != plain.name
    spec = make_spec(*tiny, steering={"directions": str(file), "strength": 3.0})
    whole = train_run(spec, tmp_path / "whole")
    assert weights(whole) != weights(plain)

    def stop(now: int, total: int, row: dict[str, Any]) -> None:
        if now == 3:
            raise KeyError(now)

    with pytest.raises(KeyError):
        train_run(spec, tmp_path / "killed", on_step=stop, save_every=0)
    resumed = train_run(spec, tmp_path / "killed")
    assert weights(resumed) == weights(whole) and losses(resumed) == losses(whole)


def test_the_direction_is_in_the_run_id_by_content(tiny: Tiny, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "other")]
    for folder in folders:
        folder.mkdir()
    files = [direction_file(folder, tiny[0], scale) for folder, scale in zip(folders, (1.0, 1.0, 2.0), strict=True)]
    ids = []
    for file in files:
        found = load_inputs(make_spec(*tiny, steering={"directions": str(file)}))
        assert found.spec.steering is not None and found.spec.steering.layer == LAYER  # of the card
        ids.append(run_id(found.spec, found.resolved))
    assert ids[0] == ids[1] != ids[2]
    run = train_run(make_spec(*tiny, steps=2, steering={"directions": str(files[0])}), tmp_path)
    assert len(read_json(run / "inputs.json")["steering_sha256"]) == 64


def test_directions_of_another_base_or_layer_are_refused_in_one_line(tiny: Tiny, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other-base", seed=4)
    file = direction_file(tmp_path, other)
    with pytest.raises(NarrowlyError, match="accepted: directions of the same base"):
        load_inputs(make_spec(*tiny, steering={"directions": str(file)}))
    file = direction_file(tmp_path, tiny[0])
    with pytest.raises(NarrowlyError, match="are of another layer"):
        load_inputs(make_spec(*tiny, steering={"directions": str(file), "layer": 2}))
    with pytest.raises(NarrowlyError, match="no directions in"):
        load_inputs(make_spec(*tiny, steering={"directions": str(tmp_path / "none.safetensors")}))
    with pytest.raises(ValueError, match="steering is given with objective kl_to_base"):
        kl = {"kind": "kl_to_base", "data": {"source": "rows", "path": str(tiny[1])}}
        make_spec(*tiny, steering={"directions": str(file)}, objective=kl)
