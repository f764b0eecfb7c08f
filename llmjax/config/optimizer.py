"""The optimizer: an algorithm, a schedule, decay, and what is not trained."""

import dataclasses
from typing import ClassVar, Literal


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Loshchilov & Hutter 2019, arXiv:1711.05101."""

    kind: ClassVar[str] = "adamw"
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Shazeer & Stern 2018, arXiv:1804.04235."""

    kind: ClassVar[str] = "adafactor"
    decay_rate: float = 0.8
    min_dim_size_to_factor: int = 128


@dataclasses.dataclass(frozen=True)
class Lion:
    """Chen et al. 2023, arXiv:2302.06675."""

    kind: ClassVar[str] = "lion"
    b1: float = 0.9
    b2: float = 0.99


@dataclasses.dataclass(frozen=True)
class Muon:
    """Jordan et al. 2024, at AdamW's step size (Liu et al. 2025, arXiv:2502.16982).

    The layers' matrices; embeddings, heads, norms and biases are AdamW's.
    """

    kind: ClassVar[str] = "muon"
    momentum: float = 0.95
    newton_schulz_steps: int = 5
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8


@dataclasses.dataclass(frozen=True)
class Lamb:
    """You et al. 2019, arXiv:1904.00962: Adam with a trust ratio per layer's leaf."""

    kind: ClassVar[str] = "lamb"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6


@dataclasses.dataclass(frozen=True)
class Sophia:
    """Liu et al. 2023, arXiv:2305.14342: a clipped step by a diagonal Hessian.

    The diagonal is estimated every `interval` updates, by Hutchinson's estimator over
    the whole batch: the loss is differentiated twice.
    """

    kind: ClassVar[str] = "sophia"
    b1: float = 0.96
    b2: float = 0.99
    eps: float = 1e-8
    gamma: float = 0.01
    interval: int = 10


@dataclasses.dataclass(frozen=True)
class ScheduleFree:
    """Defazio et al. 2024, arXiv:2405.15682: AdamW without a schedule's decay.

    Evaluated and kept with its averaged weights. The schedule is `Constant`.
    """

    kind: ClassVar[str] = "schedule_free"
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    kind: ClassVar[str] = "sgd"
    momentum: float = 0.9


Algorithm = AdamW | Adafactor | Lion | Lamb | Muon | Sophia | ScheduleFree | SGD


@dataclasses.dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, then half a cosine to `final` of the peak at the end."""

    kind: ClassVar[str] = "warmup_cosine"
    warmup_steps: int = 100
    final: float = 0.1


@dataclasses.dataclass(frozen=True)
class Linear:
    """Linear warm-up, then linearly to `final` of the peak at the end."""

    kind: ClassVar[str] = "linear"
    warmup_steps: int = 100
    final: float = 0.0


@dataclasses.dataclass(frozen=True)
class Constant:
    """Linear warm-up, then the peak."""

    kind: ClassVar[str] = "constant"
    warmup_steps: int = 0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """One optax chain."""

    algorithm: Algorithm = AdamW()
    schedule: WarmupCosine | Linear | Constant = WarmupCosine()
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    decay: Literal["matrices", "all"] = "matrices"  # matrices: not norms nor biases
    clip_norm: float | None = 1.0
    ema: float | None = None  # decay of an averaged copy of the weights, if any
    freeze: tuple[str, ...] = ()  # weights not trained: "transformer/embedder/*"
