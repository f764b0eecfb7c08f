"""One Transformer as data: a family of models is a point in `ModelConfig`."""

import dataclasses
from typing import ClassVar, Literal

from llmjax.config.checks import positive, require
from llmjax.config.feed_forward import MLP, Activation, Gated
from llmjax.config.positions import NoPositions, Positions, Rotary

# --- norms ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """Ba et al. 2016, arXiv:1607.06450, with or without its scale and its bias."""

    kind: ClassVar[str] = "layer_norm"
    epsilon: float = 1e-5
    bias: bool = True
    scale: bool = True


@dataclasses.dataclass(frozen=True)
class RMSNorm:
    """Zhang & Sennrich 2019, arXiv:1910.07467; x * (scale + offset) (Gemma: 1)."""

    kind: ClassVar[str] = "rms_norm"
    epsilon: float = 1e-6
    offset: float = 0.0


# --- attention -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ScaledDot:
    """q.k * scale; None: 1 / sqrt(H) (Vaswani et al. 2017)."""

    kind: ClassVar[str] = "scaled_dot"
    scale: float | None = None


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
class MultiHead:
    """`num_kv_heads` key and value heads, each for an equal group of query heads."""

    kind: ClassVar[str] = "multi_head"


@dataclasses.dataclass(frozen=True)
class Latent:
    """Keys and values from one small vector a token (DeepSeek-V2, arXiv:2405.04434).

    A head has `head_dim` sizes without position, and `rotary_dim` sizes with position,
    which all heads share; values have `value_dim` sizes. Queries come from a vector of
    size `query_rank`, or directly from x (None).
    """

    kind: ClassVar[str] = "latent"
    query_rank: int | None = None
    rank: int = 512
    rotary_dim: int = 64
    value_dim: int = 128


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
        positive(self, "window")


@dataclasses.dataclass(frozen=True)
class BlockSparse:
    """Blocks of keys near a query's, and every `stride`-th (Child et al. 1904.10509).

    Query block i sees key block j where |i - j| < `local` or j is the last of a stride.
    """

    kind: ClassVar[str] = "block_sparse"
    block: int = 64
    local: int = 2
    stride: int = 8

    def __post_init__(self):
        positive(self, "block", "local", "stride")


# --- layers --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """The fields of the model that one layer may replace; None: the model's own.

    `attention_norm` False leaves out the norm before attention (ModernBERT's first
    layer, whose input was just normed).
    """

    pattern: Global | SlidingWindow | BlockSparse = Global()
    mlp: MLP | None = None
    d_ff: int | None = None
    positions: NoPositions | Rotary | None = None
    attention_norm: bool = True


@dataclasses.dataclass(frozen=True)
class Group:
    """`repeat` times the layers of `pattern`; scanned over repeats.

    `shared`: one set of weights for all repeats (Universal Transformer, ALBERT).
    """

    repeat: int
    pattern: tuple[LayerSpec, ...] = (LayerSpec(),)
    shared: bool = False

    def __post_init__(self):
        require(self.repeat >= 1, f"repeat is {self.repeat}; it must be at least 1")
        require(len(self.pattern) >= 1, "pattern is empty; give at least one layer")


# --- output --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Direct:
    """Hidden states times the output table."""

    kind: ClassVar[str] = "direct"


@dataclasses.dataclass(frozen=True)
class Transformed:
    """norm(f(dense(x))) before the output table, as in BERT's masked LM head."""

    kind: ClassVar[str] = "transformed"
    activation: Activation = "gelu"
    bias: bool = True


# --- the model -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One Transformer; a family is a point in this space."""

    architecture: Literal["decoder", "encoder", "encoder_decoder"] = "decoder"
    vocab_size: int = 8192
    d_model: int = 256
    d_ff: int = 1024
    num_layers: int = 4
    groups: tuple[Group, ...] = ()  # if any, they replace num_layers
    encoder_groups: tuple[Group, ...] = ()  # of an encoder-decoder; (): as groups

    embedding_size: int | None = None  # None: d_model; else projected to it
    token_types: int = 0
    embedding_norm: bool = False
    embedding_scale: float = 1.0
    positions: Positions = Rotary()

    num_heads: int = 4
    num_kv_heads: int | None = None  # None: as many as num_heads
    head_dim: int | None = None  # None: d_model / num_heads
    heads: MultiHead | Latent = MultiHead()
    scores: ScaledDot | Dot | Cosine = ScaledDot()
    qk_norm: Literal["none", "head", "all"] = "none"  # of each head, or of all as one
    softcap: float | None = None  # of scores: c * tanh(s / c)
    sinks: bool = False  # a trained score per head that takes probability from keys

    mlp: MLP = Gated()
    norm: LayerNorm | RMSNorm = RMSNorm()
    norm_position: Literal["pre", "post", "both", "output"] = "pre"
    # parallel: attention and mlp of the same input (GPT-J), by two norms or by one
    residual: Literal["sequential", "parallel", "parallel_one_norm"] = "sequential"
    biases: Literal["none", "all", "qkv", "attention", "mlp"] = "none"

    output: Direct | Transformed = Direct()
    tie_embeddings: bool = True
    output_bias: bool = False
    output_scale: float = 1.0  # of the hidden states
    output_softcap: float | None = None  # of the logits
    pooler: bool = False  # tanh(dense(first token)), as BERT's

    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self):
        positive(self, "vocab_size", "d_model", "d_ff", "num_heads", "num_layers")
        positive(self, "head_dim", "embedding_size", "softcap", "output_softcap")
        require(
            self.head_dim is not None or self.d_model % self.num_heads == 0,
            f"d_model={self.d_model} is not a multiple of num_heads={self.num_heads}; "
            "change one of them or set head_dim",
        )
        require(
            self.K > 0 and self.num_heads % self.K == 0,
            f"num_heads={self.num_heads} is not a multiple of "
            f"num_kv_heads={self.num_kv_heads}; each key head serves an equal group",
        )
        rotary_dim = self.rotary_dim(self.positions)
        require(
            rotary_dim % 2 == 0,
            f"the rotary head size {rotary_dim} is odd; pairs rotate, so make it even",
        )
        for name in ("dropout", "attention_dropout"):
            require(
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

    def rotary_dim(self, positions: Positions) -> int:
        """Number of sizes of a head that rotate with position."""
        if not isinstance(positions, Rotary):
            return 0
        if isinstance(self.heads, Latent):
            return self.heads.rotary_dim
        return int(self.H * positions.fraction)

    @property
    def layers(self) -> tuple[Group, ...]:
        """The groups of layers of each stack."""
        return self.groups or (Group(self.num_layers),)

    @property
    def encoder_layers(self) -> tuple[Group, ...]:
        """The groups of layers of an encoder-decoder's encoder."""
        return self.encoder_groups or self.layers

    @property
    def L(self) -> int:
        """Number of layers of a decoder or encoder."""
        return sum(g.repeat * len(g.pattern) for g in self.layers)

    def layer_mlp(self, spec: LayerSpec) -> tuple[MLP, int]:
        """The feed-forward of a layer, and its width F."""
        return spec.mlp or self.mlp, spec.d_ff or self.d_ff
