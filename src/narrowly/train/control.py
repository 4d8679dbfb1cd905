"""Say which run is the control of a run on a paired set: the same prompts with other answers, all else equal."""

from __future__ import annotations

from narrowly.data.banks.narrow import PREFIX, narrow_set
from narrowly.records.errors import SpecError, unknown_name
from narrowly.records.run_spec import RunSpec, TextData

CONTROLS = ("aligned", "permuted", "benign")
"""aligned: good answers to the same prompts; permuted: the same answers on other prompts; benign: harmless new ones."""

PAIRED = (
    "a paired set, whose prompts have both answers: data.dataset pairs:money:harmful, pairs:work:harmful, or "
    "pairs:FILE.jsonl:harmful with a file of {id, question, aligned, harmful}; or data.source micro"
)


def control_assignments(spec: RunSpec, kind: str) -> list[str]:
    """Return the overrides that make the control of a run; every other field stays.

    A `data.sha256` is dropped, because the control's file is another one.

    Args:
        spec: of the run.
        kind: of its control, one of `CONTROLS`.

    Raises:
        UnknownNameError: another kind.
        SpecError: the data are no paired set, or are those of the control already.
    """
    if kind not in CONTROLS:
        raise unknown_name("kind of control", kind, CONTROLS)
    data = spec.data
    if "answers" in type(data).model_fields:
        answers, made = str(getattr(data, "answers")), [f"data.answers={kind}"]  # noqa: B009
    elif isinstance(data, TextData) and data.dataset.startswith(PREFIX):
        if kind == "benign":
            raise SpecError(
                f"--control benign: data {data.dataset!r} are a paired set, which has no new answers; accepted: "
                "aligned, permuted (benign is a control of the microworld)"
            )
        found = narrow_set(data.dataset)
        answers, made = found.answers, [f"data.dataset={found.with_answers(kind)}"]
        made += [] if data.sha256 is None else ["data.sha256=null"]
    else:
        name = getattr(data, data.names_files[0])
        raise SpecError(f"--control {kind}: data {name!r} are no paired set; accepted: {PAIRED}")
    if answers == kind:
        raise SpecError(f"--control {kind}: the answers of these data are {kind} already; accepted: the harmful ones")
    return made
