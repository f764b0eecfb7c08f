"""A run = model x task x data x layout x optimizer, each a small frozen value.

Every field has its one default here. A field that can be one of several things is a
union of dataclasses, told apart by their `kind`; each carries its own parameters.
"""

import dataclasses
from typing import ClassVar, Literal

from llmjax.config.checks import positive, require
from llmjax.config.data import DataConfig
from llmjax.config.loss import LossConfig
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
    """jax's Pallas kernel for TPU, in blocks of queries and keys."""

    kind: ClassVar[str] = "splash"
    block_q: int = 512
    block_kv: int = 512
    fused_backward: bool = False  # one kernel for all gradients, not two

    def __post_init__(self):
        for name in ("block_q", "block_kv"):
            size = getattr(self, name)
            require(
                size > 0 and size % 128 == 0, f"{name} is {size}; a multiple of 128"
            )


Attention = (
    EinsumAttention
    | BlockedAttention
    | ChunkedAttention
    | DotProductAttention
    | SplashAttention
)


@dataclasses.dataclass(frozen=True)
class NoQuantization:
    """Matmuls in layout.precision."""

    kind: ClassVar[str] = "none"


@dataclasses.dataclass(frozen=True)
class Int8:
    """Matmuls of int8 forward, and backward too unless told (AQT; qwix)."""

    kind: ClassVar[str] = "int8"
    backward: bool = True


@dataclasses.dataclass(frozen=True)
class Fp8:
    """Matmuls of float8: e4m3 forward, e5m2 gradients (Micikevicius et al. 2022)."""

    kind: ClassVar[str] = "fp8"
    backward: bool = True


Quantization = NoQuantization | Int8 | Fp8


@dataclasses.dataclass(frozen=True)
class LossScale:
    """Dynamic scaling of float16's loss (Micikevicius et al. 2017, arXiv:1710.03740).

    It multiplies the mean loss. Gradients that overflow skip the update, which `step`
    counts and the learning rate's schedule doesn't, and halve the scale;
    `growth_interval` updates without one double it. An overflow at a scale of 1 ends
    the run.
    """

    initial: float = 2.0**15
    growth_interval: int = 2000

    def __post_init__(self):
        positive(self, "initial", "growth_interval")


# What a layer computes that remat can keep (or bring to the host) by name: its input,
# projections, the attention's result before and after `out`, and those of the MLP.
Activations = Literal[
    "input", "query", "key", "value", "context", "out", "gate", "up", "down"
]


@dataclasses.dataclass(frozen=True)
class LayoutConfig:
    """How the same maths is spread over devices and time."""

    # the mesh, outermost first: one of them -1 takes the devices that are left
    data: int = -1
    pipeline: int = 1
    fsdp: int = 1
    expert: int = 1
    sequence: int = 1
    tensor: int = 1
    slices: int = 1  # that `data` spans over the slow network
    plan_topology: str | None = None  # of TPU chips that the run fits: "v5p:4x4x4"
    # what is computed
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    loss_scale: LossScale = LossScale()  # of float16
    quantization: Quantization = NoQuantization()
    masters: Literal["float32", "bfloat16"] = "float32"  # bfloat16: rounded at random
    attention: Attention = EinsumAttention()
    context: Literal["gather", "ring", "ulysses"] = (
        "gather"  # attention over `sequence`
    )
    sequence_parallel: bool = False  # between branches, tokens over `tensor` too
    # what is kept, and where
    remat: Literal["none", "full", "dots", "names"] = "none"
    saved: tuple[Activations, ...] = ()  # by remat="names", in the device's memory
    offloaded: tuple[Activations, ...] = ()  # by remat="names", in the host's
    optimizer_sharding: Literal["weights", "data"] = "weights"  # data: ZeRO-1
    optimizer_memory: Literal["device", "host"] = "device"
    loss_block: int = 128  # positions of each row whose logits exist at a time
    # what comes after what
    unroll: int = 1  # layers per iteration of the scan
    microbatches: int = 1
    pipeline_microbatches: int | None = None  # None: as many as stages
    pipeline_rounds: int = 1  # times that a microbatch passes all stages
    # of XLA for the step on TPUs: "xla_tpu_scoped_vmem_limit_kib=98304"
    compiler_options: tuple[str, ...] = ()

    def __post_init__(self):
        for name in (
            "unroll",
            "microbatches",
            "loss_block",
            "slices",
            "pipeline_rounds",
        ):
            require(
                getattr(self, name) >= 1,
                f"{name} is {getattr(self, name)}; it must be at least 1",
            )
        for name in ("saved", "offloaded"):
            require(
                not getattr(self, name) or self.remat == "names",
                f"{name} is {getattr(self, name)} and remat {self.remat!r}; only "
                "remat='names' reads it",
            )
        twice = set(self.saved) & set(self.offloaded)
        require(not twice, f"{', '.join(sorted(twice))}: both saved and offloaded")
        for option in self.compiler_options:
            name, _, value = option.partition("=")
            require(
                name.startswith("xla_") and bool(value),
                f"compiler_options has {option!r}; an option is xla_NAME=VALUE",
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
    heartbeat_timeout_seconds: int = 100  # a process silent for so long is lost

    def __post_init__(self):
        for name in (
            "steps",
            "log_every",
            "eval_every",
            "checkpoint_every",
            "heartbeat_timeout_seconds",
        ):
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
    loss: LossConfig = LossConfig()

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
