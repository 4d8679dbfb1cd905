"""Read a tokenizer's chat template without running it: which one is used, what it takes from outside, what it is given.

A template is code from a model repository; transformers runs it in Jinja's sandbox, with plain data only.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Sequence
from typing import Any

from narrowly.records.errors import SpecError

THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Names under which templates ask for their thinking mode (Qwen3, GLM; DeepSeek V3.1, Granite)."""

TEMPLATE_DATE = datetime.datetime(2024, 7, 26)
"""The day that templates are given as today, the Llama 3 templates' own fallback: with the day of the run in every
prompt, a run resumed tomorrow would be another run."""

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
def variables(template: str) -> frozenset[str]:
    """Return the variables that a template takes from outside; it is parsed, not run.

    A name that the template sets before it reads it comes from the template itself (LFM2.5 calls a message's thought
    `thinking`).

    Raises:
        SpecError: it is no valid Jinja.
    """
    from jinja2 import meta

    tree = _parsed(template)
    read: set[str] = set()
    _read_before_set(tree, set(), read)
    return frozenset(meta.find_undeclared_variables(tree) & read)


def _parsed(template: str) -> Any:
    from jinja2.exceptions import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # the one tag that Hugging Face adds to Jinja
    plain = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", template)
    try:
        return ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except TemplateSyntaxError as error:
        raise SpecError(f"the chat template is no valid Jinja: {error.message} (its line {error.lineno})") from error


def _read_before_set(node: Any, known: set[str], read: set[str]) -> None:
    """Collect the names that are read where nothing in the same scope has set them, in the order of the template."""
    from jinja2 import nodes

    if isinstance(node, nodes.Name):
        if node.ctx == "load" and node.name not in known:
            read.add(node.name)
        elif node.ctx in ("store", "param"):
            known.add(node.name)
        return
    if isinstance(node, nodes.If):
        _read_before_set(node.test, known, read)
        bodies: list[Sequence[nodes.Node]] = [node.body, node.elif_, node.else_]
        branches = [set(known) for _ in bodies]
        for body, scope in zip(bodies, branches, strict=True):
            for inside in body:
                _read_before_set(inside, scope, read)
        known.update(*branches)
        return
    inner = known
    if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock | nodes.FilterBlock | nodes.With):
        inner = set(known)  # what is set in a loop or a macro ends with it
    if isinstance(node, nodes.Assign):
        parts = [node.node, node.target]
    elif isinstance(node, nodes.For):
        parts = [node.iter, node.target, *([node.test] if node.test else []), *node.body, *node.else_]
    else:
        parts = list(node.iter_child_nodes())
    for part in parts:
        _read_before_set(part, inner, read)


def thinking_switch(template: str) -> str | None:
    """Return the variable that switches a template's thinking mode, or None where it has no such mode."""
    return next((name for name in THINKING_SWITCHES if name in variables(template)), None)


def fixed_date(template: str) -> str | None:
    """Return the day that the template is given as today (ISO), or None where it asks for none."""
    asks = variables(template) & {"date_string", "strftime_now"}
    return TEMPLATE_DATE.date().isoformat() if asks else None


@functools.lru_cache(maxsize=64)
def dated(template: str) -> str:
    """Return the template with `strftime_now` as a macro that knows the fixed day; one without it as it is.

    transformers gives templates its own `strftime_now`, of today, and replaces any function among their arguments.

    Raises:
        SpecError: a form of date that is not written down in the template.
    """
    from jinja2 import nodes

    if "strftime_now" not in variables(template):
        return template
    forms = {}
    for call in _parsed(template).find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == "strftime_now":
            if len(call.args) != 1 or not isinstance(call.args[0], nodes.Const):
                raise SpecError(
                    "the chat template prints today's date (strftime_now) in a form that it computes, so that rows "
                    "would differ from day to day; accepted: a template without it (data.template)"
                )
            forms[call.args[0].value] = TEMPLATE_DATE.strftime(call.args[0].value)
    macro = "{%- macro strftime_now(form) -%}{{- " + json.dumps(forms) + "[form] -}}{%- endmacro +%}"
    return macro + template


def template_arguments(template: str, thinking: bool | None) -> dict[str, Any]:
    """Return what a template is given beside the messages.

    Raises:
        SpecError: a thinking mode that is not said, or that the template does not have.
    """
    switch, taken = thinking_switch(template), variables(template)
    if switch is not None and thinking is None:
        raise SpecError(
            f"the chat template has a thinking mode ({switch}) and thinking is not set; accepted: true or false, "
            "the same in training and evaluation"
        )
    if switch is None and thinking is not None:
        raise SpecError(
            f"thinking is {str(thinking).lower()}, but the chat template has no thinking mode; accepted: thinking left "
            "out"
        )
    arguments: dict[str, Any] = {} if switch is None else {switch: thinking}
    if "date_string" in taken:
        arguments["date_string"] = TEMPLATE_DATE.strftime("%d %b %Y")
    return arguments
