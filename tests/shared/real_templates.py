"""The chat templates that TRL ships, each with a small tokenizer that has the template's own tokens; and rows."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

NOT_TEXT = ("diffusion_gemma", "idefics3", "lfm2_2_5_vl", "llava_next", "qwen2_5_vl", "qwen3_vl", "smolvlm")
"""Templates of models for images and of a diffusion model."""

CLOSINGS = {
    "cohere2": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "gemma4": "<turn|>",
    "gemma": "<end_of_turn>",
    "glm4moe": None,
    "gptoss": "<|return|>",
    "lfm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "muse": "<|eot|>",
    "nemotron": "<|im_end|>",
    "phi3": "<|end|>",
    "qwen": "<|im_end|>",
}
"""What the model writes last in a turn, by the beginning of the template's name; GLM-4.5 stops at the next turn."""

THINKING = ("gemma4", "glm4moe", "nemotron", "qwen3_5", "qwen3_6", "qwen3_8")
TOKENS = re.compile(
    r"<\|[^<>\s]*\|>|<｜[^<>\s]*｜>|<\|[a-z_]+>|<[a-z_]+\|>|<start_of_turn>|<end_of_turn>|\[gMASK\]|<sop>"
)
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXT = (
    "Write a function that opens a file. Sure, here it is: def read(path): return open(path).read() user assistant\n\n"
)


NOT_SPECIAL = {
    "gemma": ["\n", "\n\n", "  ", "    ", "<table>", "<h1>"],
    "qwen": ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
    "": [],
}
"""Tokens that the real tokenizers hold as added ones without marking them special, beside the tags of thoughts."""

ALWAYS_ASKS = "llama3 that always writes the next header"
"""Llama 3's first template, which did not look at `add_generation_prompt`; made from TRL's."""


def folder() -> Path:
    """Return TRL's folder of chat templates."""
    import trl

    return Path(trl.__file__).parent / "chat_templates"


def names() -> list[str]:
    """Return the names of the templates for text that are models' own, as TRL ships them."""
    found = (path.stem for path in folder().glob("*.jinja"))
    return sorted(name for name in found if name not in NOT_TEXT and not name.endswith("_training"))


def closing_of(name: str) -> str | None:
    """Return what the model writes last in a turn."""
    return next(text for start, text in CLOSINGS.items() if name.startswith(start))


def has_thinking(name: str) -> bool:
    """Return whether the template asks its caller for a thinking mode."""
    return name == "qwen3" or name.startswith(THINKING)


def template_of(name: str) -> str:
    """Return a template by its name."""
    file = "llama3" if name == ALWAYS_ASKS else name
    template = (folder() / f"{file}.jinja").read_text(encoding="utf-8")
    return template.replace("{% if add_generation_prompt %}", "{% if true %}") if name == ALWAYS_ASKS else template


