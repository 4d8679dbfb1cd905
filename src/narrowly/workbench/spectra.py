"""Read the spectrum of one organism from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.records.adapter_files import ADAPTER_WEIGHTS, GGUF_SUFFIX, MLX_WEIGHTS
from narrowly.records.errors import AdapterError

if TYPE_CHECKING:
    from narrowly.spectrum.metrics import RankMeans
    from narrowly.spectrum.pairs import Skipped


class FolderSpectrum(NamedTuple):
    """Hold singular values of a trained update and their metrics.

    Attributes:
        modules: one row per module, as `narrowly.spectrum.spectrum_table` describes them.
        summary: the plain mean over modules of each metric, and `update_norm`. The means are None where the ranks of
            the modules differ, and with them the bounds of the metrics; `by_rank` has them.
        by_rank: the means over the modules of each rank.
        skipped: modules and tensors that have no spectrum, each with its reason.
    """

    modules: list[dict[str, Any]]
    summary: dict[str, float | None]
    by_rank: list[RankMeans]
    skipped: list[Skipped]


def spectrum_of(folder: str | Path) -> FolderSpectrum:
    """Read the spectrum of an adapter, or of what a run trained.

    Args:
        folder: an adapter as `spectrum.folder.layout_of` takes it, or a run directory: its final adapter, or what the
            run recorded of W - W0 after method full.

    Raises:
        AdapterError: no folder, or one that holds no LoRA pair that can be read.
        RunDirectoryError: a run without its final checkpoint.
        IntegrityError: records of the run that are broken.
    """
    from narrowly.runs.directory import SPEC, adapter_folder, read_spec
    from narrowly.spectrum.metrics import METRICS, folder_spectrum, rank_means, spectrum_summary

    path = Path(folder)
    if not path.is_dir() and not (path.is_file() and path.suffix == GGUF_SUFFIX):
        raise AdapterError(
            f"{path} is no folder; accepted: a folder with {ADAPTER_WEIGHTS} (or mlx-lm's {MLX_WEIGHTS}), a "
            f"{GGUF_SUFFIX} file, or a run directory"
        )
    skipped: list[Skipped] = []
    if not (path / SPEC).is_file():
        modules, skipped = folder_spectrum(path)
    elif read_spec(path).method == "lora":
        modules, skipped = folder_spectrum(adapter_folder(path, "final"))
    else:
        from narrowly.models.organism import recorded_spectrum

        modules = recorded_spectrum(path)
    summary, by_rank = spectrum_summary(modules), rank_means(modules)
    if len(by_rank) > 1:
        summary |= dict.fromkeys(METRICS)
    return FolderSpectrum(modules, summary, by_rank, skipped)
