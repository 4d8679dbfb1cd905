"""Find defences by name, and read their short form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from inspect import cleandoc
from typing import Any

import yaml

from narrowly.records.errors import SpecError, nearest, unknown_name
from narrowly.records.field_table import field_rows
from narrowly.records.run_spec import RunSpec
from narrowly.records.spec import validated
from narrowly.study.defences.data_treatments import CorrectedRows, InoculationPrompting, InterleavedRows
from narrowly.study.defences.early_stopping import EarlyStopping
from narrowly.study.defences.kl_to_base import KlToBase
from narrowly.study.defences.other_optimiser import Muon, SpectralPower
from narrowly.study.defences.preventative_steering import PreventativeSteering
from narrowly.study.defences.protocol import Defence
from narrowly.study.defences.realignment import RealignmentByDpo, RealignmentBySail
from narrowly.study.defences.scaling import NormMatching, Scaling
from narrowly.study.defences.spectral_penalty import SpectralPenaltyAtFixedNorm
from narrowly.study.defences.undefended import Undefended

DEFENCES: dict[str, type[Defence]] = {
    one.model_fields["kind"].default: one
    for one in (
        Undefended, Scaling, NormMatching, EarlyStopping, Muon, SpectralPower, SpectralPenaltyAtFixedNorm, KlToBase,
        PreventativeSteering, InterleavedRows, InoculationPrompting, CorrectedRows, RealignmentByDpo, RealignmentBySail,
    )
}  # fmt: skip
"""Every defence by the name of its kind."""


def defence_spec(value: Defence | Mapping[str, Any] | str) -> Defence:
    """Return the typed defence from a mapping with `kind`, or from a short form such as `kl_to_base:weight=.1`.

    Raises:
        UnknownNameError: an unknown kind.
        SpecError: an option of another defence, a value that is not accepted.
    """
    if isinstance(value, Defence):
        return value
    fields = _parsed(value) if isinstance(value, str) else dict(value)
    kind = fields.get("kind")
    if kind not in DEFENCES:
        raise unknown_name("defence", str(kind), DEFENCES)
    accepted = [name for name in DEFENCES[kind].model_fields if name != "kind"]
    for name in fields:
        if name not in (*accepted, "kind"):
            owners = [other for other, model in DEFENCES.items() if name in model.model_fields]
            hint = f" (an option of {', '.join(owners)})" if owners else nearest(name, accepted)
            raise SpecError(f"defence {kind} has no option {name!r}{hint}; accepted: {', '.join(accepted) or 'none'}")
    typed: Defence = validated(DEFENCES[kind], fields, f"defence {kind}")
    return typed


def _parsed(text: str) -> dict[str, Any]:
    kind, _, rest = text.strip().partition(":")
    fields: dict[str, Any] = {"kind": kind}
    for part in rest.split(",") if rest else ():
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise SpecError(f"defence {text!r}: found {part!r}, accepted: {kind}:OPTION=VALUE, commas between several")
        if name in fields:
            raise SpecError(f"defence {text!r}: {name} is given twice")
        fields[name] = _value(value)
    return fields


def _value(text: str) -> Any:
    try:
        return float(text) if "." in text or "e" in text.lower() else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text


def defence_assignments(run: RunSpec, text: str) -> list[str]:
    """Return the overrides that make the defended run of an undefended one; none at strength 0.

    Raises:
        UnknownNameError: no such defence.
        SpecError: options that are not accepted, a run that it cannot be put on, a defence that acts after training.
    """
    defence = defence_spec(text)
    plan = defence.plan(run)
    if plan.again is not None or plan.edits or plan.after is not None:
        raise SpecError(
            f"defence {text!r} acts after training, accepted here: one that acts before or during it (narrowly "
            "realign RUN --by ... realigns an organism, narrowly repair RUN --edit scale:factor=... scales it)"
        )
    differs = [name for name in RunSpec.model_fields if getattr(plan.run, name) != getattr(run, name)]
    fields = plan.run.model_dump(mode="json", include=set(differs))
    return [f"{name}={json.dumps(fields[name])}" for name in differs]


def describe(kind: str) -> dict[str, Any]:
    """Return what a defence is, in plain values: what it does, when, at which cost, from where, and its options.

    Raises:
        UnknownNameError: no such defence.
    """
    if kind not in DEFENCES:
        raise unknown_name("defence", kind, DEFENCES)
    one = DEFENCES[kind]
    return {
        "defence": kind,
        "stage": one.stage,
        "about": cleandoc(one.__doc__ or "").splitlines()[0],
        "cost": one.cost,
        "source": one.source,
        "options": [row._asdict() for row in field_rows(one)],
    }
