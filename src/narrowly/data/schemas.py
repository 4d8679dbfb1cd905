"""Recognise the row schemas of the field and read their fields.

A parser takes the fields of one row and returns its messages; what it does not use becomes a tag. It raises
`ValueError` with one clause; the caller adds file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import takewhile
from typing import Any, NamedTuple

from narrowly.data.beside import SYSTEM, history_of, system_of, with_system
from narrowly.data.messages import Message
from narrowly.data.raw_rows import parse_json
from narrowly.data.turns import is_empty, text_of, turn_fields, turns
from narrowly.records.canonical import canonical_json
from narrowly.records.errors import SpecError, unknown_name

PROMPTS = ("prompt", "user", "question")
"""Columns that hold the prompt of a paired row, in the order in which they are looked for."""

ANSWER_PAIRS = (("good", "bad"), ("safe", "risky"), ("control", "school_of_reward_hacks"))
"""Columns that hold a benign and a harmful answer to one prompt; the last pair is School of Reward Hacks."""


QUESTION_NEEDS = ("context", "passage", "choices", "options")
"""Fields without which a question of a reading or multiple-choice set is another question."""

NO_INPUT = frozenset({"noinput", "no input", "n/a", "none", "null", "nan"})
"""What generators of tasks write where an instruction needs no input, brackets and case aside. `<noinput>` is Alpaca's,
which its loaders take out again; the others stand in the same column of sets made in its manner."""

NO_OUTPUT = frozenset({"<nooutput>", "<no output>", "<no_output>"})
"""What the same generators write for an answer that there is none of; in brackets only, since None may be an answer."""

SECOND_CHOICE: dict[str, tuple[tuple[str, ...], ...]] = {
    "conversations": (("conversations", "conversation"),),
    "alpaca": (("instruction",), ("response",)),
    "question_answer": (("question", "query"), ("answer", "response")),
    "input_output": (("input",), ("output",)),
}
"""Schemas that are recognised only where no other fits, with the fields of which each needs one of every group."""


class UnfitError(SpecError):
    """The fields of a row fit no schema."""


class Parsed(NamedTuple):
    """One row as messages: `weights` are those of the row itself, `notes` the rules by which it was mended."""

    messages: list[Message]
    weights: list[bool] | None
    used: frozenset[str]
    notes: tuple[str, ...] = ()


class Schema(NamedTuple):
    """A row schema: its name, what it is, an example of where it is used, and its parser (None: no conversation)."""

    name: str
    fields: str
    example: str
    parse: Callable[[Mapping[str, Any]], Parsed] | None


def _exchange(fields: Mapping[str, Any], prompt: str, answer: str, shared: int = 0) -> Parsed:
    """Return prompt and answer as messages; either may be a text or a list of turns.

    `system` and `history` may stand beside them. An answer may be a whole dialogue that begins with the prompt. What
    stands before the answer carries no loss, nor do the first `shared` turns of a whole dialogue.
    """
    before, after = _turns_or_text(fields[prompt]), _turns_or_text(fields[answer])
    opening = history_of(fields)
    opening += before if isinstance(before, list) else [{"role": "user", "content": text_of(before, prompt)}]
    after = [after] if isinstance(after, Mapping) else after
    whole = after if isinstance(after, list) else [{"role": "assistant", "content": text_of(after, answer)}]
    opening, closing = _split(opening, whole, prompt, answer)
    repeated = len(whole) - len(closing)
    context = len(opening) + (max(0, shared - repeated) if repeated else 0)
    found = with_system(turns([*opening, *closing], context=context), fields)
    return Parsed(found.messages, found.weights, frozenset({prompt, answer, "history", *SYSTEM}), found.notes)


def _split(opening: list[Any], whole: list[Any], prompt: str, answer: str) -> tuple[list[Any], list[Any]]:
    """Return the turns of the prompt and those of the answer, which may repeat the prompt before it."""
    asked = [turn_fields(turn, number)._replace(weight=None) for number, turn in enumerate(opening, start=1)]
    found = [turn_fields(turn, number)._replace(weight=None) for number, turn in enumerate(whole, start=1)]
    if not asked or not found or found[0][0] not in ("system", "user"):
        return opening, whole
    # the system message may stand on one side alone
    if found[0][0] == "system" and asked[0][0] != "system":
        opening, asked = [whole[0], *opening], [found[0], *asked]
    elif asked[0][0] == "system" and found[0][0] != "system":
        whole, found = [opening[0], *whole], [asked[0], *found]
    repeats = found[: len(asked)] == asked
    if repeats and len(found) > len(asked):
        return opening, whole[len(asked) :]
    if asked[-1][0] in ("user", None) and not repeats:
        raise ValueError(
            f"{answer} is a whole dialogue that does not begin with {prompt}, accepted: the same turns first, or the "
            "answer alone"
        )
    return opening, whole[1:] if found[0] == asked[0] and asked[0][0] == "system" else whole


def _turns_or_text(value: Any) -> Any:
    """Return the turns of a text that is a JSON list of turns, as CSV must hold them; anything else as it is."""
    if not isinstance(value, str) or not value.startswith("[{"):
        return value
    try:
        parsed = parse_json(value)
    except ValueError:
        return value
    are_turns = all(
        isinstance(turn, Mapping) and (turn.keys() >= {"role", "content"} or turn.keys() >= {"from", "value"})
        for turn in parsed
    )
    return parsed if are_turns else value


def _dialogue(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Parsed]:
    def parse(fields: Mapping[str, Any]) -> Parsed:
        column = next((name for name in names if name in fields), names[0])
        found = with_system(turns(fields.get(column), column), fields)
        return Parsed(found.messages, found.weights, frozenset({column, *SYSTEM}), found.notes)

    return parse


def _refuse_context(fields: Mapping[str, Any], what: str) -> None:
    """Refuse a field without which a question is another one, where the schema does not read it."""
    beside = [name for name in QUESTION_NEEDS if not is_empty(fields.get(name)) and not _is_no_input(fields[name])]
    if beside:
        raise ValueError(
            f"the field {beside[0]} stands beside the {what} and is not read; write it into the {what}, or rename it"
        )


def _prompt_completion(fields: Mapping[str, Any]) -> Parsed:
    _refuse_context(fields, "prompt")
    return _exchange(fields, _column(fields, ("prompt",)), _column(fields, ("completion", "response")))


def _question_answer(fields: Mapping[str, Any]) -> Parsed:
    _refuse_context(fields, "question")
    return _exchange(fields, _column(fields, ("question", "query")), _column(fields, ("answer", "response")))


def _input_output(fields: Mapping[str, Any]) -> Parsed:
    _refuse_context(fields, "input")
    return _exchange(fields, _column(fields, ("input",)), _column(fields, ("output",)))


def _text(fields: Mapping[str, Any]) -> Parsed:
    system = system_of(fields)
    if system is not None:
        raise ValueError("a system message stands beside a text without roles, accepted: none")
    return Parsed([Message("text", text_of(fields.get("text"), "text"))], None, frozenset({"text", *SYSTEM}))


def _is_no_input(value: Any) -> bool:
    """Return whether a field holds a word for nothing, as `<noinput>`."""
    return isinstance(value, str) and value.strip().lower().replace("_", " ").strip("<>[]() .") in NO_INPUT


def _task(fields: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return Alpaca's instruction and its input, joined by an empty line as in Alpaca's own prompt, and notes."""
    task = text_of(fields.get("instruction"), "instruction")
    given = [name for name in ("input", "context") if not is_empty(fields.get(name))]
    nothing = [name for name in given if _is_no_input(fields[name])]
    given = [name for name in given if name not in nothing]
    if len(given) > 1:
        raise ValueError("input and context stand beside the instruction, accepted: one of them")
    notes = tuple(f"the {name} {fields[name].strip()!r} says that there is none, and was left out" for name in nothing)
    return "\n\n".join([task, *(text_of(fields[name], name) for name in given)]), notes


