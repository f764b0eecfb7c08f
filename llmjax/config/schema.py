"""A run = model x task x data x layout x optimizer, each a small frozen value.

Every field has its one default here. A field that can be one of several things is a
union of dataclasses, told apart by their `kind`; each carries its own parameters.
"""

import dataclasses
from typing import ClassVar, Literal

from llmjax.config.checks import require
from llmjax.config.data import DataConfig
from llmjax.config.model import ModelConfig
from llmjax.config.positions import Learned
from llmjax.config.task import CausalLM, TaskConfig

# --- layout --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class EinsumAttention:
    """The reference: all scores at once."""

    kind: ClassVar[str] = "einsum"


@dataclasses.dataclass(frozen=True)
class BlockedAttention:
    """Blocks of queries, each against only the keys that it may see."""

    kind: ClassVar[str] = "blocked"
    block: int = 128

    def __post_init__(self):
        require(self.block >= 1, f"block is {self.block}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class ChunkedAttention(BlockedAttention):
    """A block of queries at a time, computed again backward: memory linear in T."""

    kind: ClassVar[str] = "chunked"
    block: int = 512


@dataclasses.dataclass(frozen=True)
class DotProductAttention:
    """`jax.nn.dot_product_attention`: cuDNN's kernel on a GPU."""

    kind: ClassVar[str] = "dot_product"


@dataclasses.dataclass(frozen=True)
class SplashAttention:
    """jax's Pallas kernel for TPU."""

    kind: ClassVar[str] = "splash"


Attention = (
    EinsumAttention
    | BlockedAttention
    | ChunkedAttention
    | DotProductAttention
    | SplashAttention
)


@dataclasses.dataclass(frozen=True)
class LayoutConfig:
    """How the same maths is spread over devices and time."""

    data: int = -1
    pipeline: int = 1
    fsdp: int = 1
    expert: int = 1
    sequence: int = 1
    tensor: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    unroll: int = 1  # layers per iteration of the scan
    microbatches: int = 1
    attention: Attention = EinsumAttention()
    loss_block: int = 128  # positions of each row whose logits exist at a time

    def __post_init__(self):
        for name in ("unroll", "microbatches", "loss_block"):
            require(
                getattr(self, name) >= 1,
                f"{name} is {getattr(self, name)}; it must be at least 1",
            )


# --- optimizer -----------------------------------------------------------------------


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
class SGD:
    """Stochastic gradient descent with momentum."""

    kind: ClassVar[str] = "sgd"
    momentum: float = 0.9


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

    algorithm: AdamW | Adafactor | Lion | Muon | SGD = AdamW()
    schedule: WarmupCosine | Linear | Constant = WarmupCosine()
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    decay: Literal["matrices", "all"] = "matrices"  # matrices: not norms nor biases
    clip_norm: float | None = 1.0
    ema: float | None = None  # decay of an averaged copy of the weights, if any


# --- the run -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scratch:
    """Random weights from train.seed."""

    kind: ClassVar[str] = "scratch"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Weights from elsewhere: where names agree, adapted to a larger vocabulary.

    `path` is the workdir of an earlier run (`step` None: its best one), a folder or
    .gguf file in the hub's formats, or a pinned package ("package:NAME").
    """

    kind: ClassVar[str] = "checkpoint"
    path: str = ""
    step: int | None = None

    def __post_init__(self):
        require(bool(self.path), "path is empty; give the workdir of an earlier run")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how often, what is kept."""

    seed: int = 0
    steps: int = 1000
    log_every: int = 10
    eval_every: int = 100
    eval_batches: int | None = None  # None: the whole split
    checkpoint_every: int = 100
    keep_best: int = 1
    best_metric: str = "loss"  # of the evaluation; smaller is better
    writers: tuple[Literal["jsonl", "tensorboard", "wandb"], ...] = ("jsonl",)

    def __post_init__(self):
        for name in ("steps", "log_every", "eval_every", "checkpoint_every"):
            require(
                getattr(self, name) >= 1,
                f"{name} is {getattr(self, name)}; it must be at least 1",
            )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that a run is a function of."""

    model: ModelConfig = ModelConfig()
    task: TaskConfig = CausalLM()
    data: DataConfig = DataConfig()
    layout: LayoutConfig = LayoutConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    init: Scratch | Checkpoint = Scratch()

    def __post_init__(self):
        B, k = self.data.batch_size, self.layout.microbatches
        require(
            B % k == 0,
            f"data.batch_size={B} is not a multiple of layout.microbatches={k}",
        )
        positions, data = self.model.positions, self.data
        longest = max(data.seq_len, data.encoder_seq_len or 0)
        require(
            not isinstance(positions, Learned) or positions.max_length >= longest,
            f"data.seq_len={data.seq_len} or data.encoder_seq_len="
            f"{data.encoder_seq_len} exceeds the learned positions; raise "
            f"model.positions.max_length={getattr(positions, 'max_length', None)}",
        )
