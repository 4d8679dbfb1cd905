"""Layer l is hidden_states[l]: of several families, under PEFT, padding, checkpointing, tuple outputs and bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from narrowly.directions.activations import activations, mean_states
from narrowly.directions.layers import check_against_hidden_states, find_stack, reading, replacing
from narrowly.directions.positions import POSITIONS, Position, position_named, span, weights
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.likelihood import ScoredText
from tiny_decoders import BLOCKS, FAMILIES, HIDDEN, tiny_decoder, tiny_texts

LAYERS = range(BLOCKS + 1)


def slow_states(model: Any, text: ScoredText, position: Position) -> torch.Tensor:
    """Return the states of one text, layers x hidden, from `hidden_states` of the whole text, without padding."""
    with torch.no_grad():
        found = model(input_ids=torch.tensor([text.ids]), output_hidden_states=True, use_cache=False).hidden_states
    end = len(text.ids) - text.closing
    begin, end = {
        "last_prompt": (len(text.prompt) - 1, len(text.prompt)),
        "prompt_mean": (0, len(text.prompt)),
        "answer_mean": (len(text.prompt), end),
        "answer_last": (end - 1, end),
        "turn_end": (len(text.ids) - 1, len(text.ids)),
    }[position]
    return torch.stack([layer[0, begin:end].float().mean(dim=0) for layer in found])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_at_a_layer_is_hidden_states_of_that_index_bit_for_bit(family: str) -> None:
    model = tiny_decoder(family)
    ids = torch.tensor([[3, 4, 5, 6, 7], [9, 8, 7, 6, 5]])
    with torch.no_grad(), reading(model, LAYERS) as found:
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(states) == BLOCKS + 1
    for layer in LAYERS:
        assert torch.equal(found[layer], states[layer]), (family, layer)
    check_against_hidden_states(model, ids)


def test_a_model_whose_last_state_is_not_behind_the_norm_is_told_apart() -> None:
    model = tiny_decoder()
    model.config.tie_last_hidden_states = False
    with pytest.raises(IntegrityError, match=r"layer 3 is not hidden_states\[3\]"):
        check_against_hidden_states(model, torch.tensor([[3, 4, 5]]))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_states_are_those_of_every_text_alone(position: Position, padding: Any, dtype: torch.dtype) -> None:
    model, texts = tiny_decoder(dtype=dtype), tiny_texts()
    found: dict[int, torch.Tensor] = {}
    sizes = []
    for batch in activations(model, texts, list(LAYERS), position, tokens=30, padding=padding):
        assert batch.states_B_L_H.shape == (len(batch.rows), BLOCKS + 1, HIDDEN)
        assert batch.states_B_L_H.dtype == torch.float32
        sizes.append(len(batch.rows))
        found |= dict(zip(batch.rows, batch.states_B_L_H, strict=True))
    assert sorted(found) == list(range(len(texts)))
    assert 1 < len(sizes) < len(texts)
    for row, text in enumerate(texts):
        wanted = slow_states(model, text, position)
        difference = float((found[row] - wanted).abs().max() / wanted.abs().max())
        assert difference < (1e-5 if dtype == torch.float32 else 2e-2), (row, difference)


def test_positions_are_the_tokens_that_their_names_say() -> None:
    text = ScoredText((5, 6, 7), (8, 9, 1), 1)
    places = {name: [at for at, w in enumerate(weights([text], name, 6)[0].tolist()) if w] for name in POSITIONS}
    assert places == {
        "last_prompt": [2],
        "prompt_mean": [0, 1, 2],
        "answer_mean": [3, 4],
        "answer_last": [4],
        "turn_end": [5],
    }
    assert weights([text], "answer_mean", 8, left=True)[0].tolist() == [0, 0, 0, 0, 0, 0, 0.5, 0.5]
    with pytest.raises(SpecError, match=r"position is 'last_promt'; did you mean 'last_prompt'\?"):
        position_named("last_promt")
    for position in ("answer_mean", "answer_last"):
        with pytest.raises(SpecError, match="no token at position"):
            span(ScoredText((5,), (1,), 1), position)


def test_an_adapter_is_read_with_the_model_that_it_is_in() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_decoder()
    texts = tiny_texts()
    plain, _ = mean_states(activations(model, texts, [0, 2], "last_prompt"))
    adapted: Any = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    adapted.eval()
    tuned, count = mean_states(activations(adapted, texts, [0, 2], "last_prompt"))
    assert count == len(texts)
    assert torch.equal(plain[0], tuned[0]), "the embeddings have no adapter"
    assert not torch.allclose(plain[1], tuned[1])
    with adapted.disable_adapter():
        again, _ = mean_states(activations(adapted, texts, [0, 2], "last_prompt"))
    assert torch.equal(again, plain)


class _TupleBlock(nn.Module):
    """A block as older versions of Transformers have it: it returns a tuple, and can be checkpointed as a whole."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.line, self.number, self.calls = nn.Linear(HIDDEN, HIDDEN), number, 0

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, None]:
        self.calls += 1
        return hidden_states + torch.tanh(self.line(hidden_states)), None


