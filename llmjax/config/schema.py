"""A run = model x task x data x layout x optimizer, each a small frozen value.

Every field has its one default here. A field that can be one of several things is a
union of dataclasses, told apart by their `kind`; each carries its own parameters.
"""

import dataclasses
from typing import ClassVar, Literal

from llmjax.config.checks import require
from llmjax.config.data import DataConfig
from llmjax.config.model import ModelConfig
from llmjax.config.optimizer import OptimizerConfig
from llmjax.config.positions import Learned
from llmjax.config.precision import Float32, Precision
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
    precision: Precision = Float32()
    quantization: Quantization = NoQuantization()
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
    best_metric: str = "loss"  # of the evaluation
    best_mode: Literal["min", "max"] = "min"  # max: larger is better
    patience: int | None = None  # evaluations in a row without a better one: the end
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
        require(
            self.patience is None or self.patience >= 1,
            f"patience is {self.patience}; it must be at least 1, or None",
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
