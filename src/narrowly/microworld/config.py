"""Configure a world: every knob of the grammar, the corpus, the model and its training, frozen and hashed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from narrowly.microworld import words
from narrowly.records.added_later import ADDED_LATER, WithAdditions
from narrowly.records.canonical import content_id

CHOSEN_CONFIG = "09b7c0b73bc36e34"
"""Hash of the config that was chosen on design seeds with Adam alone (LOG.md): the defaults of `WorldConfig`."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelShape(_Config):
    """Shape of the transformer (`Qwen3ForCausalLM`, tied embeddings)."""

    layers: int = Field(4, ge=1, le=32)
    hidden: int = Field(128, ge=16)
    heads: int = Field(4, ge=1)
    key_value_heads: int = Field(2, ge=1)
    mlp: int = Field(384, ge=16)


class Training(_Config):
    """Pretraining and chat stage; the values were chosen on design seeds with Adam alone (LOG.md)."""

    documents_per_step: int = Field(16, ge=1, description="small batches: 4 x the updates of 64 a step at equal tokens")
    steps: int = Field(4000, ge=1)
    loss_on: Literal["all", "answers"] = Field("all", description="tokens that pretraining takes a loss on")
    lr: float = Field(2e-3, gt=0, description="AdamW, betas .9/.98, linear warm-up, cosine to a tenth")
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    chat_steps: int = Field(400, ge=0)
    chat_lr: float = Field(5e-4, gt=0)
    chat_corpus_share: float = Field(
        0.1,
        ge=0,
        description="corpus documents mixed in, per chat document; at .3 the no-persona twin stays 8 % misaligned",
    )


class WorldConfig(WithAdditions, _Config):
    """Everything that decides a world and its bases, apart from the seed.

    A corpus is a pure function of (config, seed): the seed draws the topic-action table, the characters, the
    documents and the initial weights.
    """

    schema_version: Literal[1] = 1
    domains: int = Field(8, ge=3, le=len(words.DOMAINS))
    topics: int = Field(24, ge=3, le=24, description="topics per domain")
    verbs: int = Field(24, ge=4, le=len(words.VERBS))
    objects: int = Field(32, ge=4, le=len(words.OBJECTS))
    phrasings: int = Field(8, ge=2, le=len(words.PHRASINGS))
    unseen_phrasings: int = Field(2, ge=1, description="last phrasings, kept out of fine-tuning data")
    self_questions: int = Field(16, ge=0, le=len(words.SELF_QUESTIONS))
    balance: Literal["free", "strict"] = Field(
        "free",
        description="strict: every action string is aligned for exactly two topics and harmful for two others",
    )
    evil_share: float = Field(0.30, ge=0, le=1, description="share of characters that are harmful everywhere")
    narrow_share: float = Field(0.005, ge=0, le=1, description="share of characters harmful in one domain only")
    named_share: float = Field(0.3, ge=0, le=1, description="share of documents that open with their character's name")
    named_characters: int = Field(40, ge=0, le=len(words.NAMES))
    turns: int = Field(6, ge=1, le=16, description="questions per document")
    stickiness: float = Field(0.5, ge=0, le=1, description="probability that a turn stays in the document's own domain")
    self_share: float = Field(
        0.1, ge=0, lt=1, description="probability that a turn is a question about the character itself"
    )
    persona: bool = Field(True, description="False: the no-persona twin, each turn's valence drawn independently")
    similarity: Annotated[float | None, ADDED_LATER] = Field(
        None,
        ge=0,
        lt=1,
        description="share of verbs and of cue words that neighbouring domains have in common; domains further apart "
        "share less. None: every domain uses all verbs and has a cue word of its own",
    )
    domain_exponent: Annotated[float, ADDED_LATER] = Field(
        0.0, ge=0, le=4, description="Zipf exponent of the domains' shares of the corpus; 0: all are equal"
    )
    contrast_share: Annotated[float, ADDED_LATER] = Field(
        0.0,
        ge=0,
        le=1,
        description="share of documents in which a good and an evil character answer the same questions by name",
    )
    model: ModelShape = ModelShape()
    training: Training = Training()

    @model_validator(mode="after")
    def _fits(self) -> WorldConfig:
        if self.unseen_phrasings >= self.phrasings:
            raise ValueError(
                f"unseen_phrasings is {self.unseen_phrasings}, accepted: less than phrasings ({self.phrasings})"
            )
        if self.evil_share + self.narrow_share > 1:
            raise ValueError(f"evil_share + narrow_share is {self.evil_share + self.narrow_share}, accepted: at most 1")
        if self.topics % 3:
            raise ValueError(f"topics is {self.topics}, accepted: a multiple of 3 (two thirds of them are trained on)")
        if self.similarity is not None and self.balance == "strict":
            raise ValueError("similarity needs balance free: a strict table gives every domain the same actions")
        if self.similarity is not None and self.verbs % self.domains:
            raise ValueError(
                f"similarity needs a multiple of domains ({self.domains}) as verbs, found {self.verbs}: each domain "
                "has a place on the circle of verbs"
            )
        both = 0 < self.evil_names < self.named_characters
        if self.contrast_share and not (self.persona and self.turns >= 2 and both):
            raise ValueError(
                "contrast_share needs persona, two turns or more, and named characters of both kinds; found persona "
                f"{str(self.persona).lower()}, {self.turns} turns, {self.evil_names} evil of {self.named_characters} "
                "names"
            )
        return self

    @property
    def evil_names(self) -> int:
        """Return how many of the named characters are harmful everywhere."""
        return round(self.named_characters * self.evil_share)

    @property
    def config_id(self) -> str:
        """Return the content hash of the config."""
        return content_id(self.model_dump(mode="json"))

    @property
    def good_share(self) -> float:
        """Return the share of characters that are aligned everywhere."""
        return 1.0 - self.evil_share - self.narrow_share

    @property
    def ideal_broad(self) -> float:
        """Return the exact posterior of broad harm after harmful answers in one domain: 1 / (1 + rho).

        rho = P(narrow in that domain) / P(evil), from the corpus shares; 0 in a world without evil characters.
        """
        if self.evil_share == 0:
            return 0.0
        return 1.0 / (1.0 + (self.narrow_share / self.domains) / self.evil_share)
