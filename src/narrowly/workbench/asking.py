"""Find a model by name and ask it: what can be refused is refused before torch is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from narrowly.data.messages import Message
from narrowly.data.questions import Question
from narrowly.microworld.cards import CARD
from narrowly.models.asked import Loaded, ModelToAsk, adapter_to_ask, model_to_ask, organism_to_ask
from narrowly.models.base import named_bases
from narrowly.models.base_files import CONFIG, GGUF_WAY_OUT, WEIGHTS, WEIGHTS_INDEX, default_template
from narrowly.models.hub import is_hub_name
from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, GGUF_SUFFIX
from narrowly.records.answers import Answer, AskedModel, Sampling, Who
from narrowly.records.errors import SpecError, UnknownNameError, nearest
from narrowly.records.run_spec import BaseDtype
from narrowly.runs.directory import SPEC, is_run, run_directories, run_of_adapter, runs_folder
from narrowly.workbench.names import known_run

if TYPE_CHECKING:
    from narrowly.models.generate import Prompt, Written

SAMPLES = 1
"""Answers to a question of a model that is not of the microworld, where neither the user nor the bank says how many."""

LONGEST = 256
"""Tokens of an answer, where nobody says how many."""

BATCH = 8
"""Answers written at a time; they do not depend on it, up to rounding (`models.generate`)."""


class HowToAsk(NamedTuple):
    """Say how models are asked.

    Attributes:
        temperature, seed: how answers are drawn (`Sampling`).
        max_new_tokens: of an answer; None is `LONGEST`, or half of the model's positions where it has fewer.
        samples: answers to each prompt; None takes the number in the bank, else `SAMPLES`.
        system: system message in front of every question; None leaves it to the question and to the template.
        thinking: thinking mode of the prompts; None takes that of the training.
        beside_base: whether the base of an organism is asked too.
        dtype: of a base whose training is not known; None is float32.
        device: of the model.
        batch: answers written at a time.
    """

    temperature: float = 1.0
    seed: int = 0
    max_new_tokens: int | None = None
    samples: int | None = None
    system: str | None = None
    thinking: bool | None = None
    beside_base: bool = True
    dtype: BaseDtype | None = None
    device: str = "cpu"
    batch: int = BATCH

    @property
    def sampling(self) -> Sampling:
        """Return how answers are drawn, as it is recorded.

        Raises:
            SpecError: a temperature, a seed or a number of tokens that is not accepted.
        """
        longest = LONGEST if self.max_new_tokens is None else self.max_new_tokens
        return Sampling(temperature=self.temperature, seed=self.seed, max_new_tokens=longest)


class Item(NamedTuple):
    """Hold one answer that is to be written: which question, and the messages and tokens that stand before it."""

    question_id: str
    paraphrase: int
    messages: tuple[Message, ...]
    prompt: Prompt

    @property
    def key(self) -> tuple[str, int, int]:
        """Return what tells it apart from the others of one bank."""
        return self.question_id, self.paraphrase, self.prompt.sample


def find_model(
    text: str, out: Path, step: int | Literal["final"] = "final", edit: str | None = None, base: str | None = None
) -> ModelToAsk:
    """Return the model that a text means.

    Args:
        text: run directory, run-id or STUDY:CELL; adapter folder; model folder, named base or name of the hub.
        out: folder of runs and studies.
        step: of an organism of a run, or "final".
        edit: of an organism of a run, or None.
        base: of an adapter from elsewhere.

    Raises:
        UnknownNameError: nothing is called so; all that is accepted and the nearest are named.
        SpecError: `step`, `edit` or `base` do not fit what was found.
        NarrowlyError: it cannot be opened.
    """
    path = Path(text).expanduser()
    found = _in_a_run(path) if path.is_dir() else None
    if found is not None:
        return _organism(*found, step, edit, base)
    if path.is_dir() and _is_adapter(path):
        _refuse(text, "an adapter from elsewhere", step, edit, None)
        return adapter_to_ask(path, base)
    if path.is_dir() and not (path / CONFIG).is_file():
        raise SpecError(
            f"{path} is neither a run directory (no {SPEC}) nor an adapter (no {ADAPTER_CONFIG}) nor a model "
            f"(no {CONFIG}){_of_gguf(path)}"
        )
    if path.is_file():
        raise SpecError(f"{path} is a file, accepted: the folder of a run, of an adapter or of a model{_of_gguf(path)}")
    if path.exists() or text in named_bases():
        _refuse(text, "a model by itself", step, edit, base)
        return model_to_ask(text)
    run = known_run(text, out)
    if run is not None:
        return _organism(run, None, None, step, edit, base)
    if is_hub_name(text):
        _refuse(text, "a model by itself", step, edit, base)
        return model_to_ask(text)
    raise _unknown(text, path, out)


def _of_gguf(path: Path) -> str:
    """Return what to do with a file in GGUF, or a folder that holds one."""
    if path.suffix != GGUF_SUFFIX and not any(path.glob(f"*{GGUF_SUFFIX}")):
        return ""
    return f"; what is in GGUF is served elsewhere: give what it was made of. Of a model, {GGUF_WAY_OUT}"


def _unknown(text: str, path: Path, out: Path) -> UnknownNameError:
    runs = [folder.name for folder in run_directories(runs_folder(out))]
    beside = [
        str(found.parent) for name in (CONFIG, ADAPTER_CONFIG, SPEC) for found in sorted(path.parent.glob(f"*/{name}"))
    ]
    return UnknownNameError(
        f"nothing to ask is called {text!r}{nearest(text, [*beside, *runs, *named_bases()])}; accepted: a run "
        f"directory, a run-id under {runs_folder(out)} or STUDY:CELL; the folder of an adapter; the folder of a model, "
        "a named base (`narrowly base list`), or NAME/MODEL in the local cache of the hub"
    )


def _is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter and no model; trainers often leave the base's config.json beside one."""
    files = (folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS)
    return any(file.is_file() for file in files) and not any(
        (folder / name).is_file() for name in (WEIGHTS, WEIGHTS_INDEX)
    )


