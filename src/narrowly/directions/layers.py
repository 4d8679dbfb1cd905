"""Read and replace the hidden states of a live model, by hooks in front of its blocks.

A state is taken where the next block gets it, not where the block before gives it: what a block returns may be a tuple,
and its index in the list of blocks is one less than that of its state in `hidden_states`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from narrowly.records.errors import IntegrityError, SpecError

NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")
"""What the norm behind the last block is called beside the blocks, in Transformers 5."""

Change = Callable[[Tensor], Tensor]


class Stack(NamedTuple):
    """The blocks of a model and what stands around them.

    Attributes:
        decoder: the module that calls the blocks; it takes `input_ids` and computes no logits.
        blocks: in order.
        norm: behind the last block.
    """

    decoder: nn.Module
    blocks: tuple[nn.Module, ...]
    norm: nn.Module

    @property
    def top(self) -> int:
        """Return the last layer: the number of blocks, whose states have passed the final norm."""
        return len(self.blocks)


def text_config(model: Any) -> Any:
    """Return the config of the text part of a model of Transformers."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def find_stack(model: nn.Module) -> Stack:
    """Find the blocks of a causal language model of Transformers, bare or inside PEFT, DDP and the like.

    Raises:
        SpecError: no list of as many modules as the config has layers, or no norm of a known name beside it.
    """
    inner = next((one for one in model.modules() if hasattr(one, "config") and hasattr(one, "forward")), model)
    count = int(getattr(text_config(inner), "num_hidden_layers", 0))
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == count > 0:
                names = dict(module.named_children())
                norm = next((names[name] for name in NORMS if name in names), None)
                if norm is None:
                    raise SpecError(
                        f"model {type(inner).__name__} has {', '.join(names)} beside its blocks and no final norm "
                        f"among them; accepted: one of {', '.join(NORMS)}"
                    )
                return Stack(module, tuple(child), norm)
    raise SpecError(
        f"model {type(inner).__name__} has no list of {count} blocks; accepted: a decoder of Transformers whose blocks "
        "stand in one list"
    )


def check_layers(layers: Sequence[int], top: int) -> None:
    """Refuse layers that a model does not have.

    Raises:
        SpecError: naming the layer and those that exist.
    """
    for layer in layers:
        if not 0 <= layer <= top:
            raise SpecError(f"layer {layer} does not exist, accepted: 0 to {top} (0 is what the first block gets)")


@contextmanager
def reading(model: nn.Module, layers: Sequence[int], keep: Change | None = None) -> Iterator[dict[int, Tensor]]:
    """Give a mapping that holds the states of chosen layers after each forward pass of the model.

    Each pass of the decoder empties it first. What fires again while a backward pass recomputes a block (activation
    checkpointing) is left out, so that the states are those of the pass.

    Args:
        model: a causal language model, in any mode; gradients are those of the caller's context.
        layers: 0 to the number of blocks.
        keep: what is kept of a state of shape (batch, tokens, hidden); by default all of it.

    Raises:
        SpecError: no such layer, or no blocks that can be found.
    """
    stack = find_stack(model)
    check_layers(layers, stack.top)
    found: dict[int, Tensor] = {}

    def take(layer: int, states_B_T_H: Tensor) -> None:
        if layer not in found:
            found[layer] = states_B_T_H if keep is None else keep(states_B_T_H)

    with ExitStack() as hooks:
        forget = stack.decoder.register_forward_pre_hook(lambda *_: found.clear(), prepend=True)
        hooks.callback(forget.remove)
        for layer in layers:
            hooks.callback(_hook(stack, layer, partial(take, layer), prepend=False))
        yield found


@contextmanager
def replacing(model: nn.Module, changes: dict[int, Change]) -> Iterator[None]:
    """Replace the states of chosen layers by a function of them, until the context ends.

    What `reading` finds inside is what was replaced, whichever context was entered first. Under activation
    checkpointing the recomputed pass is replaced alike.

    Args:
        model: a causal language model, in any mode.
        changes: by layer, a function from states to states of the same shape and dtype.

    Raises:
        SpecError: no such layer, or no blocks that can be found.
    """
    stack = find_stack(model)
    check_layers(list(changes), stack.top)
    with ExitStack() as hooks:
        for layer, change in changes.items():
            hooks.callback(_hook(stack, layer, change, prepend=True))
        yield


def _hook(stack: Stack, layer: int, act: Callable[[Tensor], Tensor | None], *, prepend: bool) -> Callable[[], None]:
    """Let a function see the states of a layer, and replace them where it returns some; return how to end it."""

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        new = act(states)
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    def behind(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        new = act(states)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    if layer < stack.top:
        return stack.blocks[layer].register_forward_pre_hook(before, with_kwargs=True, prepend=prepend).remove
    return stack.norm.register_forward_hook(behind, prepend=prepend).remove


def check_against_hidden_states(model: Any, input_ids_B_T: Tensor) -> None:
    """Compare what is read at every layer with `hidden_states` of the same pass, bit for bit.

    Args:
        model: a causal language model in eval mode.
        input_ids_B_T: tokens without padding; a handful are enough.

    Raises:
        IntegrityError: a layer is not `hidden_states[l]`, so that no result could name its layer.
    """
    import torch

    stack = find_stack(model)
    layers = range(stack.top + 1)
    with torch.no_grad(), reading(model, layers) as found:
        states = model(input_ids=input_ids_B_T, output_hidden_states=True, use_cache=False).hidden_states
    if len(states) != stack.top + 1:
        raise IntegrityError(f"the model returns {len(states)} hidden states, expected {stack.top + 1}, one per layer")
    for layer in layers:
        read, told = found[layer], states[layer]
        same = (read == told) | (
            read.isnan() & told.isnan()
        )  # states that are no numbers are refused by who reads them
        if not bool(same.all()):
            raise IntegrityError(
                f"what is read at layer {layer} is not hidden_states[{layer}] of this model; accepted: a decoder whose "
                "blocks pass the states on as they are, with one norm behind the last"
            )
