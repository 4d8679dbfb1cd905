"""Specify the optimisers of torch 2.13 and pytorch-optimizer 4.1, and where a library leaves its paper.

Every argument of a constructor is either a field here or a constant in `narrowly.optim.builders.library`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from narrowly.records.optimisers.base import Acts, Decay, LearningRate, LoRAPlusRatio, Momentum, OptimiserBase

_BETA1 = "momentum decay; arXiv 1412.6980, section 2"
_BETA2 = "decay of squared gradients; arXiv 1412.6980, section 2"


class SGDSpec(OptimiserBase):
    """Stochastic gradient descent, heavy-ball momentum without dampening (torch.optim.SGD)."""

    acts: ClassVar[Acts] = Acts("gradient", "gradient or its heavy-ball momentum", "as A", "as A")

    kind: Literal["sgd"] = "sgd"
    lr: LearningRate = Field(description="step length; no default, because no source gives one for LoRA")
    momentum: Momentum = Field(0.0, description="0 and 0.9 are the two arms of the studies; torch 2.13 default 0")
    nesterov: bool = Field(False, description="torch 2.13 default")
    weight_decay: Decay = Field(0.0, description="coupled (added to the gradient); torch 2.13 default")
    lora_plus_ratio: LoRAPlusRatio = None


class AdamSpec(OptimiserBase):
    """Adam with coupled decay (torch.optim.Adam; Kingma and Ba, arXiv 1412.6980)."""

    acts: ClassVar[Acts] = Acts("Adam", "momentum over root mean square, elementwise", "as A", "as A")

    kind: Literal["adam"] = "adam"
    lr: LearningRate = Field(description="step length, about the RMS step per element")
    beta1: Momentum = Field(0.9, description="arXiv 1412.6980, section 2")
    beta2: Momentum = Field(0.999, description="arXiv 1412.6980, section 2")
    eps: float = Field(1e-8, gt=0, description="arXiv 1412.6980, section 2")
    weight_decay: Decay = Field(0.0, description="coupled; torch 2.13 default")
    lora_plus_ratio: LoRAPlusRatio = None


class AdamWSpec(OptimiserBase):
    """Adam with decoupled decay (torch.optim.AdamW; Loshchilov and Hutter, arXiv 1711.05101)."""

    acts: ClassVar[Acts] = Acts("Adam", "as adam, with decoupled decay", "as A", "as A")

    kind: Literal["adamw"] = "adamw"
    lr: LearningRate = Field(description="step length; decay per step is lr * weight_decay")
    beta1: Momentum = Field(0.9, description="arXiv 1412.6980, section 2")
    beta2: Momentum = Field(0.999, description="arXiv 1412.6980, section 2")
    eps: float = Field(1e-8, gt=0, description="arXiv 1412.6980, section 2")
    weight_decay: Decay = Field(0.01, description="torch 2.13 default; also the replication's value (C)")
    lora_plus_ratio: LoRAPlusRatio = None


class LionSpec(OptimiserBase):
    """Sign of an interpolated momentum (Chen et al., arXiv 2302.06675), from pytorch-optimizer."""

    acts: ClassVar[Acts] = Acts("sign", "sign of an interpolated momentum, elementwise", "as A", "as A")

    kind: Literal["lion"] = "lion"
    lr: LearningRate = Field(description="step length of every element (sign update)")
    beta1: Momentum = Field(0.9, description="interpolation for the step; arXiv 2302.06675, algorithm 2")
    beta2: Momentum = Field(
        0.99, description="momentum decay; arXiv 2302.06675. The Trainer's lion_* pass 0.999 instead"
    )
    weight_decay: Decay = Field(0.0, description="decoupled; pytorch-optimizer 4.1 default")
    lora_plus_ratio: LoRAPlusRatio = None


class AdEMAMixSpec(OptimiserBase):
    """Adam with a second, slow momentum (Pagliardini et al., arXiv 2409.03137), from pytorch-optimizer.

    As published, with decoupled decay. The slow momentum starts at zero and is not bias-corrected, so that at
    beta3 = .9999 it hardly acts in a run of a hundred steps.
    """

    acts: ClassVar[Acts] = Acts(
        "Adam", "fast momentum plus alpha times slow momentum, over root mean square", "as A", "as A"
    )

    kind: Literal["ademamix"] = "ademamix"
    lr: LearningRate = Field(description="step length, as Adam's")
    beta1: Momentum = Field(0.9, description="fast momentum; arXiv 2409.03137 and pytorch-optimizer 4.1 default")
    beta2: Momentum = Field(0.999, description="squared gradients; arXiv 2409.03137 and pytorch-optimizer 4.1 default")
    beta3: Momentum = Field(
        0.9999, gt=0, description="slow momentum; arXiv 2409.03137 and pytorch-optimizer 4.1 default"
    )
    alpha: float = Field(5.0, ge=0, le=1000, description="weight of the slow momentum; pytorch-optimizer 4.1 default")
    warmup_steps: int | None = Field(
        None,
        ge=1,
        description="steps over which alpha and beta3 grow to their values (T of the paper, which takes all steps); "
        "null: full from the first step; pytorch-optimizer 4.1 default",
    )
    eps: float = Field(1e-8, gt=0, description="pytorch-optimizer 4.1 default")
    weight_decay: Decay = Field(0.0, description="decoupled, as in the paper; pytorch-optimizer 4.1 default value")
    lora_plus_ratio: LoRAPlusRatio = None


class AdafactorSpec(OptimiserBase):
    """Factored second moments and steps relative to the size of the parameter (torch.optim.Adafactor).

    After Shazeer and Stern (arXiv 1804.04235), without momentum. Three things to know:

    - The step of step t is max(eps2, RMS(W)) * min(lr, 1/sqrt(t)) times the clipped update: `lr` is the cap of a
      *relative* step, not a step length. At B = 0 the step is eps2 * lr, so that B starts slowly.
    - torch puts eps1 under the root of the finished estimate, the paper adds it to every squared gradient.
    - Transformers' Adafactor, `optim="adafactor"` in a Trainer, is another optimiser: it runs with
      scale_parameter=False and relative_step=False, hence an absolute step of `lr`.
    """

    acts: ClassVar[Acts] = Acts(
        "factored", "gradient over factored root mean square, clipped, times RMS of A", "as A (eps2 at B = 0)", "as A"
    )

    no_decoupled_penalty: ClassVar[str | None] = "its lr is relative to the size of a factor"

    kind: Literal["adafactor"] = "adafactor"
    lr: LearningRate = Field(0.01, description="cap of the relative step; proposed in arXiv 1804.04235; torch default")
    beta2_decay: float = Field(
        -0.8, gt=-10, le=0, description="beta2 of step t is 1 - t**beta2_decay; proposed in arXiv 1804.04235"
    )
    eps1: float | None = Field(
        None, gt=0, description="floor of the root mean square; null: machine epsilon of the dtype, torch 2.13 default"
    )
    eps2: float = Field(1e-3, gt=0, description="smallest RMS(W) a step is scaled with; proposed in arXiv 1804.04235")
    clip: float = Field(1.0, ge=1, description="largest RMS of an update (d); proposed in arXiv 1804.04235")
    weight_decay: Decay = Field(
        0.0, description="decoupled, times lr; torch's default is 0.01: 0 keeps decay out of comparisons, as in muon"
    )


class ProdigySpec(OptimiserBase):
    """Adam whose step length is estimated (Mishchenko and Defazio, arXiv 2306.06101), from pytorch-optimizer.

    As the authors' prodigyopt. One distance d is estimated for all parameters, so that there is no ratio between A
    and B; `lr` multiplies it. While B = 0 only B's gradient feeds the estimate. It can overshoot in short LoRA runs:
    40 steps on micro-0 at the defaults end with a rising loss, with `d_coef` 0.1 they learn.
    """

    acts: ClassVar[Acts] = Acts("Adam", "as adam, the step length estimated from all parameters", "as A", "as A")

    no_decoupled_penalty: ClassVar[str | None] = "its lr multiplies a step length that it estimates"

    kind: Literal["prodigy"] = "prodigy"
    lr: LearningRate = Field(1.0, description="factor on the estimated distance; 1 by the authors' convention")
    beta1: Momentum = Field(0.9, description=_BETA1)
    beta2: Momentum = Field(0.999, description=_BETA2)
    beta3: Momentum | None = Field(
        None, description="decay of the distance's statistics; null: sqrt(beta2), as the authors' code"
    )
    d0: float = Field(
        1e-6,
        gt=0,
        le=1,
        description="first estimate of the distance; default of prodigyopt 1.1 and pytorch-optimizer 4.1",
    )
    d_coef: float = Field(1.0, gt=0, le=1000, description="factor on the estimate; pytorch-optimizer 4.1 default")
    growth_rate: float | None = Field(
        None, gt=1, description="most that d may grow by in a step; null: no bound, pytorch-optimizer 4.1 default"
    )
    weight_decay: Decay = Field(0.0, description="decoupled, times d * lr; pytorch-optimizer 4.1 default")
    bias_correction: bool = Field(False, description="Adam's; pytorch-optimizer 4.1 default")
    safeguard_warmup: bool = Field(
        False, description="keep lr out of the estimate's denominator, for long warm-ups; pytorch-optimizer 4.1 default"
    )
    eps: float = Field(1e-8, gt=0, description="times d; pytorch-optimizer 4.1 default")


class ScheduleFreeAdamWSpec(OptimiserBase):
    """AdamW that averages its iterates instead of decaying its lr (Defazio et al., arXiv 2405.15682).

    From pytorch-optimizer. The gradient is taken at y, between the average x and the base iterate z; checkpoints,
    spectra and evaluations are of x (`narrowly.optim.evaluation_mode`), the training loss is of y. Like the
    authors' package, the library bias-corrects the second moment, where the paper puts that correction into the lr
    (and so into the weights of the average); it also adds 1e-15 under the root. Decay acts on y, as in the paper.

    It wants a constant lr: linear and cosine schedules are refused. One warm-up, the schedule's or its own.
    """

    acts: ClassVar[Acts] = Acts(
        "Adam", "gradient over root mean square on z; the model is an average of z", "as A", "as A"
    )

    no_decoupled_penalty: ClassVar[str | None] = "its parameters are interpolated anew in every step"

    kind: Literal["schedulefree_adamw"] = "schedulefree_adamw"
    lr: LearningRate = Field(description="step length of z; the authors suggest 1 to 10 times AdamW's")
    beta1: Momentum = Field(0.9, gt=0, description="place of y between z (0) and x (1); pytorch-optimizer 4.1 default")
    beta2: Momentum = Field(0.999, description=_BETA2)
    eps: float = Field(1e-8, gt=0, description="pytorch-optimizer 4.1 default")
    weight_decay: Decay = Field(0.0, description="at y, times lr; pytorch-optimizer 4.1 default")
    weight_step_power: float = Field(
        0.0, ge=0, le=100, description="the average weighs step t by t to this power (r); pytorch-optimizer 4.1 default"
    )
    weight_lr_power: float = Field(
        2.0, ge=0, le=100, description="and by the largest lr so far to this power; pytorch-optimizer 4.1 default"
    )
    warmup_steps: int = Field(
        0,
        ge=0,
        description="linear warm-up of its own, for loops without a schedule; pytorch-optimizer 4.1 default. A run "
        "with schedule.warmup_steps above 0 refuses it",
    )
    lora_plus_ratio: LoRAPlusRatio = None

    def schedule_fault(self, kind: str, warmup_steps: int) -> str | None:
        """Refuse decaying schedules and two warm-ups at once."""
        if kind != "constant":
            return f"schedule.kind is {kind!r}, accepted with schedulefree_adamw: 'constant' (it averages instead)"
        if self.warmup_steps and warmup_steps:
            return (
                f"optimiser.warmup_steps is {self.warmup_steps} and schedule.warmup_steps is {warmup_steps}, accepted: "
                "one warm-up (set one of them to 0)"
            )
        return None


class SOAPSpec(OptimiserBase):
    """Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al., arXiv 2409.11321), from pytorch-optimizer.

    As the authors' code: the first step only starts the preconditioners and moves nothing; bases are refreshed by one
    QR iteration (in float32) every `precondition_frequency` steps; momentum is kept in the original basis. Two
    things to know on LoRA factors:

    - With B = 0 the gradient of A is zero in that first step, so A's bases are the identity (that is, Adam) until the
      first refresh.
    - One gradient has rank r at most, so most of a long side's first basis is an arbitrary choice of LAPACK's, and
      steps depend on it until enough gradients have come in. `max_precondition_dim` below the model's width keeps to
      the rank side, where nothing is arbitrary.
    """

    acts: ClassVar[Acts] = Acts(
        "second moments of matrices", "Adam in the eigenbases of the mean G G^T and G^T G", "as A", "vectors: Adam"
    )

    kind: Literal["soap"] = "soap"
    lr: LearningRate = Field(description="step length, as Adam's; the authors' default for pre-training is 3e-3")
    beta1: Momentum = Field(0.95, description="the authors' and pytorch-optimizer 4.1's default")
    beta2: Momentum = Field(0.95, description="the authors' and pytorch-optimizer 4.1's default")
    shampoo_beta: Momentum | None = Field(
        None, description="decay of G G^T and G^T G; null: beta2, pytorch-optimizer 4.1 default"
    )
    eps: float = Field(1e-8, gt=0, description="pytorch-optimizer 4.1 default")
    weight_decay: Decay = Field(0.01, description="decoupled; pytorch-optimizer 4.1 default, the authors' too")
    precondition_frequency: int = Field(
        10, ge=1, description="steps between refreshes of the bases; the authors' and pytorch-optimizer 4.1's default"
    )
    max_precondition_dim: int = Field(
        10000,
        ge=1,
        description="longer sides keep the identity; pytorch-optimizer 4.1 default, the authors' too. State per side "
        "is 2 side^2: for 8B adapters a value between r and the model's width keeps it to the rank side",
    )
    lora_plus_ratio: LoRAPlusRatio = None


class LoRARITESpec(OptimiserBase):
    """LoRA-RITE: adaptive steps that do not depend on how BA is split (Yen et al., arXiv 2410.20625).

    From pytorch-optimizer. Each factor's gradient is divided by the other factor's magnitude, preconditioned by an
    r x r second moment that is carried along when the bases turn, and divided once more. Where the library leaves the
    paper's algorithm 1: both moments are bias-corrected by their decay; the escaped mass is left out unless
    `apply_escape`; the unmagnified gradients are clipped together and skipped when large; an `eps` is added on both
    sides of the root. With all of that BA still moves the same however it is split.
    """

    acts: ClassVar[Acts] = Acts(
        "LoRA pairs",
        "matrix-preconditioned momentum of the unmagnified gradient, by pair",
        "as A, same pair",
        "refused",
    )

    factors_only: ClassVar[str | None] = "it preconditions A and B of a pair together"

    kind: Literal["lora_rite"] = "lora_rite"
    lr: LearningRate = Field(description="step length of the preconditioned, unmagnified update")
    beta1: Momentum = Field(0.9, description="pytorch-optimizer 4.1 default")
    beta2: Momentum = Field(0.999, description="pytorch-optimizer 4.1 default")
    eps: float = Field(1e-6, gt=0, description="beside the root, its square under it; pytorch-optimizer 4.1 default")
    relative_epsilon: bool = Field(
        False, description="scale the square by the largest eigenvalue; pytorch-optimizer 4.1 default"
    )
    clip_unmagnified_grad: float = Field(
        1.0, ge=0, description="joint norm of all unmagnified gradients; 0: off; pytorch-optimizer 4.1 default"
    )
    update_capping: float = Field(
        0.0, ge=0, description="largest RMS of a momentum; 0: off; pytorch-optimizer 4.1 default"
    )
    update_skipping: float = Field(
        1.0,
        ge=0,
        description="a factor whose unmagnified gradient has a larger RMS counts as zero; 0: off; pytorch-optimizer "
        "4.1 default",
    )
    weight_decay: Decay = Field(0.0, description="decoupled; pytorch-optimizer 4.1 default")
    apply_escape: bool = Field(
        False, description="add the second moment lost when bases turn; in the paper, off in pytorch-optimizer 4.1"
    )
    balance_param: bool = Field(
        False, description="give A and B of a pair one norm after the step; pytorch-optimizer 4.1 default"
    )


LibraryOptimiser = (
    SGDSpec
    | AdamSpec
    | AdamWSpec
    | LionSpec
    | AdEMAMixSpec
    | AdafactorSpec
    | ProdigySpec
    | ScheduleFreeAdamWSpec
    | SOAPSpec
    | LoRARITESpec
)
"""Any of the specs above."""
