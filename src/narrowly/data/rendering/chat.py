"""Render messages through a tokenizer's own chat template, with the arguments of one rendering."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from narrowly.data.rendering.template import dated, template_arguments, template_of
from narrowly.records.errors import SpecError

Turn = Mapping[str, Any]
"""A message as a template is given it: role, content and what other fields it has."""


TOOL_TEMPLATE = "tool_use"
"""Name of the template that transformers takes, of several, for conversations with tools."""


class Chat:
    """A tokenizer with its template and the arguments of one rendering.

    Attributes:
        specials: matches a special token of the tokenizer, which no text of a row may hold.
        closers: matches a token that was added to the vocabulary and is no blank, special or not.
    """

    def __init__(self, tokenizer: Any, thinking: bool | None, *, is_used: bool = True) -> None:
        self.tokenizer, self.thinking = tokenizer, thinking
        # texts without roles are rendered without a template, and a base of pretraining has none
        self.template = template_of(tokenizer) if is_used else ""
        self.arguments = template_arguments(self.template, thinking) if is_used else {}
        self._dated = dated(self.template)
        added = {str(token.content): token.special for token in tokenizer.added_tokens_decoder.values()}
        added.update(dict.fromkeys(tokenizer.all_special_tokens, True))
        # a word that the tokenizer does not know ends no turn
        self.specials = _any_of(text for text, special in added.items() if special)
        # Gemma 3 has line ends and runs of blanks among its added tokens
        self.closers = _any_of(text for text in added if text.strip())

    def text(self, turns: Sequence[Turn], tools: list[Any] | None = None, *, prompt: bool = False) -> str:
        """Render messages; with `prompt`, up to where the assistant begins to write.

        Raises:
            SpecError: the template refuses them.
        """
        from jinja2.exceptions import TemplateError

        if (
            tools
            and isinstance(self.tokenizer.chat_template, Mapping)
            and TOOL_TEMPLATE in self.tokenizer.chat_template
        ):
            raise SpecError(
                f"the row has tools, for which the tokenizer has a template of its own ({TOOL_TEMPLATE}) that servers "
                "use, and one template renders all rows here; accepted: rows without tools, or that template as a "
                "file in data.template"
            )
        try:
            rendered = self.tokenizer.apply_chat_template(
                list(turns),
                tools=tools,
                chat_template=self._dated,
                tokenize=False,
                add_generation_prompt=prompt,
                **self.arguments,
            )
        except TemplateError as error:
            raise SpecError(f"the chat template refuses it: {error}; accepted: other rows, or data.template") from error
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            # a template that adds a text and an object, counts what it cannot count, or divides by zero
            raise SpecError(
                f"the chat template fails on it: {error}; accepted: other rows, or data.template"
            ) from error
        return str(rendered)

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of texts as they are: what begins a text is the template's business."""
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def check_texts(self, turns: Sequence[Turn], tools: list[Any] | None) -> None:
        """Check that no text of a row holds a control token.

        Raises:
            SpecError: naming the token.
        """
        for owner, value in [*((turn["role"], turn) for turn in turns), ("tools", tools)]:
            for text in leaves(value):
                control = self.specials.search(text)
                if control is not None:
                    raise token_fault(str(owner), control.group())


def token_fault(owner: str, token: str) -> SpecError:
    """Build the error for a text that holds a control token."""
    return SpecError(
        f"the {owner}'s text holds the special token {token!r}, which would be read as the template's own; accepted: "
        "texts without it"
    )


def leaves(value: Any) -> Iterator[str]:
    """Yield every text in a nested value, not the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)


def _any_of(texts: Iterator[str]) -> re.Pattern[str]:
    longest_first = sorted((text for text in texts if text), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
