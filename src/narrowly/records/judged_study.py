"""Specify how a study lets a judge read what its organisms say. Pydantic only."""

from __future__ import annotations

from pydantic import Field, model_validator

from narrowly.records.run_spec import BaseDtype
from narrowly.records.spec import Spec
from narrowly.records.verdicts import Cuts


class JudgedSpec(Spec):
    """Free answers of a study: what the last checkpoints and their bases are asked, and who judges what they say."""

    bank: str = Field("broad", description="open questions, as `narrowly ask --bank` takes them")
    samples: int = Field(2, ge=1, le=200, description="answers to each question and training seed")
    temperature: float = Field(1.0, ge=0, le=10, description="of the answers")
    max_new_tokens: int = Field(256, ge=1, description="of an answer")
    seed: int = Field(0, ge=0, description="of the draws")
    rubric: str = Field("ours", description="as `narrowly judge --rubric` takes it")
    cuts: Cuts = Field(default_factory=Cuts, description="between the outcome classes")
    judge: str | None = Field(None, description="judge on this machine, scored exactly; this or an endpoint")
    dtype: BaseDtype | None = Field(None, description="of the judge on this machine; null is float32")
    endpoint: str | None = Field(None, description="server of the judge, for instance http://127.0.0.1:8000/v1")
    model: str | None = Field(None, description="name of the judge at its endpoint")
    key_env: str | None = Field(None, description="environment variable with the key of the endpoint")
    tokenizer: str | None = Field(None, description="folder of the tokenizer behind the endpoint, to check its numbers")

    @model_validator(mode="after")
    def _one_judge(self) -> JudgedSpec:
        if (self.judge is None) == (self.endpoint is None):
            found = "neither a judge nor an endpoint" if self.judge is None else "a judge and an endpoint"
            raise ValueError(f"{found}; accepted: one of them, the other null")
        if (self.endpoint is None) != (self.model is None):
            raise ValueError("endpoint and model belong together; accepted: both, or neither")
        return self
