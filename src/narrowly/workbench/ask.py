"""Ask a model one question: an organism or an adapter from elsewhere beside its base, or a model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from narrowly.data.messages import Message
from narrowly.data.questions import Question
from narrowly.models.asked import ModelToAsk
from narrowly.records.errors import SpecError
from narrowly.records.run_spec import BaseDtype
from narrowly.workbench.asking import HowToAsk, answers, check_text, find_model, is_of_the_microworld, items_of, settled
from narrowly.workbench.reply import Reply, Said

SAMPLES_OF_THE_MICROWORLD = 5


def ask(
    model: str | Path,
    question: str,
    *,
    step: int | Literal["final"] = "final",
    edit: str | None = None,
    base: str | None = None,
    samples: int | None = None,
    temperature: float = 1.0,
    max_new_tokens: int | None = None,
    seed: int = 0,
    system: str | None = None,
    thinking: bool | None = None,
    dtype: BaseDtype | None = None,
    device: str = "cpu",
) -> Reply:
    """Ask a model, and its base where it has one, the same question. Nothing judges the answers of a real model.

    Args:
        model: run directory; folder of a PEFT adapter; folder of a model, shipped base, or NAME/MODEL in the local
            cache of the hub. An organism of the microworld gets exact probabilities.
        question: any text; a question of its world where the model is one of the microworld.
        step: checkpoint of an organism of a run, or "final".
        edit: edit-id of an organism of a run, or None.
        base: of an adapter whose config names none that is here.
        samples: answers per model; by default 1, in the microworld 5.
        temperature: 0 takes the likeliest token each time. Nothing else shapes the distribution.
        max_new_tokens: of an answer, its end-of-turn token included; by default 256, or half of the model's positions.
        seed: of the draws. An answer follows from seed, prompt and number of the sample; base and organism get the same
            random numbers.
        system: system message; None leaves it to the chat template.
        thinking: mode of a template that has one; None takes that of the training.
        dtype: of a base that was trained on elsewhere; float32 by default.
        device: of the model, for example "cuda".

    Raises:
        SpecError: an empty question, or an argument that does not fit the model.
        NarrowlyError: no such model, or one that cannot be opened.
    """
    how = HowToAsk(temperature, seed, max_new_tokens, samples, system, thinking, dtype=dtype, device=device)
    return ask_model(find_model(str(model), Path("out"), step, edit, base), question, how)


def ask_model(model: ModelToAsk, question: str, how: HowToAsk) -> Reply:
    """Ask a model that was found, and its base where `how` says so; `ask` finds it by name.

    Raises:
        SpecError: an empty question, or something of `how` that does not fit the model.
        NarrowlyError: the model cannot be loaded.
    """
    if not question.strip():
        raise SpecError("the question is empty; accepted: some words, in quotation marks")
    for text, what in ((question, "the question"), (how.system or "", "--system")):
        check_text(text, what)
    if is_of_the_microworld(model):
        assert model.run is not None and model.step is not None
        refuse_what_the_microworld_has_not(model, how)
        from narrowly.workbench.ask_world import ask_world

        samples = SAMPLES_OF_THE_MICROWORLD if how.samples is None else how.samples
        return ask_world(model.run, question, model.step, model.edit, samples, how.seed)
    how = settled(model, how)
    tokenizer = model.tokenizer()
    asked = Question("question", ((Message("user", question),),), 1, None, None, None, {}, {})
    items = items_of(model, tokenizer, [asked], how)
    loaded = model.load(tokenizer, how.dtype or "float32", how.device, beside_base=how.beside_base)
    written = sorted((one for ended in answers(loaded, items, how) for one in ended), key=lambda one: one.sample)
    said = []
    for who in loaded.asked:
        own = tuple(answer for answer in written if answer.who == who)
        said.append(Said(who, None, (), tuple((answer.answer, None) for answer in own), own))
    return Reply(model.run, model.base.name, False, (), tuple(said))


def refuse_what_the_microworld_has_not(model: ModelToAsk, how: HowToAsk) -> None:
    """Refuse settings that would be left out of the microworld's exact probabilities without a word.

    Raises:
        SpecError: naming the setting.
    """
    plain = HowToAsk(seed=how.seed, samples=how.samples, batch=how.batch)
    changed = [name for name in HowToAsk._fields if getattr(how, name) != getattr(plain, name)]
    if changed:
        raise SpecError(
            f"{', '.join(map(option_of, changed))} does not fit {model.name}, an organism of the microworld, whose "
            "answers are exact probabilities; accepted there: --samples and --seed"
        )


def option_of(field: str) -> str:
    """Return the option of the command line that sets a field of `HowToAsk`."""
    return "--no-base" if field == "beside_base" else f"--{field.replace('_', '-')}"