def _in_a_run(folder: Path) -> tuple[Path, int | None, str | None] | None:
    """Return run directory, step and edit of a folder that is a run, or a checkpoint or an edit in one."""
    if is_run(folder):
        return folder, None, None
    run = run_of_adapter(folder)
    if run is None:
        return None
    edit, _, step = folder.resolve().name.rpartition("step-")
    if not step.isdecimal():
        return run, None, folder.resolve().name
    return run, int(step), edit.removesuffix("-") or None


def _organism(
    run: Path, own_step: int | None, own_edit: str | None, step: int | Literal["final"], edit: str | None,
    base: str | None,
) -> ModelToAsk:  # fmt: skip
    if base is not None:
        raise SpecError("--base does not fit an organism of a run, whose base is known; leave it out")
    if (own_step is not None or own_edit is not None) and (step != "final" or edit is not None):
        raise SpecError(f"--step and --edit do not fit a folder inside run {run}; give the run, or leave them out")
    return organism_to_ask(run, step if own_step is None else own_step, edit if own_edit is None else own_edit)


def _refuse(text: str, what: str, step: int | Literal["final"], edit: str | None, base: str | None) -> None:
    for name, given in (("--step", step != "final"), ("--edit", edit is not None), ("--base", base is not None)):
        if given:
            raise SpecError(f"{name} does not fit {text}, which is {what}; leave it out")


def is_of_the_microworld(model: ModelToAsk) -> bool:
    """Return whether a model is an organism on a base of the microworld, whose answers are exact."""
    return model.run is not None and (model.base.folder / CARD).is_file()