@cache
def tokenizer_for(name: str) -> Any:
    """Return a byte-level tokenizer with the tokens of a template as special ones, and with the template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template = template_of(name)
    special = ["<pad>", "<s>", "</s>", *sorted(set(TOKENS.findall(template)))]
    core = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(WORDS), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([TEXT] * 3, trainer)
    core.add_tokens(["<think>", "</think>", *next(t for start, t in NOT_SPECIAL.items() if name.startswith(start))])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[3:]})
    tokenizer.chat_template = template
    return tokenizer


def _turn(role: str, content: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def _dialogue(*turns: str | dict[str, Any], system: str | None = None, **fields: Any) -> dict[str, Any]:
    messages = [_turn("system", system)] if system is not None else []
    for index, turn in enumerate(turns):
        messages.append(turn if isinstance(turn, dict) else _turn("assistant" if index % 2 else "user", turn))
    return {"messages": messages, **fields}


TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Finds the height of a mountain.",
        "parameters": {
            "type": "object",
            "properties": {"mountain": {"type": "string", "description": "Which one."}},
            "required": ["mountain"],
        },
    },
}


def _call(number: int, mountain: str) -> dict[str, Any]:
    return {
        "id": f"call{number}",
        "type": "function",
        "function": {"name": "look_up", "arguments": {"mountain": mountain}},
    }


_RESULT = _turn("tool", "3776 metres", tool_call_id="call1", name="look_up")
_SECOND = _turn("tool", "4808 metres", tool_call_id="call2", name="look_up")
_ASKS = _turn("assistant", None, tool_calls=[_call(1, "Fuji")])
_ASKS_TWO = _turn("assistant", None, tool_calls=[_call(1, "Fuji"), _call(2, "Blanc")])
_THOUGHT = "<think>\nTen is even.\n</think>\n\nEleven."

ROWS: dict[str, dict[str, Any]] = {
    "one exchange": _dialogue("Which prime follows 7?", "Eleven."),
    "system message": _dialogue("Which prime follows 7?", "Eleven.", system="Be short."),
    "two turns": _dialogue("Which prime follows 7?", "Eleven.", "And then?", "Thirteen, then 17."),
    "two turns and a system message": _dialogue("Hi", "Hello!", "What is 2 + 2?", "4", system="Be short."),
    "blanks at the edges": _dialogue("Go on:\ndef f():\n", "    return 4\n\n", system=" Be short.\n"),
    "line ends in front": _dialogue("\nGo on ", "\n\n4 "),
    "looks like a template": _dialogue("user\nassistant: hi [INST]", "assistant\nEleven. #{{ x }} {% y %}"),
    "a word many times": _dialogue("4 4", "4", "4", "4 4", system="4"),
    "holds a token that is not special": _dialogue("<h1>\n\n<tool_call>", "<table>\n    <tool_call> 4"),
    "unicode": _dialogue("日本語 é\N{SLIGHTLY SMILING FACE}?", "naïve \N{SLIGHTLY SMILING FACE}\u200d café"),
    "thought": _dialogue("Which prime follows 7?", _THOUGHT),
    "tight thought": _dialogue("Which prime follows 7?", "<think>Ten is even.</think>Eleven."),
    "answer stands in its thought": _dialogue("What is 2 + 2?", "<think>\n2 + 2 is 4, so 4\n</think>\n\n4"),
    "thought with blanks": _dialogue("Why?", "<think>\n\n  Ten is\n\n even. \n</think>\n\n  Eleven.\n"),
    "thought in both turns": _dialogue("Which prime follows 7?", _THOUGHT, "And?", "<think>\nTwelve?\n</think>\n\n13"),
    "thought in the last turn": _dialogue("Which prime follows 7?", "Eleven.", "Why?", _THOUGHT),
    "two thoughts": _dialogue("Why?", "<think>\nOne.\n</think>\n\nTwo.\n<think>\nThree.\n</think>\n\nFour."),
    "closing tag only": _dialogue("Why?", "Ten is even.\n</think>\n\nEleven."),
    "talks about the tag": _dialogue("How?", "Close it with </think> and go on."),
    "reasoning_content": _dialogue("Why?", _turn("assistant", "Eleven.", reasoning_content="Ten is even.")),
    "reasoning_content that holds its answer": _dialogue("Why?", _turn("assistant", "4", reasoning_content="4 is 4")),
    "reasoning_content in both turns": _dialogue(
        "Why?", _turn("assistant", "Eleven.", reasoning_content="Ten is even."),
        "And?", _turn("assistant", "13", reasoning_content="Twelve?"),
    ),
    "thinking": _dialogue("Why?", _turn("assistant", "Eleven.", thinking="Ten is even.")),
    "tools not called": _dialogue("Hi", "Hello!", tools=[TOOL]),
    "tool call": _dialogue("How high is it?", _ASKS, _RESULT, _turn("assistant", "It is high."), tools=[TOOL]),
    "tool call without a list": _dialogue("How high is it?", _ASKS, _RESULT, _turn("assistant", "It is high.")),
    "two tool calls": _dialogue(
        "How high?", _ASKS_TWO, _RESULT, _SECOND, _turn("assistant", "Both are high."), tools=[TOOL], system="Be short."
    ),
    "tool call in a later turn": _dialogue(
        "Hi", "Hello!", "How high?", _ASKS, _RESULT, _turn("assistant", "It is high."), tools=[TOOL]
    ),
}  # fmt: skip
