"""A run = model x task x data x layout x optimizer, each a small frozen value.

Every field has its one default here. A field that can be one of several things is a
union of dataclasses, told apart by their `kind`; each carries its own parameters.
"""

import dataclasses
from typing import ClassVar, Literal


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


# --- model ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """Ba et al. 2016, arXiv:1607.06450, with scale and bias."""

    kind: ClassVar[str] = "layer_norm"
    epsilon: float = 1e-5


@dataclasses.dataclass(frozen=True)
class RMSNorm:
    """Zhang & Sennrich 2019, arXiv:1910.07467, with scale."""

    kind: ClassVar[str] = "rms_norm"
    epsilon: float = 1e-6


@dataclasses.dataclass(frozen=True)
class NoPositions:
    """No position information beyond the mask's."""

    kind: ClassVar[str] = "none"


@dataclasses.dataclass(frozen=True)
class Learned:
    """One trained vector per absolute position, added to the embeddings."""

    kind: ClassVar[str] = "learned"
    max_length: int = 2048


@dataclasses.dataclass(frozen=True)
class Sinusoidal:
    """Fixed sines and cosines added to the embeddings (Vaswani et al. 2017, 3.5)."""

    kind: ClassVar[str] = "sinusoidal"
    max_wavelength: float = 10_000.0


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Queries and keys rotated by their position (Su et al. 2021, arXiv:2104.09864)."""

    kind: ClassVar[str] = "rotary"
    theta: float = 10_000.0


@dataclasses.dataclass(frozen=True)
class ScaledDot:
    """q.k / sqrt(H) (Vaswani et al. 2017)."""

    kind: ClassVar[str] = "scaled_dot"


@dataclasses.dataclass(frozen=True)
class Dot:
    """q.k, unscaled (Luong et al. 2015; T5 folds the scale into its initialiser)."""

    kind: ClassVar[str] = "dot"


@dataclasses.dataclass(frozen=True)
class Cosine:
    """cos(q, k) times one trained scale per head (Henry et al. 2020, 2010.04245)."""

    kind: ClassVar[str] = "cosine"
    init_scale: float = 10.0


@dataclasses.dataclass(frozen=True)
class Global:
    """Every key that the mask allows."""

    kind: ClassVar[str] = "global"


@dataclasses.dataclass(frozen=True)
class SlidingWindow:
    """Keys less than `window` positions away (Beltagy et al. 2020; Mistral)."""

    kind: ClassVar[str] = "sliding_window"
    window: int = 1024

    def __post_init__(self):
        _require(self.window >= 1, f"window is {self.window}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """What may differ from one layer of a stack to the next."""

    pattern: Global | SlidingWindow = Global()


@dataclasses.dataclass(frozen=True)
class Group:
    """`repeat` times the layers of `pattern`; scanned over repeats."""

    repeat: int
    pattern: tuple[LayerSpec, ...] = (LayerSpec(),)

    def __post_init__(self):
        _require(self.repeat >= 1, f"repeat is {self.repeat}; it must be at least 1")
        _require(len(self.pattern) >= 1, "pattern is empty; give at least one layer")


Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "relu_squared"]


@dataclasses.dataclass(frozen=True)
class Plain:
    """down(f(up(x))) (Vaswani et al. 2017, 3.3)."""

    kind: ClassVar[str] = "plain"
    activation: Activation = "gelu"


@dataclasses.dataclass(frozen=True)
class Gated:
    """down(f(gate(x)) * up(x)): SwiGLU, GEGLU (Shazeer 2020, arXiv:2002.05202)."""

    kind: ClassVar[str] = "gated"
    activation: Activation = "silu"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One Transformer; a family is a point in this space."""

    architecture: Literal["decoder", "encoder", "encoder_decoder"] = "decoder"
    vocab_size: int = 8192
    d_model: int = 256
    d_ff: int = 1024
    num_layers: int = 4
    groups: tuple[Group, ...] = ()  # when given, replaces num_layers
    num_heads: int = 4
    num_kv_heads: int | None = None  # None: as many as num_heads
    head_dim: int | None = None  # None: d_model / num_heads
    norm: LayerNorm | RMSNorm = RMSNorm()
    norm_position: Literal["pre", "post", "both"] = "pre"
    positions: NoPositions | Learned | Sinusoidal | Rotary = Rotary()
    scores: ScaledDot | Dot | Cosine = ScaledDot()
    mlp: Plain | Gated = Gated()
    biases: Literal["none", "all"] = "none"
    tie_embeddings: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self):
        for name in (
            "vocab_size",
            "d_model",
            "d_ff",
            "num_heads",
            "num_layers",
            "head_dim",
        ):
            _require(
                getattr(self, name) is None or getattr(self, name) > 0,
                f"{name} is {getattr(self, name)}; it must be positive",
            )
        _require(
            self.head_dim is not None or self.d_model % self.num_heads == 0,
            f"d_model={self.d_model} is not a multiple of num_heads={self.num_heads}; "
            "change one of them or set head_dim",
        )
        _require(
            self.K > 0 and self.num_heads % self.K == 0,
            f"num_heads={self.num_heads} is not a multiple of "
            f"num_kv_heads={self.num_kv_heads}; each key head serves an equal group",
        )
        _require(
            self.positions.kind != "rotary" or self.H % 2 == 0,
            f"head size {self.H} is odd; rotary positions turn pairs, so make it even",
        )
        for name in ("dropout", "attention_dropout"):
            _require(
                0 <= getattr(self, name) < 1,
                f"{name} is {getattr(self, name)}; it must be in [0, 1)",
            )

    @property
    def H(self) -> int:
        """Head size."""
        return self.head_dim or self.d_model // self.num_heads

    @property
    def K(self) -> int:
        """Number of key/value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def layers(self) -> tuple[Group, ...]:
        """The groups of layers of each stack."""
        return self.groups or (Group(self.num_layers),)

    @property
    def L(self) -> int:
        """Number of layers of each stack."""
        return sum(g.repeat * len(g.pattern) for g in self.layers)


# --- task ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """Predict the next token (Radford et al. 2018)."""

    kind: ClassVar[str] = "causal_lm"
    z_loss: float = 0.0
    label_smoothing: float = 0.0


@dataclasses.dataclass(frozen=True)
class SequenceClassification:
    """One label per text, from the pooled last hidden states."""

    kind: ClassVar[str] = "sequence_classification"
    num_labels: int = 2
    pooling: Literal["mean", "first", "last"] = "mean"
    text_field: str = "text"
    label_smoothing: float = 0.0


# --- data ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how they become the global batch."""

    source: str = "python_docs"
    directory: str = "~/.cache/llmjax"
    tokenizer_vocab_size: int = 8192
    train_split: str = "train"
    eval_split: str = "validation"
    batch_size: int = 16  # rows of one optimizer update, over all devices
    seq_len: int = 256
    packing: Literal["concat", "pad"] = "concat"
    shuffle_seed: int = 0
    prefetch: int = 4

    def __post_init__(self):
        for name in ("batch_size", "seq_len"):
            _require(
                getattr(self, name) > 0,
                f"{name} is {getattr(self, name)}; it must be positive",
            )


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
        _require(self.block >= 1, f"block is {self.block}; it must be at least 1")


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
    attention: EinsumAttention | BlockedAttention = EinsumAttention()
    loss_block: int = 128  # positions of each row whose logits exist at a time

    def __post_init__(self):
        for name in ("unroll", "microbatches", "loss_block"):
            _require(
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
    """Weights of an earlier run: its workdir, and a step (None: the best one)."""

    kind: ClassVar[str] = "checkpoint"
    path: str = ""
    step: int | None = None

    def __post_init__(self):
        _require(bool(self.path), "path is empty; give the workdir of an earlier run")


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
            _require(
                getattr(self, name) >= 1,
                f"{name} is {getattr(self, name)}; it must be at least 1",
            )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that a run is a function of."""

    model: ModelConfig = ModelConfig()
    task: CausalLM | SequenceClassification = CausalLM()
    data: DataConfig = DataConfig()
    layout: LayoutConfig = LayoutConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    init: Scratch | Checkpoint = Scratch()

    def __post_init__(self):
        B, k = self.data.batch_size, self.layout.microbatches
        _require(
            B % k == 0,
            f"data.batch_size={B} is not a multiple of layout.microbatches={k}",
        )
        positions = self.model.positions
        _require(
            not isinstance(positions, Learned)
            or positions.max_length >= self.data.seq_len,
            f"data.seq_len={self.data.seq_len} exceeds the learned positions; raise "
            f"model.positions.max_length={getattr(positions, 'max_length', None)}",
        )
