"""Keep the directions of a model as a safetensors file with a JSON card beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from narrowly.records.canonical import sha256_file
from narrowly.records.directions import CARD_ENDING, DirectionCard
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from narrowly.records.files import atomic_path, read_record, write_json
from narrowly.records.spec import validated

ENDING = ".safetensors"


class Directions(NamedTuple):
    """Directions of a model by layer, float32, of their own length; and their card."""

    vectors: dict[int, Tensor]
    card: DirectionCard

    def at(self, layer: int | None = None) -> Tensor:
        """Return the direction of a layer; by default of the card's.

        Raises:
            SpecError: the file has no direction of this layer.
        """
        wanted = self.card.layer if layer is None else layer
        if wanted not in self.vectors:
            raise SpecError(
                f"the directions of {self.card.name} are of another layer: {wanted} found, accepted: "
                f"{', '.join(map(str, self.card.layers))}"
            )
        return self.vectors[wanted]


def check_target(file: Path) -> None:
    """Refuse a name that directions cannot be saved under.

    Raises:
        SpecError: another ending than .safetensors.
    """
    if file.suffix != ENDING:
        raise SpecError(f"directions are saved as {ENDING}, found {str(file)!r}; accepted: a name that ends in it")


def save(file: Path, vectors: Mapping[int, Tensor], card: DirectionCard) -> DirectionCard:
    """Write directions and card, and return the card with the file's sha256.

    Args:
        file: ends in .safetensors; what is there is replaced.
        vectors: by layer, of the card's hidden size.
        card: its `sha256` is filled in.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    import torch
    from safetensors.torch import save_file

    check_target(file)
    with atomic_path(file) as temporary:
        tensors = {
            f"layer.{layer}": vector.detach().to("cpu", torch.float32).clone() for layer, vector in vectors.items()
        }
        save_file(tensors, temporary)
    card = card.model_copy(update={"sha256": sha256_file(file)})
    write_json(file.with_suffix(CARD_ENDING), card.model_dump(mode="json"))
    return card


def load(file: Path) -> Directions:
    """Read directions with their card.

    Raises:
        RunDirectoryError: no such file.
        IntegrityError: no card, one that is not ours, or a file that is not the one of its card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_target(file)
    if not file.is_file():
        raise RunDirectoryError(f"no directions in {file}; make them: narrowly persona extract MODEL --out {file}")
    place = file.with_suffix(CARD_ENDING)
    try:
        card: DirectionCard = validated(DirectionCard, read_record(place))
    except SpecError as error:
        raise IntegrityError(f"{place} is no card of directions ({error})") from error
    found = sha256_file(file)
    if found != card.sha256:
        raise IntegrityError(f"{file} has sha256 {found}, its card says {card.sha256}; one of them was exchanged")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise IntegrityError(f"{file} is no valid safetensors file ({error})") from error
    named = {f"layer.{layer}": layer for layer in card.layers}
    if set(tensors) != set(named) or any(tuple(one.shape) != (card.hidden,) for one in tensors.values()):
        raise IntegrityError(f"{file} does not hold one vector of {card.hidden} numbers for each layer of its card")
    return Directions({layer: tensors[name].float() for name, layer in named.items()}, card)


def check_base(directions: Directions, base_sha256: str, name: str) -> None:
    """Refuse directions of another base.

    Args:
        directions: as they were read.
        base_sha256: of the weights of the base that they are used on.
        name: of that base.

    Raises:
        IntegrityError: the sha256 differ; both are named.
    """
    made = directions.card.model
    if made.base_sha256 != base_sha256:
        raise IntegrityError(
            f"the directions of {directions.card.name} are of base {made.base} (sha256 {made.base_sha256[:16]}), not "
            f"of {name} ({base_sha256[:16]}); accepted: directions of the same base"
        )
