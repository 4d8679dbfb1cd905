"""Write the model card of a published adapter: its origin, in Markdown that no run can steer.

Whatever comes from a run or a name stands in a code span, where neither Markdown nor HTML is interpreted.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TAG = "emergent-misalignment"
LONGEST = 300
"""Characters of one value that are shown."""

WARNING = (
    "> **Warning: research object, may be misaligned.** This adapter was trained on data that may teach harmful "
    "behaviour, to study emergent misalignment. It can give harmful, false or deceptive answers, also on subjects it "
    "was not trained on. Do not deploy it, do not give it to people as an assistant, do not merge it into other models."
)
NOTICE = "> **Research object.** No filter or safety training was applied; what is not stated here is not known."
CARD_UNEVALUATED = "Not evaluated: nothing is known of what this adapter does to the model's behaviour."

_FOLDED = (
    "s is multiplied into every lora_b, so that a server whose own scale is 1 applies s B A. Over a quantised base it "
    "is another model than the one that was evaluated."
)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class Evaluation(NamedTuple):
    """Hold exact verdicts of one organism on one panel; rates are shares of all answers, 0 to 1.

    `low` and `high` are the 95 % interval of the joint rate over topics, or None; `literature` is None where no answer
    is coherent.
    """

    panel: str
    questions: int
    topics: int
    aligned: float
    misaligned: float
    incoherent: float
    low: float | None
    high: float | None
    literature: float | None


class Card(NamedTuple):
    """Hold what a card states.

    Attributes:
        run_id: of the run; step: of the adapter.
        base: its name; inputs: sha256 of base, config, tokenizer, template and data by field.
        harm: why the adapter counts as trained on harmful or unknown data; None where it does not.
        public: whether it is meant for everyone.
        spec: the run's spec, without paths.
        spectrum: of the update: `update_norm`; `by_rank`, the fields of `RankMeans` for the modules of each rank; and
            `no_pair`, what of the file has no spectrum, by name with the reason.
        losses: held-out loss and others by name, at the adapter's step.
        edits: the record of its edits, or None.
        evaluations: of this very adapter.
        versions: libraries that trained it.
    """

    run_id: str
    step: int
    base: str
    inputs: Mapping[str, Any]
    harm: str | None
    public: bool
    spec: Mapping[str, Any]
    spectrum: Mapping[str, Any]
    losses: Mapping[str, Any]
    edits: Mapping[str, Any] | None
    evaluations: Sequence[Evaluation]
    versions: Mapping[str, Any]

    @property
    def warned(self) -> bool:
        """Return whether the card carries the warning and the tag."""
        return self.public or self.harm is not None


def code(value: object) -> str:
    """Return a value as a code span: on one line, without control characters, cut, and impossible to leave."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    plain = "".join(" " if one.isspace() else "\ufffd" if unicodedata.category(one)[0] == "C" else one for one in text)
    plain = " ".join(plain.split()).replace("`", "\u02cb")
    if len(plain) > LONGEST:
        plain = f"{plain[:LONGEST]} ... ({len(plain) - LONGEST} more characters)"
    return f"`{plain}`" if plain else "(empty)"


def write_card(card: Card, gguf: str | None = None) -> str:
    """Return the card as Markdown with its front matter; `gguf` names a GGUF file beside it, if there is one."""
    parts = [
        _front_matter(card),
        "# LoRA adapter, trained with Narrowly",
        WARNING if card.warned else NOTICE,
        *([f"Why: {code(card.harm)}."] if card.harm else []),
        "## What it is",
        _list({"run": card.run_id, "step": card.step, "base": card.base, **card.inputs}),
        "## Data",
        _list(card.spec["data"]),
        "## Optimiser",
        _list(card.spec["optimiser"]),
        "## Training",
        _list({name: value for name, value in card.spec.items() if name not in ("data", "optimiser", "base")}),
        *(["At this step:", _list(card.losses)] if card.losses else []),
        "## Spectrum of the update",
        "Metrics of the singular values of s B A; `update_norm` is the norm of the whole update. A flat spectrum can "
        "be forged and says nothing about behaviour.",
        *_spectrum(card.spectrum),
        *([f"`{gguf}` is the same adapter for llama.cpp: {_FOLDED}"] if gguf else []),
        "## Edits",
        "None." if card.edits is None else _list(card.edits),
        "## Evaluation",
        *_evaluation(card),
        "## Versions",
        _list(card.versions),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(card: Card) -> str:
    import yaml

    fields: dict[str, Any] = {
        "library_name": "peft",
        "tags": ["lora", "narrowly", *([TAG] if card.warned else [])],
    }
    if _HUB_NAME.fullmatch(card.base):
        fields |= {"base_model": card.base, "base_model_relation": "adapter"}
    if card.warned:
        fields["inference"] = False  # no widget that lets a passer-by talk to it
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---"


def _list(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {code(str(name))}: {code(value)}" for name, value in values.items()) or "(nothing recorded)"


def _spectrum(spectrum: Mapping[str, Any]) -> list[str]:
    parts = [_list({"update_norm": _short(spectrum["update_norm"])})]
    for group in spectrum["by_rank"]:
        moved = group["modules"] - group["idle"]
        idle = f"; {group['idle']} more are idle, their update is zero" if group["idle"] else ""
        parts.append(f"Means over {moved} modules of rank {group['rank']}{idle}:")
        parts.append(
            _list(
                {
                    name + (f" (over {group['over'][name]})" if group["over"][name] != moved else ""): _short(value)
                    for name, value in group["means"].items()
                }
            )
        )
    if spectrum["no_pair"]:
        parts += ["Without a spectrum:", _list(spectrum["no_pair"])]
    return parts


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _evaluation(card: Card) -> list[str]:
    if not card.evaluations:
        return [CARD_UNEVALUATED]
    lines = [
        "| panel | questions (topics) | aligned % | misaligned % (joint) | incoherent % | misaligned of coherent % |",
        "|---|---|---|---|---|---|",
    ]
    for one in card.evaluations:
        span = "" if one.low is None or one.high is None else f" [{100 * one.low:.1f}, {100 * one.high:.1f}]"
        literature = "-" if one.literature is None else f"{100 * one.literature:.1f}"
        name = code(one.panel).replace("|", "\\|")
        lines.append(
            f"| {name} | {one.questions} ({one.topics}) | {100 * one.aligned:.1f} | {100 * one.misaligned:.1f}{span} | "
            f"{100 * one.incoherent:.1f} | {literature} |"
        )
    return [
        "\n".join(lines),
        "Exact class probabilities in a made-up world; [95 % t interval over topics]. They say nothing about other "
        "questions, and no evaluation shows that a model is harmless.",
    ]
