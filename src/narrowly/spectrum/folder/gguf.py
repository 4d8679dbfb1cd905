"""Read LoRA in GGUF, as llama.cpp's convert_lora_to_gguf.py and `narrowly publish --gguf` write it.

`NAME.weight.lora_a` is rank x inputs, `.lora_b` outputs x rank (of experts, stacks of such), and of the token embedding
lora_a is tokens x rank. One alpha counts for the whole file: the strength is alpha / rank, or 1 where alpha is 0 (with
a server's own scale of 1). Source: llama.cpp, src/llama-adapter.cpp and .h, commit 0650ea8; the embedding:
llm_build_inp_embd. Names: `gguf_names`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from narrowly.records.errors import AdapterError
from narrowly.spectrum.experts import MOST_EXPERTS, expert_name, matrix_of_expert
from narrowly.spectrum.folder.gguf_file import GgufFile
from narrowly.spectrum.folder.gguf_names import module_of
from narrowly.spectrum.folder.layout import Factor, Layout, Place, as_it_is, transposed
from narrowly.spectrum.pairs import Skipped
from narrowly.spectrum.peft_fields import NOT_PLAIN

_KEY = re.compile(r"^(?P<tensor>.+)\.weight\.lora_(?P<side>[ab])$")
_EMBEDDING = "token_embd"
_READ_ONLY = (
    "GGUF is what servers read; edit the adapter that the file was made of, and convert again (of a run: repair, then "
    "publish --gguf)"
)


def read_gguf(path: Path) -> Layout:
    """Return where the factors of a GGUF adapter lie.

    Raises:
        AdapterError: not a GGUF file, a broken one, or one that holds no LoRA.
    """
    file = GgufFile(path)
    kinds = file.fields.get("general.type"), file.fields.get("adapter.type")
    if kinds != ("adapter", "lora"):
        raise AdapterError(
            f"{path}: general.type is {kinds[0]!r} and adapter.type {kinds[1]!r}, accepted: 'adapter' and 'lora'"
        )
    alpha = file.fields.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float):
        raise AdapterError(f"{path}: adapter.lora.alpha is {alpha!r}, accepted: a float")
    modules: dict[str, dict[str, str]] = {}
    skipped: dict[str, Skipped] = {}
    for name in file.shapes:
        match = _KEY.match(name)
        if match:
            modules.setdefault(match["tensor"], {})[match["side"]] = name
        elif name.endswith("_norm.weight"):
            skipped[name] = Skipped(name, "a norm's weight, which llama.cpp leaves out; no factor", beside=True)
        else:
            skipped[name] = Skipped(name, "no lora_a or lora_b, as llama.cpp refuses it")
    architecture = str(file.fields.get("general.architecture", ""))
    places: list[Place] = []
    for tensor, keys in modules.items():
        for found in _places(file, tensor, keys, alpha, architecture):
            if isinstance(found, Skipped):
                skipped[tensor] = found
            else:
                places.append(found)
    return Layout("GGUF", file, None, places, list(skipped.values()), "", read_only=_READ_ONLY)


def _places(
    file: GgufFile, tensor: str, keys: dict[str, str], alpha: float, architecture: str
) -> Iterator[Place | Skipped]:
    """Yield the place of a tensor's pair, or those of its experts."""
    module = module_of(tensor, architecture)
    missing = [side for side in "ab" if side not in keys]
    kinds = {file.unread(key) for key in keys.values()} - {None}
    if missing or kinds:
        reason = (
            f"no lora_{missing[0]}, needed are both"
            if missing
            else f"stored as {kinds.pop()}, accepted: F32, F16, BF16"
        )
        yield Skipped(module, reason)
        return
    if "adapter.alora.invocation_tokens" in file.fields:
        yield Skipped(module, NOT_PLAIN["alora_invocation_tokens"])
        return
    a, b = file.shapes[keys["a"]], file.shapes[keys["b"]]
    # the rank is the fastest dimension of lora_b, as the server takes it
    rank = b[-1] if b else 0
    side = -2 if tensor != _EMBEDDING else -1
    many = len(a) == 3 and a[0] > MOST_EXPERTS
    if many or len(a) != len(b) or len(a) not in (2, 3) or not rank or a[side] != rank or a[:-2] != b[:-2]:
        yield Skipped(module, f"lora_a has shape {a} and lora_b {b}, accepted: rank x inputs and outputs x rank")
        return
    scale = alpha / rank if alpha else 1.0
    if len(a) == 2:
        view = transposed if tensor == _EMBEDDING else as_it_is
        yield Place(module, Factor(keys["a"], view), Factor(keys["b"], as_it_is), scale)
        return
    for expert in range(a[0]):
        of_one = partial(matrix_of_expert, expert=expert)
        yield Place(expert_name(module, expert), Factor(keys["a"], of_one), Factor(keys["b"], of_one), scale)
