"""Hold updates of any rank on the base of a run: one adapter as wide as the widest of them, filled anew for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.models.lora import base_weights, unmerge
from narrowly.models.organism import Organism, adapted_base, base_of_run, tokenizer_of_run
from narrowly.records.run_spec import AdapterSpec
from narrowly.runs.directory import read_spec

if TYPE_CHECKING:
    from narrowly.spectrum.pairs import LoraPair


class WideAdapter:
    """The base of a run with an adapter of scale 1 that takes pairs up to some rank; the base is in float32.

    Args:
        run: run directory; its target modules are adapted.
        rank: the largest of the pairs to come.

    Raises:
        NarrowlyError: as `base_of_run`.
    """

    def __init__(self, run: Path, rank: int) -> None:
        spec, base = read_spec(run), base_of_run(run)
        wide = AdapterSpec(r=rank, alpha=float(rank), rslora=False, target_modules=spec.adapter.target_modules)
        self.model: Any = adapted_base(base, spec.model_copy(update={"adapter": wide}), dtype="float32")
        self._untouched = base_weights(self.model)
        self._organism = Organism(self.model, tokenizer_of_run(run, base), base, spec)

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer of the run."""
        return self._organism.tokenizer

    @contextmanager
    def holding(self, pairs: Sequence[LoraPair]) -> Iterator[Organism]:
        """Give the organism of an update, merged into the base meanwhile.

        Args:
            pairs: one of scale 1 for every adapted module.
        """
        import torch

        from narrowly.spectrum.pairs import pairs_from_model

        named = {pair.name: pair for pair in pairs}
        with torch.no_grad():
            for live in pairs_from_model(self.model):
                pair = named[live.name]
                live.A_R_I.zero_()[: pair.rank].copy_(pair.A_R_I)
                live.B_O_R.zero_()[:, : pair.rank].copy_(pair.B_O_R)
        self.model.merge_adapter()
        try:
            yield self._organism
        finally:
            unmerge(self.model, self._untouched)