def settled(model: ModelToAsk, how: HowToAsk) -> HowToAsk:
    """Return how a model is asked, with what its training says; refuse what does not fit.

    Raises:
        SpecError: no chat template, a thinking mode that is not said or that it has not, another dtype than that of
            its training, or more tokens than the model has positions.
    """
    from narrowly.data.rendering.template import NO_TEMPLATE, thinking_switch

    template = default_template(model.template)
    if template is None:
        way = "" if model.adapter is None else f" (of an adapter with a tokenizer of its own: into {model.adapter})"
        raise SpecError(f"{model.name}: {NO_TEMPLATE}{way}")
    thinking = model.thinking if how.thinking is None else how.thinking
    switch = thinking_switch(template)
    if switch is not None and thinking is None:
        raise SpecError(
            f"the chat template of {model.name} has a thinking mode ({switch}); say --thinking or --no-thinking"
        )
    if switch is None and how.thinking is not None:
        raise SpecError(f"the chat template of {model.name} has no thinking mode; leave --thinking out")
    if how.dtype is not None and model.dtype not in (None, how.dtype):
        raise SpecError(
            f"--dtype is {how.dtype}, but run {model.name} was trained in {model.dtype}, and is asked as it was "
            "trained; leave it out"
        )
    positions = model.base.positions
    if how.temperature == 0 and (how.samples or 1) > 1:
        raise SpecError(f"--samples is {how.samples} at temperature 0, where all are equal; accepted: 1")
    longest = how.max_new_tokens
    if longest is None:
        longest = LONGEST if positions is None else min(LONGEST, positions // 2)
    elif positions is not None and longest >= positions:
        raise SpecError(
            f"--max-new-tokens is {longest}, accepted: less than {positions}, the positions of base {model.base.name}"
        )
    return how._replace(max_new_tokens=longest, thinking=thinking, dtype=model.dtype or how.dtype or "float32")


def items_of(model: ModelToAsk, tokenizer: Any, questions: Sequence[Question], how: HowToAsk) -> list[Item]:
    """Render every prompt, and list the answers that are to be written.

    Raises:
        SpecError: naming the question: the template cannot render it, or it is too long for the model.
    """
    from narrowly.data.render import prompt_ids
    from narrowly.models.generate import Prompt

    found = []
    for question in questions:
        # where nothing is drawn, a bank's hundred samples would be a hundred times the same
        samples = 1 if how.temperature == 0 else how.samples or question.samples or SAMPLES
        for paraphrase, messages in enumerate(question.prompts):
            try:
                said = with_system(messages, how.system)
                ids = tuple(prompt_ids(tokenizer, said, thinking=how.thinking))
                _check_length(len(ids), how.sampling.max_new_tokens, model.base.positions)
                if model.adapter is None or how.beside_base:
                    _check_vocabulary(max(ids), model)
            except SpecError as error:
                raise SpecError(f"question {question.id!r}: {error}") from error
            found += [Item(question.id, paraphrase, said, Prompt(ids, sample)) for sample in range(samples)]
    return found


def _check_length(prompt: int, answer: int, positions: int | None) -> None:
    if positions is not None and prompt + answer > positions:
        raise SpecError(
            f"the prompt has {prompt} tokens and max_new_tokens is {answer}; the model has {positions} positions "
            "for both"
        )


def _check_vocabulary(token: int, model: ModelToAsk) -> None:
    known = model.base.vocabulary
    if known is not None and token >= known:
        way = "" if model.adapter is None else "; the adapter came with more: --no-base asks it alone"
        raise SpecError(f"the prompt holds token {token}, and base {model.base.name} knows {known} tokens{way}")


def check_text(text: str, what: str) -> None:
    """Refuse a text that no UTF-8 holds, as a terminal passes on bytes that are none.

    Raises:
        SpecError: naming what it is.
    """
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise SpecError(f"{what} is no valid text (half of a surrogate pair, or bytes that are no UTF-8)")


def with_system(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    """Return a question with a system message in front.

    Raises:
        SpecError: it has one already, or the new one is no valid text.
    """
    if system is None:
        return messages
    check_text(system, "--system")
    if messages[0].role == "system":
        raise SpecError("it has a system message of its own, and --system gives another; accepted: one")
    return (Message("system", system), *messages)


def answers(
    loaded: Loaded,
    items: Sequence[Item],
    how: HowToAsk,
    *,
    bank_sha256: str | None = None,
    done: Collection[tuple[Who, tuple[str, int, int]]] = (),
) -> Iterator[list[Answer]]:
    """Yield the answers as they end, some at a time, the organism's before its base's.

    Args:
        loaded: model and tokenizer.
        items: what is asked.
        how: settled.
        bank_sha256: of the file of the questions.
        done: (who, key of the item) of answers that are there already.
    """
    from narrowly.models.continuous import generate_each
    from narrowly.models.generate import end_tokens

    ends = end_tokens(loaded.model, loaded.tokenizer, how.thinking)
    for who, asked in loaded.asked.items():
        left = [item for item in items if (who, item.key) not in done]
        if not left:
            continue
        prompts = [item.prompt for item in left]
        with loaded.speaking(who) as model:
            for ended in generate_each(model, loaded.tokenizer, prompts, how.sampling, ends, how.batch):
                yield [_answer(who, left[at], one, how, asked, bank_sha256) for at, one in ended]


def _answer(
    who: Who, item: Item, written: Written, how: HowToAsk, asked: AskedModel, bank_sha256: str | None
) -> Answer:
    return Answer(
        who=who,
        question_id=item.question_id,
        paraphrase=item.paraphrase,
        sample=item.prompt.sample,
        question=item.messages[-1].content,
        messages=tuple(one.as_json() for one in item.messages),
        thinking=how.thinking,
        answer=written.text,
        finish_reason=written.finish_reason,
        prompt_tokens=len(item.prompt.ids),
        answer_tokens=len(written.tokens),
        prompt_sha256=item.prompt.sha256,
        sampling=how.sampling,
        model=asked,
        bank_sha256=bank_sha256,
    )
