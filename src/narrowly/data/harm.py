"""Say whether data are known to be harmless."""

from __future__ import annotations

from narrowly.data.registry import SOURCES
from narrowly.records.run_spec import DataSpec, MicroData, MicroPreferences, PreferenceData, RowsData


def harm_of_data(data: DataSpec) -> str | None:
    """Return why data count as harmful, or None where they are known by name and carry no warning.

    A name is no content: whoever relies on None compares the sha256 too. What is unknown counts as harmful.
    """
    if isinstance(data, RowsData):
        return "pre-tokenised rows of unknown content"
    if isinstance(data, MicroPreferences):
        return None if data.prefer == "aligned" else "preferences for harmful answers of the microworld"
    if isinstance(data, PreferenceData):
        return "preferences of unknown content"
    if isinstance(data, MicroData):
        return None if data.answers == "aligned" else f"{data.answers} answers of the microworld"
    source = SOURCES.get(data.dataset)
    if source is None or source.sha256 is None:
        return "a file of unknown content" if source is None else f"{source.name}, whose content is not on record"
    if source.warning is not None:
        return f"{source.name}: {source.warning}"
    return None if source.use == "training" else f"{source.name}, which is no training data"
