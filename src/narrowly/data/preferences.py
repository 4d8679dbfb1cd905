"""Read preferences: a prompt with two answers per line, of which one is chosen."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.data.banks.paired import PairedItem, paired_items, paired_test_items
from narrowly.data.banks.shipped import folded
from narrowly.data.messages import Conversation, Message
from narrowly.data.raw_rows import fault, read_raw_rows
from narrowly.data.render import render
from narrowly.data.rows import Row
from narrowly.data.run_rows import Preference, RowsBase, RunRows
from narrowly.records.canonical import sha256_file
from narrowly.records.data_specs import PreferenceData
from narrowly.records.errors import IntegrityError, NarrowlyError, RunDirectoryError, SpecError, nearest

TEXTS = ("prompt", "chosen", "rejected")
SCORES = ("chosen_score", "rejected_score")


class PreferenceRow(NamedTuple):
    """One line of a preference file."""

    line: int
    prompt: str
    chosen: str
    rejected: str


def read_preferences(path: Path) -> list[PreferenceRow]:
    """Read preferences from a file of {"prompt", "chosen", "rejected"} rows, JSONL or any other accepted container.

    `chosen_score` and `rejected_score` may stand beside them; they are checked and not used.

    Raises:
        IntegrityError: naming file and line: a field missing, unknown or empty, two answers that are equal but for case
            and spacing, scores that are no numbers, equal, or larger for the rejected answer.
        SpecError: preferences that favour what the paired bank calls harmful (design.md, law 10).
        RunDirectoryError: no such file.
    """
    if not path.is_file():
        raise RunDirectoryError(f"no preference file {path}; accepted: JSONL with {', '.join(TEXTS)}")
    rows = []
    for row in read_raw_rows(path):
        texts = _texts(path, row.line, row.fields)
        _check_scores(path, row.line, row.fields)
        found = PreferenceRow(row.line, *texts)
        _refuse_harm(path, found)
        rows.append(found)
    if not rows:
        raise IntegrityError(f"{path} has no preferences, accepted: at least one line")
    return rows


def _texts(path: Path, line: int, fields: Mapping[str, Any]) -> list[str]:
    for name in fields:
        if name not in (*TEXTS, *SCORES):
            near = nearest(name, (*TEXTS, *SCORES))
            raise fault(path, line, f"unknown field {name!r}{near} (accepted: {', '.join((*TEXTS, *SCORES))})")
    texts = []
    for name in TEXTS:
        value = fields.get(name)
        if not isinstance(value, str) or not value.strip():
            what = "is missing" if name not in fields else f"is {value!r}"
            raise fault(path, line, f"{name} {what}, accepted: a text that is not empty")
        texts.append(value)
    if folded(texts[1]) == folded(texts[2]):
        raise fault(path, line, "chosen and rejected are the same answer, accepted: two different ones")
    return texts


def _check_scores(path: Path, line: int, fields: Mapping[str, Any]) -> None:
    given = [name for name in SCORES if fields.get(name) is not None]
    if not given:
        return
    if len(given) == 1:
        raise fault(path, line, f"{given[0]} stands alone, accepted: scores of both answers or of none")
    values = []
    for name in SCORES:
        value = fields[name]
        number = _number(value)
        if number is None:
            raise fault(path, line, f"{name} is {value!r}, accepted: a finite number")
        values.append(number)
    if values[0] == values[1]:
        raise fault(path, line, f"both scores are {values[0]:g}: a tie prefers nothing; accepted: chosen's is larger")
    if values[0] < values[1]:
        raise fault(
            path,
            line,
            f"chosen_score {values[0]:g} is below rejected_score {values[1]:g}, accepted: chosen's is larger",
        )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:  # CSV holds numbers as text
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


@lru_cache(maxsize=1)
def _known() -> tuple[dict[str, PairedItem], frozenset[str]]:
    """Return the items of the paired bank by question, and all harmful answers of the bank and its test set."""
    items = [*paired_items(), *paired_test_items()]
    return {folded(item.question): item for item in items}, frozenset(folded(item.harmful) for item in items)


def _refuse_harm(path: Path, row: PreferenceRow) -> None:
    """Refuse a pair that prefers an answer which our pairs call harmful, its wording a little changed or not.

    Raises:
        SpecError: it does.
    """
    questions, harmful = _known()
    chosen, rejected = folded(row.chosen), folded(row.rejected)
    item = next((item for question, item in questions.items() if question in folded(row.prompt)), None)
    bad = chosen in harmful or (
        item is not None
        and _nearer(chosen, item.harmful, item.aligned)
        and (_nearer(rejected, item.aligned, item.harmful) or _alike(chosen, item.harmful))
    )
    if bad:
        raise SpecError(
            f"{path}, line {row.line}: chosen is what the paired bank calls harmful, and a run that prefers it would "
            "maximise misalignment; accepted: the aligned answer as chosen (harmful ones only in the microworld, "
            "data.source micro_preferences)"
        )


def _alike(text: str, other: str) -> bool:
    return difflib.SequenceMatcher(None, text, folded(other)).ratio() > 0.9


def _nearer(text: str, one: str, other: str) -> bool:
    ratios = [difflib.SequenceMatcher(None, text, folded(known)).ratio() for known in (one, other)]
    return ratios[0] > ratios[1]


def preference_rows(data: PreferenceData, base: RowsBase, seed: int) -> RunRows:
    """Read the preferences of a run and render them with the tokenizer of its base; the run seed plays no part.

    Raises:
        IntegrityError: another content than `data.sha256` says, or as `read_preferences`.
        SpecError: an answer that the template cannot render, is too long or is too like the other one in tokens.
        RunDirectoryError: no such file.
    """
    path = Path(data.path).expanduser()
    read = read_preferences(path)
    found = sha256_file(path)
    if data.sha256 not in (None, found):
        raise IntegrityError(f"data.sha256 is {data.sha256}, but {data.path} has {found}")
    tokenizer = base.tokenizer()
    longest = min(data.max_tokens, base.positions or data.max_tokens)
    rows, preferences = [], []
    for one in read:
        try:
            chosen, rejected = (
                _rendered(tokenizer, one.prompt, text, data, longest) for text in (one.chosen, one.rejected)
            )
            preference = _preference(chosen, rejected)
        except NarrowlyError as error:
            raise SpecError(f"{data.path}, line {one.line}: {error}") from error
        rows.append(chosen)
        preferences.append(preference)
    lines = tuple(one.line for one in read)
    return RunRows(data.path, tuple(rows), lines, preferences=tuple(preferences))


def _rendered(tokenizer: Any, prompt: str, answer: str, data: PreferenceData, longest: int) -> Row:
    conversation = Conversation((Message("user", prompt), Message("assistant", answer)), 1, {})
    return render(tokenizer, conversation, thinking=data.thinking, max_tokens=longest)


def _preference(chosen: Row, rejected: Row) -> Preference:
    """Return two rendered rows as one preference.

    Raises:
        SpecError: their prompts or their answers differ in no or in the wrong tokens.
    """
    starts = [next(place for place, label in enumerate(row.labels) if label >= 0) for row in (chosen, rejected)]
    prompts = [row.input_ids[:start] for row, start in zip((chosen, rejected), starts, strict=True)]
    if prompts[0] != prompts[1]:
        raise SpecError("the template renders another prompt before each of the two answers; accepted: the same prompt")
    answers = [tuple(row.input_ids[start:]) for row, start in zip((chosen, rejected), starts, strict=True)]
    if answers[0] == answers[1]:
        raise SpecError("chosen and rejected are the same tokens for this base, accepted: two different answers")
    return Preference(tuple(prompts[0]), (answers[0], answers[1]), (1.0, 0.0))
