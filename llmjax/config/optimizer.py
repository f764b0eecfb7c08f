"""The optimizer: an algorithm, a schedule, decay, and what is not trained."""

from typing import ClassVar, Literal

from llmjax.config.checks import (
    BelowOne,
    Count,
    InsideOne,
    Natural,
    NotNegative,
    Positive,
    Share,
    SomeShare,
    checked,
)


@checked
class AdamW:
    """Loshchilov & Hutter 2019, arXiv:1711.05101."""

    kind: ClassVar[str] = "adamw"
    b1: BelowOne = 0.9
    b2: BelowOne = 0.95
    eps: Positive = 1e-8


@checked
class Adafactor:
    """Shazeer & Stern 2018, arXiv:1804.04235; of projections the matrix is factored.

    That is, all heads together are one of its two dimensions.
    """

    kind: ClassVar[str] = "adafactor"
    decay_rate: SomeShare = 0.8
    min_dim_size_to_factor: Count = 128


@checked
class Lion:
    """Chen et al. 2023, arXiv:2302.06675."""

    kind: ClassVar[str] = "lion"
    b1: BelowOne = 0.9
    b2: BelowOne = 0.99


@checked
class Muon:
    """Jordan et al. 2024, at AdamW's step size (Liu et al. 2025, arXiv:2502.16982).

    The layers' matrices; embeddings, heads, norms and biases are AdamW's.
    """

    kind: ClassVar[str] = "muon"
    momentum: BelowOne = 0.95
    newton_schulz_steps: Count = 5
    b1: BelowOne = 0.9
    b2: BelowOne = 0.95
    eps: Positive = 1e-8


@checked
class Lamb:
    """You et al. 2019, arXiv:1904.00962: Adam with a trust ratio per layer's leaf."""

    kind: ClassVar[str] = "lamb"
    b1: BelowOne = 0.9
    b2: BelowOne = 0.999
    eps: Positive = 1e-6


@checked
class Sophia:
    """Liu et al. 2023, arXiv:2305.14342: a clipped step by a diagonal Hessian.

    The diagonal is estimated every `interval` updates, by Hutchinson's estimator over
    the whole batch: the loss is differentiated twice.
    """

    kind: ClassVar[str] = "sophia"
    b1: BelowOne = 0.96
    b2: BelowOne = 0.99
    eps: Positive = 1e-8
    gamma: Positive = 0.01
    interval: Count = 10


@checked
class ScheduleFree:
    """Defazio et al. 2024, arXiv:2405.15682: AdamW without a schedule's decay.

    Evaluated and kept with its averaged weights. The schedule is `Constant`.
    """

    kind: ClassVar[str] = "schedule_free"
    b1: InsideOne = 0.9
    b2: BelowOne = 0.95
    eps: Positive = 1e-8


@checked
class SGD:
    """Stochastic gradient descent with momentum.

    Weight decay stands apart from it, as of all algorithms here (SGDW, Loshchilov &
    Hutter 2019, algorithm 1): it does not enter the momentum, as torch's does.
    """

    kind: ClassVar[str] = "sgd"
    momentum: BelowOne = 0.9


Algorithm = AdamW | Adafactor | Lion | Lamb | Muon | Sophia | ScheduleFree | SGD


@checked
class WarmupCosine:
    """Linear warm-up, then half a cosine to `final` of the peak at the end."""

    kind: ClassVar[str] = "warmup_cosine"
    warmup_steps: Natural = 100
    final: Share = 0.1


@checked
class Linear:
    """Linear warm-up, then linearly to `final` of the peak at the end."""

    kind: ClassVar[str] = "linear"
    warmup_steps: Natural = 100
    final: Share = 0.0


@checked
class Constant:
    """Linear warm-up, then the peak."""

    kind: ClassVar[str] = "constant"
    warmup_steps: Natural = 0


@checked
class OptimizerConfig:
    """One optax chain."""

    algorithm: Algorithm = AdamW()
    schedule: WarmupCosine | Linear | Constant = WarmupCosine()
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.1
    decay: Literal["matrices", "all"] = "matrices"  # matrices: not norms nor biases
    clip_norm: Positive | None = 1.0
    ema: BelowOne | None = None  # decay of an averaged copy of the weights, if any
    # the rate of each layer, as a multiple of that of the layer above it
    layer_decay: SomeShare = 1.0
    # decay of the Transformer's matrices towards those that the run began with
    start_decay: NotNegative = 0.0
    # updates after which one layer more is trained, from the head down; None: all are
    unfreeze_every: Count | None = None
    freeze: tuple[str, ...] = ()  # weights not trained: "transformer/embedder/*"
