"""Every function that takes a spec takes a plain dict; a wrong one gets one line in the words of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import narrowly
from narrowly.integrations.transformers import SpectralPenaltyCallback, optimizer_factory
from narrowly.records.errors import NarrowlyError
from narrowly.spectrum import apply_edit_to_model
from tiny_adapters import saved, tiny_model

ADAM = {"kind": "adam", "lr": 1e-3}


def train(spec: Any) -> Any:
    return narrowly.train_run(spec, "out/runs")


def run(fields: dict[str, Any]) -> Any:
    study = {"name": "x", "arms": {"a": {"set": {"optimiser": ADAM}}}}
    return narrowly.run_study({**study, **fields}, "out", workers=1)


def build(spec: Any) -> Any:
    return narrowly.build_optimizer(spec, tiny_model())


def callback(options: dict[str, Any]) -> Any:
    return SpectralPenaltyCallback(**{"lam": 0.1, **options})


def penalise(options: dict[str, Any]) -> Any:
    return narrowly.SpectralPenalty(tiny_model(), **{"lam": 0.1, **options})


def edit(spec: Any) -> Any:
    return narrowly.edit_adapter(saved(Path("adapter")), "edited", spec)


def edit_model(spec: Any) -> None:
    apply_edit_to_model(tiny_model(), spec)


CASES: list[tuple[Callable[[Any], Any], Any, str]] = [
    (train, {"optimiser": {"kind": "moun", "lr": 1}}, "optimiser: unknown optimiser 'moun'; did you mean 'muon'?"),
    (train, {"optimiser": ADAM, "stesp": 1}, "stesp: unknown field; did you mean 'steps'?"),
    (train, {"optimiser": ADAM, "steps": "many"}, "steps: found 'many', expected an integer"),
    (train, {"optimiser": ADAM, "steps": 0}, "steps: found 0, expected greater than or equal to 1"),
    (train, {}, "optimiser: missing, and it has no default"),
    (run, {"arms": {"a": {"set": {"optimiser": {"kind": "moun", "lr": 1}}}}}, "did you mean 'muon'?"),
    (run, {"smaples": 1}, "smaples: unknown field; did you mean 'samples'?"),
    (run, {"samples": "few"}, "samples: found 'few', expected an integer"),
    (run, {"samples": -1}, "samples: found -1, expected greater than or equal to 0"),
    (run, {"arms": {"a": {"set": {}}}}, "optimiser: missing, and it has no default"),
    (build, {"kind": "moun", "lr": 1}, "optimiser: unknown optimiser 'moun'; did you mean 'muon'?"),
    (build, {**ADAM, "esp": 1}, "optimiser.esp: unknown field; did you mean 'eps'?"),
    (build, {"kind": "adam", "lr": "fast"}, "optimiser.lr: found 'fast', expected a number"),
    (build, {"kind": "adam", "lr": 0}, "optimiser.lr: found 0, expected greater than 0"),
    (build, {"kind": "adam"}, "optimiser.lr: missing, and it has no default"),
    (optimizer_factory, {"kind": "moun", "lr": 1}, "optimiser: unknown optimiser 'moun'; did you mean 'muon'?"),
    (optimizer_factory, {**ADAM, "esp": 1}, "optimiser.esp: unknown field; did you mean 'eps'?"),
    (optimizer_factory, {"kind": "adam", "lr": "fast"}, "optimiser.lr: found 'fast', expected a number"),
    (optimizer_factory, {"kind": "adam", "lr": 0}, "optimiser.lr: found 0, expected greater than 0"),
    (optimizer_factory, {"kind": "adam"}, "optimiser.lr: missing, and it has no default"),
    (callback, {"kind": "stable_rnak"}, "did you mean 'stable_rank'?"),
    (callback, {"mod": "loss"}, "penalty.mod: unknown field; did you mean 'mode'?"),
    (callback, {"lam": "much"}, "penalty.lam: found 'much', expected a number"),
    (callback, {"lam": -1}, "penalty.lam: found -1, expected greater than or equal to 0"),
    (callback, {"kind": "stable_rank"}, "target is missing, which kind stable_rank needs"),
    (penalise, {"kind": "stable_rnak"}, "did you mean 'stable_rank'?"),
    (penalise, {"lam": "much"}, "penalty lambda is 'much', accepted: a finite number of at least 0"),
    (penalise, {"lam": -1}, "penalty lambda is -1, accepted: a finite number of at least 0"),
    (penalise, {"kind": "stable_rank"}, "penalty stable_rank: target is missing"),
    *[
        (function, spec, message)
        for function in (edit, edit_model)
        for spec, message in (
            ({"kind": "flaten"}, "edit: unknown edit 'flaten'; did you mean 'flatten'?"),
            ({"kind": "flatten", "tt": 1}, "edit.tt: unknown field; did you mean 't'?"),
            ({"kind": "flatten", "t": "half"}, "edit.t: found 'half', expected a number"),
            ({"kind": "flatten", "t": 2}, "edit.t: found 2, expected less than or equal to 1"),
            ({"kind": "scale"}, "edit.factor: missing, and it has no default"),
        )
    ],
]


@pytest.mark.parametrize(
    ("function", "spec", "message"), CASES, ids=lambda part: part.__name__ if callable(part) else str(part)[:40]
)
def test_a_wrong_spec_is_one_line_with_path_value_and_nearest_match(
    function: Callable[[Any], Any], spec: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NarrowlyError) as caught:
        function(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / "edited").exists()


def test_an_adapter_from_elsewhere_is_not_sharpened_from_python_either(tmp_path: Path) -> None:
    with pytest.raises(NarrowlyError, match="keep_top sharpens a spectrum, which is refused"):
        narrowly.edit_adapter(saved(tmp_path / "adapter"), tmp_path / "edited", {"kind": "keep_top", "k": 1})
    assert not (tmp_path / "edited").exists()