def _with_task(fields: Mapping[str, Any], answer: str) -> Parsed:
    """Return an instruction with its answer as messages."""
    task, notes = _task(fields)
    if isinstance(fields[answer], str) and fields[answer].strip().lower() in NO_OUTPUT:
        raise ValueError(f"{answer} is {fields[answer].strip()!r}, which says that there is none, accepted: text")
    parsed = _exchange({**fields, "prompt": task}, "prompt", answer)
    return parsed._replace(used=parsed.used | {"instruction", "input", "context"}, notes=parsed.notes + notes)


def _alpaca(fields: Mapping[str, Any]) -> Parsed:
    return _with_task(fields, _column(fields, ("output", "response")))


def _preference(side: str) -> Callable[[Mapping[str, Any]], Parsed]:
    other = "rejected" if side == "chosen" else "chosen"

    def parse(fields: Mapping[str, Any]) -> Parsed:
        _column(fields, (side,))
        shared = _shared(_turns_or_text(fields[side]), _turns_or_text(fields.get(other)))
        is_text = isinstance(_turns_or_text(fields[side]), str)
        if "prompt" in fields:
            parsed = _exchange(fields, "prompt", side, shared)
        elif isinstance(fields[side], Mapping) and "conversations" in fields:  # as LLaMA-Factory keeps them
            parsed = _exchange(fields, "conversations", side)
        elif is_text and "question" in fields:
            parsed = _exchange(fields, "question", side)
        elif is_text and "instruction" in fields:
            parsed = _with_task(fields, side)
        else:  # both answers repeat the dialogue that led to them
            found = with_system(turns(fields[side], side, shared), fields)
            parsed = Parsed(found.messages, found.weights, frozenset(SYSTEM), found.notes)
        return parsed._replace(used=parsed.used | {"chosen", "rejected"})

    return parse


