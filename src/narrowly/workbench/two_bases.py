"""Say whether two adapters stand on one base, as far as their records tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from narrowly.workbench.names import NamedAdapter


def base_note(a: NamedAdapter, b: NamedAdapter) -> str | None:
    """Return a line that says that two adapters are of different bases, or None where nothing says so.

    Two runs are compared by the sha256 of their bases' weights, everything else by the names in adapter_config.json,
    and by the revisions where both have one. An adapter that names no base is of any.

    Raises:
        AdapterError: an adapter_config.json that cannot be read.
        IntegrityError: a run whose inputs.json cannot be read.
    """
    from narrowly.spectrum.folder import layout_of

    hashes = [_weights_of_base(one) for one in (a, b)]
    if hashes[0] and hashes[0] == hashes[1]:
        return None
    layouts = [layout_of(one.folder) for one in (a, b)]
    names = [layout.base.rstrip("/") for layout in layouts]
    revisions = [layout.revision for layout in layouts]
    if all(hashes):
        what = [
            f"{name or 'a base without name'}, sha256 {found[:12]}" for name, found in zip(names, hashes, strict=True)
        ]
        return f"two bases: A is of {what[0]}, B of {what[1]}; angles, overlaps and cosines compare nothing"
    if not all(names):
        return None
    if names[0] == names[1] and all(revisions):
        names = [f"{name}@{revision}" for name, revision in zip(names, revisions, strict=True)]
    if names[0] == names[1]:
        return None
    return (
        f"the config of A names the base {names[0]}, that of B {names[1]}; angles, overlaps and cosines compare "
        "nothing where these are two models"
    )


def _weights_of_base(adapter: NamedAdapter) -> str:
    """Return the sha256 of the weights that an adapter's run began with; empty where no run says."""
    from narrowly.runs.directory import INPUTS, read_inputs

    run = adapter.run_directory
    return read_inputs(run).base_sha256 if run is not None and (run / INPUTS).is_file() else ""
