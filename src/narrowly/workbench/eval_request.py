"""Check what `narrowly eval` is to measure, of whom and against whom, before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from narrowly.data.banks.paired import PairedItem, bank_is_shipped, paired_bank
from narrowly.evaluate.paired.cued import Asked, ways_to_ask
from narrowly.evaluate.paired.ladder import trained_domains
from narrowly.evaluate.paired.result import Role
from narrowly.microworld.cards import CARD
from narrowly.models.asked import ModelToAsk
from narrowly.records.adapter_files import ADAPTER_CONFIG
from narrowly.records.answers import AskedModel
from narrowly.records.errors import SpecError, unknown_name
from narrowly.records.run_spec import BaseDtype
from narrowly.runs.directory import is_run, read_spec, run_of_adapter
from narrowly.workbench.asking import HowToAsk, check_text, find_model, settled
from narrowly.workbench.control import check_control, check_same_base, check_seeds


class Arm(NamedTuple):
    """Hold one model that is measured."""

    role: Role
    number: int
    model: ModelToAsk
    asked: AskedModel

    @property
    def label(self) -> str:
        """Return role and number."""
        return f"{self.role} {self.number}"


class EvalRequest(NamedTuple):
    """Hold what is measured, checked as far as it can be without loading a model.

    Attributes:
        arms: organisms, their controls if any, and the base, which costs one more pass over the bank; or one model.
        base: of the organisms; None for an untrained model.
        bank, items: name of the bank and its questions.
        how: settled.
        trained: domains that the organisms were trained on.
        margin: for verdicts, in nats per answer; None gives none.
        out: folder of results, or None.
        damage: whether the damage panel is measured.
        cued: conditions of the cued panel; none where it is not measured.
        notes: what cannot be proved of the controls.
    """

    arms: tuple[Arm, ...]
    base: Arm | None
    bank: str
    items: tuple[PairedItem, ...]
    how: HowToAsk
    trained: tuple[str, ...]
    margin: float | None
    out: Path | None
    damage: bool
    cued: tuple[Asked, ...]
    notes: tuple[str, ...]

    @property
    def cued_arms(self) -> tuple[Arm, ...]:
        """Return the models that the cued panel compares: beside controls the base is not among them."""
        if any(arm.role == "control" for arm in self.arms):
            return tuple(arm for arm in self.arms if arm.role != "base")
        return self.arms

    @property
    def dtype(self) -> BaseDtype:
        """Return the dtype that all models are loaded in."""
        return self.how.dtype or "float32"


class Found(NamedTuple):
    """Hold the models that were named: organisms with their controls, or one untrained model."""

    organisms: tuple[ModelToAsk, ...]
    controls: tuple[ModelToAsk, ...]
    model: ModelToAsk | None


def find_arms(
    model: str,
    adapters: Sequence[str],
    controls: Sequence[str],
    out: Path,
    step: int | Literal["final"] = "final",
    edit: str | None = None,
    base: str | None = None,
) -> Found:
    """Return what is measured: the model, or adapters on it as a base, and controls.

    Args:
        model: as `find_model` takes it: an organism, or a model by itself, on which adapters stand.
        adapters: folders of adapters, or runs on this base; one per seed.
        controls: of the organisms, in their order: folders of adapters, or runs.
        out: folder of runs and studies.
        step: of every run that is named.
        edit: of the model or of the adapters.
        base: of a model that is an adapter from elsewhere.

    Raises:
        SpecError: adapters beside a model that is an organism already; an adapter or a control that is a model by
            itself; controls of an untrained model.
        NarrowlyError: as `find_model`.
    """
    found = find_model(model, out, step if not adapters else "final", edit if not adapters else None, base)
    if adapters and found.who != "model":
        raise SpecError(f"--adapter does not fit {model}, which is an organism already; give its base as MODEL")
    beneath = base if base is not None else model if found.who == "model" else None
    organisms = (
        tuple(_adapter("--adapter", one, out, step, edit, beneath) for one in adapters)
        if adapters
        else (found,) if found.who == "organism" else ()
    )  # fmt: skip
    for one in organisms if adapters else ():
        if one.base.sha256 != found.base.sha256:
            raise SpecError(
                f"--adapter {one.name} was trained on base {one.base.name} with sha256 {one.base.sha256[:16]}, {model} "
                f"has {found.base.sha256[:16]}; accepted: adapters on MODEL"
            )
    if controls and not organisms:
        raise SpecError(f"--control does not fit {model}, an untrained model; accepted: beside an organism")
    return Found(
        organisms,
        tuple(_adapter("--control", one, out, step, None, beneath) for one in controls),
        None if organisms else found,
    )


def _adapter(
    option: str, text: str, out: Path, step: int | Literal["final"], edit: str | None, base: str | None
) -> ModelToAsk:
    """Return an organism that an option names: an adapter from elsewhere on a base, or one of a run."""
    path = Path(text).expanduser()
    elsewhere = (path / ADAPTER_CONFIG).is_file() and not is_run(path) and run_of_adapter(path) is None
    found = find_model(text, out, base=base) if elsewhere else find_model(text, out, step, edit)
    if found.who != "organism":
        raise SpecError(f"{option} {text} is a model by itself, accepted: the folder of an adapter, or a run")
    return found


def eval_request(
    organisms: Sequence[ModelToAsk],
    controls: Sequence[ModelToAsk],
    model: ModelToAsk | None,
    *,
    bank: str,
    how: HowToAsk,
    trained_on: str | None = None,
    margin: float | None = None,
    out: Path | None = None,
    damage: bool = True,
    cued: bool = False,
) -> EvalRequest:
    """Check what is measured, of whom and against whom, before anything is loaded.

    Args:
        organisms: of one training, one per seed; none for an untrained model.
        controls: one per organism in the same order, or none.
        model: the untrained model where there is no organism.
        bank: as `paired_bank` takes it.
        how: system message, thinking mode, dtype and device; nothing is sampled.
        trained_on: domain of the bank that organisms from elsewhere were trained on.
        margin: largest difference that does not matter, in nats per answer.
        out: folder of results.
        damage: whether abilities and perplexity are measured too.
        cued: whether the broad questions are asked behind words of the training too.

    Raises:
        SpecError: models of different bases, prompts, dtypes or trainings; a number of controls that is not that of
            the organisms; the same weights twice.
        NarrowlyError: a bank or a model that cannot be read.
    """
    items = tuple(paired_bank(bank))
    check_margin(margin, bool(controls))
    check_text(how.system or "", "--system")
    if controls and len(controls) != len(organisms):
        raise SpecError(
            f"{len(controls)} controls for {len(organisms)} organisms; accepted: one for each, in their order, or none"
        )
    arms = _arms(organisms, controls, model, how)
    first = arms[0]
    for arm in arms:
        _check_english(arm.model)
    how = _settled_alike(arms, how)
    for arm in arms[1:]:
        check_same_base(first.model.name, first.asked, arm.model.name, arm.asked)
    _refuse_twice(arms)
    notes = [*check_seeds("organisms", organisms), *check_seeds("controls", controls)]
    notes += [note for one, other in zip(organisms, controls, strict=False) for note in check_control(one, other)]
    trained = _trained(organisms, trained_on, items)
    ways = _ways(trained, items, how) if cued else ()
    base = _base(organisms[0], how) if organisms else None
    return EvalRequest(
        arms, base, bank_name(bank), items, how, trained, margin, out, damage, ways, tuple(dict.fromkeys(notes))
    )


def bank_name(bank: str) -> str:
    """Return the name of a bank without its folder: no path goes into a result."""
    return bank if bank_is_shipped(bank) else Path(bank).name


def check_margin(margin: float | None, has_controls: bool) -> None:
    """Refuse a margin that gives no verdict.

    Raises:
        SpecError: it is not above 0 and finite, or there is no difference to a control that it could judge.
    """
    if margin is None:
        return
    if not 0 < margin < math.inf:
        raise SpecError(f"--margin is {margin:g}, accepted: nats per answer above 0")
    if not has_controls:
        raise SpecError("--margin judges a difference to controls, and there is none; give --control, or leave it out")


def _arms(
    organisms: Sequence[ModelToAsk], controls: Sequence[ModelToAsk], model: ModelToAsk | None, how: HowToAsk
) -> tuple[Arm, ...]:
    """Return the models that are measured, each by content."""

    def arm(role: Role, number: int, one: ModelToAsk) -> Arm:
        return Arm(role, number, one, one.asked(one.dtype or how.dtype or "float32", beside_base=False)[one.who])

    if not organisms:
        if model is None:
            raise SpecError("no model to measure")
        return (arm("model", 1, model),)
    found = [arm("organism", number, one) for number, one in enumerate(organisms, start=1)]
    found += [arm("control", number, one) for number, one in enumerate(controls, start=1)]
    return (*found, _base(organisms[0], how))


def _base(organism: ModelToAsk, how: HowToAsk) -> Arm:
    """Return the base of an organism, which is asked as the organism is."""
    asked = organism.asked(organism.dtype or how.dtype or "float32", beside_base=True)["base"]
    return Arm("base", 1, ModelToAsk(organism.base.name, organism.base), asked)


def _check_english(model: ModelToAsk) -> None:
    if (model.base.folder / CARD).is_file():
        raise SpecError(
            f"the paired bank is in English, and base {model.base.name} of {model.name} knows the words of its "
            "microworld only; accepted there: a run of it, without --bank, --adapter and --control"
        )


def _settled_alike(arms: Sequence[Arm], how: HowToAsk) -> HowToAsk:
    """Return how all of them are asked; refuse models that are asked in different ways.

    The base is asked as its organism is: the template and thinking mode of the training.

    Raises:
        SpecError: as `settled`; two that differ in dtype or thinking mode.
    """
    of_arms = [(arm, settled(arm.model, how)) for arm in arms if arm.role != "base"]
    (first, found), *others = of_arms
    for arm, other in others:
        for field in ("dtype", "thinking"):
            one, another = getattr(found, field), getattr(other, field)
            if one != another:
                raise SpecError(
                    f"{first.model.name} is asked with {field} {one}, {arm.model.name} with {another}, as each was "
                    "trained; such numbers are not compared"
                )
    return found


def _refuse_twice(arms: Sequence[Arm]) -> None:
    """Refuse the same trained weights twice: seeds and controls must be different models (D17)."""
    seen: dict[str, Arm] = {}
    for arm in arms:
        sha256 = arm.asked.trained_sha256
        before = seen.setdefault(sha256, arm) if sha256 is not None else arm
        if before is not arm:
            raise SpecError(
                f"{arm.label}, {arm.model.name}, has the weights of {before.label}, {before.model.name}; accepted: "
                "different models"
            )


def _ways(trained: Sequence[str], items: Sequence[PairedItem], how: HowToAsk) -> tuple[Asked, ...]:
    """Return the conditions of the cued panel for a training, without the plain questions, which are asked anyway.

    Raises:
        SpecError: the trained domain is not known, the bank has no broad question, or a system message is given too.
    """
    if not trained:
        raise SpecError(
            "--cued needs the domain of the bank that the organism was trained on, which is not known; accepted: runs "
            "on a paired set, or --trained-on DOMAIN"
        )
    if not any(item.part == "broad" and item.domain not in trained for item in items):
        raise SpecError("--cued needs broad questions, and the bank has none; accepted: a bank with other domains")
    if how.system is not None:
        raise SpecError("--cued gives system messages of its own, and --system gives another; accepted: one of them")
    return ways_to_ask(trained[0])[1:]


def _trained(organisms: Sequence[ModelToAsk], trained_on: str | None, items: Sequence[PairedItem]) -> tuple[str, ...]:
    """Return the domains that the organisms were trained on, from the records of their runs or as the user says."""
    known = sorted({item.domain for item in items})
    if trained_on is not None and trained_on not in known:
        raise unknown_name("domain of the bank in --trained-on", trained_on, known)
    said = () if trained_on is None else (trained_on,)
    if trained_on is not None and not organisms:
        raise SpecError("--trained-on does not fit an untrained model; leave it out")
    found = {trained_domains(read_spec(one.run)) if one.run is not None else said for one in organisms}
    if len(found) > 1 or (said and found != {said}):
        words = ", ".join(
            sorted({"+".join(one) or "none of the bank's" for one in {*found, *([said] if said else [])}})
        )
        raise SpecError(f"organisms of different trained domains ({words}); accepted: seeds of one training")
    return found.pop() if found else ()
