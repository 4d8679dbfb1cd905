"""Typed specs of edits: changes of an adapter's singular values after training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from spectralign.records.canonical import content_id


class _Edit(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def edit_id(self) -> str:
        """Return a readable, unique name of the edit, used as its folder name."""
        values = self.model_dump(mode="json", exclude={"kind"})
        tail = "".join(f"-{value:g}" for value in values.values())
        return f"{self.__class__.model_fields['kind'].default}{tail}"

    @property
    def content_id(self) -> str:
        """Return the content hash of the edit."""
        return content_id(self.model_dump(mode="json"))


class KeepTop(_Edit):
    """Keep the k largest singular values of every adapter, set the rest to zero."""

    kind: Literal["keep_top"] = "keep_top"
    k: int = Field(1, ge=1)


class DropTop(_Edit):
    """Set the k largest singular values of every adapter to zero."""

    kind: Literal["drop_top"] = "drop_top"
    k: int = Field(1, ge=1)


class Flatten(_Edit):
    """Make all singular values of an adapter equal, at the same Frobenius norm."""

    kind: Literal["flatten"] = "flatten"


class Scale(_Edit):
    """Multiply every singular value by a factor in (0, 1]; the control for every other edit."""

    kind: Literal["scale"] = "scale"
    factor: float = Field(gt=0, le=1)


EditSpec = Annotated[KeepTop | DropTop | Flatten | Scale, Field(discriminator="kind")]
