"""Narrowly: a laboratory and toolbox for emergent misalignment.

Importing the package costs nothing: no torch, no pydantic. Each public name is fetched from its room on first use.
Everything else can be imported by room (`narrowly.optim`, `narrowly.spectrum` ...) and may move.

    study     run_study, report_study, load_study, match_runs, StudySpec
    one run   train_run, RunSpec, load_organism, evaluate_organism, ask
    adapters  spectrum_of, edit_adapter
    own loop  build_optimizer, SpectralPenalty
    errors    NarrowlyError

`narrowly.spectrum` and `narrowly.evaluate` are rooms: importing a room sets the attribute of its name on the package,
so no function can have that name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "NarrowlyError",
    "RunSpec",
    "SpectralPenalty",
    "StudySpec",
    "__version__",
    "ask",
    "build_optimizer",
    "edit_adapter",
    "evaluate_organism",
    "load_organism",
    "load_study",
    "match_runs",
    "report_study",
    "run_study",
    "spectrum_of",
    "train_run",
]

if TYPE_CHECKING:
    from narrowly.evaluate.run_stage import evaluate_organism
    from narrowly.models.organism import load_organism
    from narrowly.optim.build import build_optimizer
    from narrowly.records.errors import NarrowlyError
    from narrowly.records.run_spec import RunSpec
    from narrowly.records.study_spec import StudySpec
    from narrowly.report.write import report_study
    from narrowly.spectrum.penalty import SpectralPenalty
    from narrowly.study.library import load_study
    from narrowly.study.matching import match_runs
    from narrowly.study.run import run_study
    from narrowly.train.run import train_run
    from narrowly.workbench.ask import ask
    from narrowly.workbench.repair import edit_adapter
    from narrowly.workbench.spectra import spectrum_of

_MODULES = {
    "NarrowlyError": "narrowly.records.errors",
    "RunSpec": "narrowly.records.run_spec",
    "SpectralPenalty": "narrowly.spectrum.penalty",
    "StudySpec": "narrowly.records.study_spec",
    "ask": "narrowly.workbench.ask",
    "build_optimizer": "narrowly.optim.build",
    "edit_adapter": "narrowly.workbench.repair",
    "evaluate_organism": "narrowly.evaluate.run_stage",
    "load_organism": "narrowly.models.organism",
    "load_study": "narrowly.study.library",
    "match_runs": "narrowly.study.matching",
    "report_study": "narrowly.report.write",
    "run_study": "narrowly.study.run",
    "spectrum_of": "narrowly.workbench.spectra",
    "train_run": "narrowly.train.run",
}
"""The module that each public name is fetched from; a type checker reads the imports above."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        try:
            found = getattr(import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            from narrowly.records.errors import MissingExtraError
            from narrowly.records.install import extra_with, install_hint

            extra = extra_with(str(error.name).partition(".")[0])
            if extra is None:
                raise
            raise MissingExtraError(f"{name} needs {error.name}; add it with: {install_hint(extra)}") from error
        globals()[name] = found
        return found
    near = ""
    if not name.startswith("__"):
        from narrowly.records.errors import nearest

        near = nearest(name, _MODULES)
    raise AttributeError(f"module 'narrowly' has no attribute {name!r}{near}")


def __dir__() -> list[str]:
    return sorted(__all__)
