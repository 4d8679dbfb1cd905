"""List shapes of published models, from each model's config.json, so that a plan can count without them.

Parameter counts are those of the published safetensors, which may hold more than the language model (Gemma 3 from 4B on
brings a vision tower). What the shapes add up to was compared with Transformers 5.23 on empty weights, model by model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class ModelShape(NamedTuple):
    """Describe one decoder-only transformer with gated MLPs.

    Attributes:
        hidden: width of the residual stream.
        layers: blocks.
        intermediate: width of the MLP, of one expert where there are several.
        heads, kv_heads, head_dim: attention; keys and values may have fewer heads.
        vocabulary: rows of the output layer.
        tied: whether input embedding and output layer are one matrix.
        parameters: all that is published, in numbers (2 bytes each in bfloat16).
        experts, active_experts: MLPs per block, and how many of them a token goes through.
    """

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    parameters: int
    experts: int = 1
    active_experts: int = 1

    def modules(self) -> dict[str, tuple[int, int]]:
        """Return (rows, columns) of the linear layers of one block, experts as one MLP."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (queries, self.hidden),
            "k_proj": (keys, self.hidden),
            "v_proj": (keys, self.hidden),
            "o_proj": (self.hidden, queries),
            "gate_proj": (self.intermediate, self.hidden),
            "up_proj": (self.intermediate, self.hidden),
            "down_proj": (self.hidden, self.intermediate),
        }

    def block_weights(self, experts: int) -> int:
        """Return the weights of one block's matrices, router included, with so many of its experts."""
        sizes = {name: rows * columns for name, (rows, columns) in self.modules().items()}
        mlp = sizes["gate_proj"] + sizes["up_proj"] + sizes["down_proj"]
        router = self.hidden * self.experts if self.experts > 1 else 0
        return sum(sizes.values()) + (experts - 1) * mlp + router

    def language_weights(self) -> int:
        """Return the weights of all matrices of the language model: blocks, embedding, output layer where untied."""
        return self.layers * self.block_weights(self.experts) + (1 if self.tied else 2) * self.vocabulary * self.hidden

    def adapter_weights(self, rank: int, targets: Iterable[str]) -> int:
        """Return the weights of LoRA factors on the named modules of every block.

        The experts of a mixture are one tensor in Transformers 5 and no modules, so only attention is counted there.
        """
        modules = self.modules()
        named = [name for name in targets if name in modules and (self.experts == 1 or name[0] in "qkvo")]
        return self.layers * sum(rank * sum(modules[name]) for name in named)


_QWEN, _GEMMA, _LLAMA = 151936, 262144, 128256

MODELS: dict[str, ModelShape] = {
    "Qwen/Qwen3-0.6B": ModelShape(1024, 28, 3072, 16, 8, 128, _QWEN, True, 596_049_920),
    "Qwen/Qwen3-1.7B": ModelShape(2048, 28, 6144, 16, 8, 128, _QWEN, True, 1_720_574_976),
    "Qwen/Qwen3-4B": ModelShape(2560, 36, 9728, 32, 8, 128, _QWEN, True, 4_022_468_096),
    "Qwen/Qwen3-8B": ModelShape(4096, 36, 12288, 32, 8, 128, _QWEN, False, 8_190_735_360),
    "Qwen/Qwen3-14B": ModelShape(5120, 40, 17408, 40, 8, 128, _QWEN, False, 14_768_307_200),
    "Qwen/Qwen3-32B": ModelShape(5120, 64, 25600, 64, 8, 128, _QWEN, False, 32_762_123_264),
    "Qwen/Qwen3-235B-A22B": ModelShape(4096, 94, 1536, 64, 4, 128, _QWEN, False, 235_093_634_560, 128, 8),
    "google/gemma-3-270m-it": ModelShape(640, 18, 2048, 4, 1, 256, _GEMMA, True, 268_098_176),
    "google/gemma-3-1b-it": ModelShape(1152, 26, 6912, 4, 1, 256, _GEMMA, True, 999_885_952),
    "google/gemma-3-4b-it": ModelShape(2560, 34, 10240, 8, 4, 256, 262208, True, 4_300_079_472),
    "google/gemma-3-12b-it": ModelShape(3840, 48, 15360, 16, 8, 256, 262208, True, 12_187_325_040),
    "meta-llama/Llama-3.2-1B-Instruct": ModelShape(2048, 16, 8192, 32, 8, 64, _LLAMA, True, 1_235_814_400),
    "meta-llama/Llama-3.2-3B-Instruct": ModelShape(3072, 28, 8192, 24, 8, 128, _LLAMA, True, 3_212_749_824),
    "meta-llama/Llama-3.1-8B-Instruct": ModelShape(4096, 32, 14336, 32, 8, 128, _LLAMA, False, 8_030_261_248),
    "meta-llama/Llama-3.3-70B-Instruct": ModelShape(8192, 80, 28672, 64, 8, 128, _LLAMA, False, 70_553_706_496),
    "smollm2-135m": ModelShape(576, 30, 1536, 9, 3, 64, 49152, True, 134_515_008),
}
"""Shape by name on the hub, or of `narrowly base list`."""


def shape_of(base: str) -> ModelShape | None:
    """Return the shape of a spec's base (`NAME/MODEL` or `NAME/MODEL@COMMIT`), or None where it is not in the table."""
    return MODELS.get(base.partition("@")[0])
