"""Use a tokenizer's own chat template strictly: its thinking mode said, every message shown, no stray control token.

A template is code from a model repository; transformers runs it in Jinja's sandbox, with plain data only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from narrowly.data.messages import Message
from narrowly.records.errors import SpecError

THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Names under which templates ask for their thinking mode (Qwen3, GLM; DeepSeek V3.1, Granite)."""

TEMPLATE_DATE = "26 Jul 2024"
"""The date that templates with a `date_string` are given, the Llama 3 templates' own fallback: with the day of the
run in every prompt, a run resumed tomorrow would be another run."""

NO_TEMPLATE = (
    "the tokenizer has no chat template, and none is guessed; put the model's own into the base's folder as "
    "chat_template.jinja, or give a file with data.template"
)


def template_of(tokenizer: Any) -> str:
    """Return the chat template of a tokenizer (of several, the one named `default`).

    Raises:
        SpecError: there is none; the message says how to give one.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise SpecError(f"the tokenizer has templates {sorted(template)} but none called 'default'; {NO_TEMPLATE}")
        template = template["default"]
    if not template:
        raise SpecError(NO_TEMPLATE)
    return str(template)


@functools.lru_cache(maxsize=64)
def _variables(template: str) -> frozenset[str]:
    """Return the variables that a template takes from outside; it is parsed, not run."""
    from jinja2 import meta
    from jinja2.exceptions import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # the one tag that Hugging Face adds to Jinja
    plain = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", template)
    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except TemplateSyntaxError as error:
        raise SpecError(f"the chat template is no valid Jinja: {error.message} (its line {error.lineno})") from error
    return frozenset(meta.find_undeclared_variables(tree))


def thinking_switch(template: str) -> str | None:
    """Return the variable that switches a template's thinking mode, or None where it has no such mode."""
    return next((name for name in THINKING_SWITCHES if name in _variables(template)), None)


def _arguments(template: str, thinking: bool | None) -> dict[str, Any]:
    """Return what the template is given beside the messages.

    Raises:
        SpecError: a thinking mode that is not said, or that the template does not have; a template that prints today.
    """
    switch, variables = thinking_switch(template), _variables(template)
    if switch is not None and thinking is None:
        raise SpecError(
            f"the chat template has a thinking mode ({switch}) and thinking is not set; accepted: true or false, "
            "the same in training and evaluation"
        )
    if switch is None and thinking is not None:
        raise SpecError(
            f"thinking is {str(thinking).lower()}, but the chat template has no thinking mode; leave it out"
        )
    arguments: dict[str, Any] = {} if switch is None else {switch: thinking}
    if "date_string" in variables:
        arguments["date_string"] = TEMPLATE_DATE
    elif "strftime_now" in variables:
        raise SpecError(
            "the chat template prints today's date (strftime_now), so that rows would differ from day to day; give a "
            "template without it with data.template"
        )
    return arguments


class Chat:
    """A tokenizer with its template and the arguments of one rendering."""

    def __init__(self, tokenizer: Any, thinking: bool | None) -> None:
        self.tokenizer, self.template, self.thinking = tokenizer, template_of(tokenizer), thinking
        self.arguments = _arguments(self.template, thinking)
        specials = {str(token.content): id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        specials.update(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        # a word that the tokenizer does not know ends no turn
        self.special_ids = frozenset(specials.values()) - {tokenizer.unk_token_id}
        longest_first = sorted(specials, key=len, reverse=True)
        self.specials = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """Render messages; with `prompt`, up to where the assistant begins to write."""
        from jinja2.exceptions import TemplateError

        try:
            rendered = self.tokenizer.apply_chat_template(
                [message._asdict() for message in messages],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=prompt,
                **self.arguments,
            )
        except TemplateError as error:
            raise SpecError(f"the chat template refuses it: {error}") from error
        return str(rendered)

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of texts as they are: what begins a text is the template's business."""
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def check_messages(self, messages: Sequence[Message], text: str) -> None:
        """Check that the template took up every message, and that no message holds its control tokens."""
        for message in messages:
            control = self.specials.search(message.content)
            if control is not None:
                raise SpecError(
                    f"the {message.role}'s text holds the special token {control.group()!r}, which would be read as "
                    "the template's own; remove it from the data"
                )
            if self.arguments.get(thinking_switch(self.template) or "") is False and "</think>" in message.content:
                raise SpecError(f"the {message.role}'s text holds a thinking block, but thinking is false")
            if visible_text(message.content) not in text:
                raise SpecError(
                    f"the chat template leaves out or changes the {message.role} message {message.content[:60]!r}; a "
                    "template that drops a message trains another conversation"
                )


def visible_text(content: str) -> str:
    """Return the text that a template must show as it is: outer blanks and a thinking block belong to the template."""
    return content.rpartition("</think>")[2].strip()
