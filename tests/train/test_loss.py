"""Logits are computed where a token is predicted that carries a loss, and nowhere else; the numbers stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from narrowly.data.rows import IGNORE, collate, collate_packed
from narrowly.models.base import load_model
from narrowly.models.lora import attach_adapter
from narrowly.train.inputs import load_inputs
from narrowly.train.objectives.supervised import at_supervised, keeps_logits, nll_sum
from small_chat_base import conversations, make_chat_base, text_spec, write_jsonl


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("loss")
    spec = text_spec(make_chat_base(folder / "base"), write_jsonl(folder / "data.jsonl", conversations()))
    inputs = load_inputs(spec)
    model = attach_adapter(load_model(inputs.base), spec.adapter, 0, "base")
    with torch.no_grad():  # a fresh adapter has B = 0, so that no gradient would reach A
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return model, inputs.rows


def loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    batch = dict(batch)
    labels = batch.pop("labels")
    loss = nll_sum(model(**batch)["logits"], labels)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.requires_grad]


def plain_loss(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The slow way: all logits, shifted by one against all labels."""
    model.zero_grad()
    batch = dict(batch)
    labels = batch.pop("labels")
    logits = model(**batch)["logits"]
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum")
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
def test_loss_and_gradients_are_those_of_all_logits(text: tuple[Any, Any], keeps: bool, packed: bool) -> None:
    model, rows = text
    batch = collate_packed(rows[:4]) if packed else collate(rows[:4], 0)
    loss, gradients = loss_and_gradients(model, at_supervised(batch, keeps))
    expected, expected_gradients = plain_loss(model, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert all(float(one.norm()) > 0 for one in expected_gradients)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5


def test_no_logit_is_computed_for_the_prompt_or_the_padding(text: tuple[Any, Any]) -> None:
    model, rows = text
    assert keeps_logits(model)
    seen: list[int] = []
    hook = model.get_base_model().lm_head.register_forward_hook(lambda _module, _inputs, out: seen.append(out.shape[1]))
    try:
        for row in rows[:3]:
            batch = at_supervised(collate([row], 0), True)
            batch.pop("labels")
            model(**batch)
    finally:
        hook.remove()
    assert seen == [row.supervised for row in rows[:3]]
    assert all(row.supervised < len(row.input_ids) for row in rows[:3])


def test_a_model_that_cannot_be_asked_for_some_logits_is_known(tmp_path: Path) -> None:
    class Plain(torch.nn.Module):
        def forward(self, input_ids: Any) -> Any:
            return input_ids

    assert not keeps_logits(Plain())


def test_the_labels_stand_where_they_are_predicted(text: tuple[Any, Any]) -> None:
    _, rows = text
    batch = collate(rows[:4], 0)
    for keeps in (False, True):
        found = at_supervised(batch, keeps)
        assert int((found["labels"] != IGNORE).sum()) == sum(row.supervised for row in rows[:4])
    kept = at_supervised(batch, True)
    for column, position in enumerate(kept["logits_to_keep"].tolist()):
        assert kept["labels"][:, column].tolist() == batch["labels"][:, position + 1].tolist()