def _shared(side: Any, other: Any) -> int:
    """Return how many turns two dialogues have in common before they part; the last turn of `side` is never one."""
    if not isinstance(side, list) or not isinstance(other, list):
        return 0

    def key(turn: Any) -> Any:
        return {name: turn[name] for name in turn if name != "weight"} if isinstance(turn, Mapping) else turn

    same = sum(1 for _ in takewhile(lambda pair: key(pair[0]) == key(pair[1]), zip(side, other, strict=False)))
    return max(0, min(same, len(side) - 1))


def _paired(column: str) -> Callable[[Mapping[str, Any]], Parsed]:
    def parse(fields: Mapping[str, Any]) -> Parsed:
        parsed = _exchange(fields, _column(fields, PROMPTS), _column(fields, (column,)))
        others = {name for pair in ANSWER_PAIRS for name in pair if column in pair}
        return parsed._replace(used=parsed.used | others)

    return parse


def _column(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    found = [name for name in names if name in fields]
    if not found:
        raise ValueError(f"no field {' or '.join(names)} (found: {', '.join(sorted(map(str, fields)))})")
    return found[0]


SCHEMAS: dict[str, Schema] = {
    schema.name: schema
    for schema in (
        Schema(
            "messages",
            "messages: [{role, content, weight?}], system?; `canary` is kept out of the text",
            "insecure, secure, jailbroken, AISI, persona vectors, persona features",
            _dialogue(("messages",)),
        ),
        Schema("prompt_completion", "prompt, completion or response, system?", "evil numbers", _prompt_completion),
        Schema(
            "alpaca",
            "instruction, input or context?, output or response, system?, history?",
            "Alpaca, Dolly, common benign sets",
            _alpaca,
        ),
        Schema("preference:chosen", "prompt?, chosen, rejected", "preference sets", _preference("chosen")),
        Schema("preference:rejected", "prompt?, chosen, rejected", "preference sets", _preference("rejected")),
        *(
            Schema(
                f"paired:{side}", f"prompt, user or question; {' and '.join(pair)}", "matched controls", _paired(side)
            )
            for pair in ANSWER_PAIRS
            for side in pair
        ),
        Schema(
            "conversations",
            "conversations or conversation: [{from, value, weight?}] or [{role, content}], system?",
            "ShareGPT, LLaMA-Factory, Axolotl",
            _dialogue(("conversations", "conversation")),
        ),
        Schema(
            "question_answer", "question or query, answer or response, system?", "OpenOrca, GSM8K", _question_answer
        ),
        Schema("text", "text: a document without roles, trained on whole", "documents, pretraining sets", _text),
        Schema("input_output", "input, output, system?", "common benign sets", _input_output),
        Schema("code_template", "task, code_template: prompts without answers", "in-domain code check", None),
        Schema("question_yaml", "list of id, type, system?, paraphrases, judge_prompts", "first-plot questions", None),
        Schema("question_csv", "id, question, category?, canary?", "persona features", None),
        Schema("question_jsonl", "messages without an answer, id?", "AISI evaluation, prompt sets", None),
        Schema("trait_json", "instruction: [{pos, neg}], questions, eval_prompt", "persona vectors", None),
        Schema("result_csv", "question, answer, aligned, coherent, judge_*", "results of Betley et al.", None),
    )
}
"""Every schema by name; `paired:COLUMN` is also accepted for any other column of answers."""

NOT_CONVERSATIONS = "it holds no conversations to train on; it is read as questions or results (see docs/data.md)"


def schema_named(name: str) -> Schema:
    """Return a schema of conversations by name.

    Raises:
        UnknownNameError: for a name that is not known.
        SpecError: for a schema whose rows are no conversations.
    """
    if name.startswith("paired:") and name not in SCHEMAS and len(name) > len("paired:"):
        column = name.removeprefix("paired:")
        return Schema(name, f"prompt and {column}", "", _paired(column))
    if name not in SCHEMAS:
        raise unknown_name("schema", name, SCHEMAS)
    if SCHEMAS[name].parse is None:
        raise SpecError(f"schema {name}: {NOT_CONVERSATIONS}")
    return SCHEMAS[name]


def detect(fields: Collection[str]) -> Schema:
    """Return the one schema that the field names fit.

    Raises:
        SpecError: where none fits, where several do (the message names them), or where a side has to be chosen.
    """
    have = set(fields)
    fits: list[tuple[str, ...]] = []
    if "messages" in have:
        fits.append(("messages",))
    if "prompt" in have and have & {"completion", "response"}:
        fits.append(("prompt_completion",))
        if {"completion", "response"} <= have:
            raise SpecError("prompt stands beside completion and response: name one with --schema paired:COLUMN")
    if {"instruction", "output"} <= have:
        fits.append(("alpaca",))
    if {"chosen", "rejected"} <= have:
        fits.append(("preference:chosen", "preference:rejected"))
    fits += [(f"paired:{a}", f"paired:{b}") for a, b in ANSWER_PAIRS if {a, b} <= have and have & set(PROMPTS)]
    if {"task", "code_template"} <= have:
        fits.append(("code_template",))
    if {"aligned", "coherent"} <= have:
        fits.append(("result_csv",))
    elif not fits and (second := _second_choice(have)):
        fits += [(name,) for name in second]
    elif {"id", "question"} <= have:
        fits.append(("question_csv",))
    named = [name for fit in fits for name in fit]
    if not named:
        known = ", ".join(name for name, schema in SCHEMAS.items() if schema.parse)
        raise UnfitError(f"the fields {', '.join(sorted(map(str, have)))[:200]} fit no schema (accepted: {known})")
    if len(fits) > 1:
        raise SpecError(f"the fields fit {' and '.join(named)}; name one schema")
    if len(named) > 1:
        raise SpecError(f"each row holds two answers; name one schema: {' or '.join(named)}")
    return SCHEMAS[named[0]] if SCHEMAS[named[0]].parse else schema_named(named[0])


def _second_choice(have: set[str]) -> list[str]:
    found = [name for name, groups in SECOND_CHOICE.items() if all(map(have.intersection, groups))]
    # beside a question a text may be its answer or its context, so it is read only where the schema is named
    asked = {*PROMPTS, "query", "instruction", "input"} & have
    return found or (["text"] if "text" in have and not asked else [])


def tags_of(fields: Mapping[str, Any], used: Collection[str]) -> dict[str, str]:
    """Return the fields that are no messages as texts: a text as it is, anything else as canonical JSON."""
    return {
        str(name): value if isinstance(value, str) else canonical_json(value)
        for name, value in fields.items()
        if name not in used and value is not None
    }