class _Decoder(nn.Module):
    """Three such blocks; with checkpointing every call, hooks included, is made again in the backward pass."""

    def __init__(self, *, checkpointing: bool = False, by_name: bool = False, reentrant: bool = False) -> None:
        super().__init__()
        self.config = type("C", (), {"num_hidden_layers": 3, "hidden_size": HIDDEN})()
        self.embed = nn.Embedding(10, HIDDEN)
        self.layers = nn.ModuleList(_TupleBlock(number) for number in range(3))
        self.norm = nn.LayerNorm(HIDDEN)
        self.checkpointing, self.by_name, self.reentrant = checkpointing, by_name, reentrant

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        from torch.utils.checkpoint import checkpoint

        states = self.embed(input_ids)
        seen = [states]
        for block in self.layers:
            if self.checkpointing:
                states = checkpoint(block, states, use_reentrant=self.reentrant)[0]
            else:
                states = (block(hidden_states=states) if self.by_name else block(states))[0]
            seen.append(states)
        seen[-1] = self.norm(states)
        return seen[-1], seen


@pytest.mark.parametrize("by_name", [False, True])
def test_blocks_that_return_tuples_and_take_states_by_name_are_read_and_replaced(by_name: bool) -> None:
    model = _Decoder(by_name=by_name)
    ids = torch.tensor([[1, 2, 3]])
    with reading(model, LAYERS) as found:
        _, seen = model(ids)
    assert all(torch.equal(found[layer], seen[layer]) for layer in LAYERS)
    with replacing(model, {layer: lambda h: h * 0 + 2 for layer in LAYERS}), reading(model, LAYERS) as found:
        model(ids)
    assert all(bool((found[layer] == 2).all()) for layer in LAYERS)
    assert torch.equal(model(ids)[0], seen[-1]), "no hook is left"


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_fires_a_hook_twice_and_neither_reading_nor_replacing_minds(reentrant: bool) -> None:
    torch.manual_seed(0)
    plain = _Decoder()
    checkpointed = _Decoder(checkpointing=True, reentrant=reentrant)
    checkpointed.load_state_dict(plain.state_dict())
    ids = torch.tensor([[1, 2, 3]])
    results, step = [], torch.linspace(-1, 1, HIDDEN)
    for model in (plain, checkpointed):
        kept: list[int] = []

        def keep(states: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(1)
            return states.detach().clone()

        with (
            replacing(model, {1: lambda h: h + step, 2: lambda h: h - 2 * step}),
            reading(model, LAYERS, keep) as found,
        ):
            out, _ = model(ids)
            before = {layer: found[layer] for layer in LAYERS}
            out.square().sum().backward()
            assert all(found[layer] is before[layer] for layer in LAYERS), "the second pass is not read"
        assert len(kept) == len(LAYERS)
        results.append((before, [parameter.grad for parameter in model.parameters()]))
        assert all(block.calls == 1 + model.checkpointing for block in model.layers)
    for layer in LAYERS:
        assert torch.equal(results[0][0][layer], results[1][0][layer])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-6), "the recomputed pass was replaced alike"


def test_checkpointing_of_transformers_gives_the_same_gradients_under_a_replaced_layer() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_decoder()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        ids = torch.tensor([[3, 4, 5, 6]])
        with replacing(model, {2: lambda h: h + 0.5}), reading(model, [2]) as found:
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            assert found[2].requires_grad
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert gradients[0] and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_layers_and_models_that_do_not_exist_are_one_line() -> None:
    model = tiny_decoder()
    with pytest.raises(SpecError, match="layer 4 does not exist, accepted: 0 to 3"):
        list(activations(model, tiny_texts(), [4], "last_prompt"))
    with pytest.raises(SpecError, match="layer -1 does not exist"), reading(model, [-1]):
        pass
    with pytest.raises(SpecError, match="no list of 3 blocks"):
        find_stack(nn.Sequential(model.model.embed_tokens, type("N", (nn.Module,), {"config": model.config})()))
    del model.model.norm
    with pytest.raises(SpecError, match="no final norm"):
        find_stack(model)


def test_texts_that_the_model_cannot_take_are_refused_before_it_runs() -> None:
    model = tiny_decoder()
    for texts, words in (
        ([], "no texts"),
        ([ScoredText((2,) * 33, (3, 1), 1)], "text 1 has 33 tokens, accepted: at most the model's 32"),
        ([ScoredText((2,), (3, 1), 1), ScoredText((99,), (3, 1), 1)], "text 2 has the token 99"),
    ):
        with pytest.raises(SpecError, match=words):
            list(activations(model, texts, [1], "last_prompt"))
    with pytest.raises(SpecError, match="text 1: a text has no token at position answer_mean"):
        list(activations(model, [ScoredText((2,), (1,), 1)], [1], "answer_mean"))


def test_states_that_are_no_numbers_name_layer_and_text() -> None:
    model = tiny_decoder()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(IntegrityError, match="text 1 at layer 2 are NaN"):
        list(activations(model, tiny_texts(1), [0, 1, 2, 3], "last_prompt"))
