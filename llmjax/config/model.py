"""One Transformer as data: a family of models is a point in `ModelConfig`."""

from typing import ClassVar, Literal

from llmjax.config.checks import (
    BelowOne,
    Count,
    Finite,
    Natural,
    NotNegative,
    Positive,
    Size,
    checked,
    require,
)
from llmjax.config.feed_forward import MLP, Activation, Gated
from llmjax.config.positions import (
    DynamicScaling,
    LongRope,
    NoPositions,
    Positions,
    Rotary,
)

# --- norms ---------------------------------------------------------------------------


@checked
class LayerNorm:
    """Ba et al. 2016, arXiv:1607.06450, with or without its scale and its bias."""

    kind: ClassVar[str] = "layer_norm"
    epsilon: Positive = 1e-5
    bias: bool = True
    scale: bool = True


@checked
class RMSNorm:
    """Zhang & Sennrich 2019, arXiv:1910.07467; x * (scale + offset) (Gemma: 1)."""

    kind: ClassVar[str] = "rms_norm"
    epsilon: Positive = 1e-6
    offset: Finite = 0.0


# --- attention -----------------------------------------------------------------------


@checked
class ScaledDot:
    """q.k * scale; None: 1 / sqrt(H) (Vaswani et al. 2017)."""

    kind: ClassVar[str] = "scaled_dot"
    scale: Positive | None = None


@checked
class Dot:
    """q.k, unscaled (Luong et al. 2015; T5 folds the scale into its initialiser)."""

    kind: ClassVar[str] = "dot"


@checked
class Cosine:
    """cos(q, k) times one trained scale per head (Henry et al. 2020, 2010.04245)."""

    kind: ClassVar[str] = "cosine"
    init_scale: Positive = 10.0


@checked
class MultiHead:
    """`num_kv_heads` key and value heads, each for an equal group of query heads."""

    kind: ClassVar[str] = "multi_head"


@checked
class Latent:
    """Keys and values from one small vector a token (DeepSeek-V2, arXiv:2405.04434).

    A head has `head_dim` sizes without position, and `rotary_dim` sizes with position,
    which all heads share; values have `value_dim` sizes. Queries come from a vector of
    size `query_rank`, or directly from x (None). `norm_epsilon` is that of the vectors'
    norms; None: the other norms'.
    """

    kind: ClassVar[str] = "latent"
    query_rank: Size | None = None
    rank: Size = 512
    rotary_dim: Size = 64
    value_dim: Size = 128
    norm_epsilon: Positive | None = None


@checked
class Global:
    """Every key that the mask allows."""

    kind: ClassVar[str] = "global"


@checked
class SlidingWindow:
    """Keys less than `window` positions away (Beltagy et al. 2020; Mistral)."""

    kind: ClassVar[str] = "sliding_window"
    window: Size = 1024


@checked
class BlockSparse:
    """Blocks of keys near a query's, and every `stride`-th (Child et al. 1904.10509).

    Query block i sees key block j where |i - j| < `local` or j is the last of a stride.
    """

    kind: ClassVar[str] = "block_sparse"
    block: Size = 64
    local: Size = 2
    stride: Size = 8


# --- layers --------------------------------------------------------------------------


@checked
class LayerSpec:
    """The fields of the model that one layer may replace; None: the model's own.

    `attention_norm` False leaves out the norm before attention (ModernBERT's first
    layer, whose input was just normed).
    """

    pattern: Global | SlidingWindow | BlockSparse = Global()
    mlp: MLP | None = None
    d_ff: Size | None = None
    positions: NoPositions | Rotary | None = None
    attention_norm: bool = True


@checked
class Group:
    """`repeat` times the layers of `pattern`; scanned over repeats.

    `shared`: one set of weights for all repeats (Universal Transformer, ALBERT).
    """

    repeat: Count
    pattern: tuple[LayerSpec, ...] = (LayerSpec(),)
    shared: bool = False

    def __post_init__(self):
        require(len(self.pattern) >= 1, "pattern is empty; give at least one layer")


# --- output --------------------------------------------------------------------------


@checked
class Direct:
    """Hidden states times the output table."""

    kind: ClassVar[str] = "direct"


@checked
class Transformed:
    """norm(f(dense(x))) before the output table, as in BERT's masked LM head."""

    kind: ClassVar[str] = "transformed"
    activation: Activation = "gelu"
    bias: bool = True


# --- the model -----------------------------------------------------------------------


@checked
class ModelConfig:
    """One Transformer; a family is a point in this space."""

    architecture: Literal["decoder", "encoder", "encoder_decoder"] = "decoder"
    vocab_size: Size = 8192
    d_model: Size = 256
    d_ff: Size = 1024
    num_layers: Size = 4
    groups: tuple[Group, ...] = ()  # if any, they replace num_layers
    encoder_groups: tuple[Group, ...] = ()  # of an encoder-decoder; (): as groups

    embedding_size: Size | None = None  # None: d_model; else projected to it
    token_types: Natural = 0
    embedding_norm: bool = False
    embedding_scale: Positive = 1.0
    positions: Positions = Rotary()

    num_heads: Size = 4
    num_kv_heads: Size | None = None  # None: as many as num_heads
    head_dim: Size | None = None  # None: d_model / num_heads
    heads: MultiHead | Latent = MultiHead()
    scores: ScaledDot | Dot | Cosine = ScaledDot()
    qk_norm: Literal["none", "head", "all"] = "none"  # of each head, or of all as one
    softcap: Positive | None = None  # of scores: c * tanh(s / c)
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
    output_scale: Positive = 1.0  # of the hidden states
    output_softcap: Positive | None = None  # of the logits
    pooler: bool = False  # tanh(dense(first token)), as BERT's

    dropout: BelowOne = 0.0
    attention_dropout: BelowOne = 0.0
    layer_drop: BelowOne = 0.0  # the share of layers that a row skips in training
    init_std: NotNegative = 0.02

    def __post_init__(self):
        require(
            self.head_dim is not None or self.d_model % self.num_heads == 0,
            f"d_model={self.d_model} is not a multiple of num_heads={self.num_heads}; "
            "change one of them or set head_dim",
        )
        require(
            self.num_heads % self.K == 0,
            f"num_heads={self.num_heads} is not a multiple of "
            f"num_kv_heads={self.num_kv_heads}; each key head serves an equal group",
        )
        groups = (*self.layers, *self.encoder_layers)
        layers = [spec.positions for group in groups for spec in group.pattern]
        for positions in {self.positions, *layers}:
            if isinstance(positions, Rotary):
                self._check_rotary(positions)

    def _check_rotary(self, positions: Rotary) -> None:
        size, scaling = self.rotary_dim(positions), positions.scaling
        require(
            size % 2 == 0,
            f"the rotary head size {size} is odd; pairs rotate, so make it even",
        )
        require(
            size > 2 or not isinstance(scaling, DynamicScaling),
            f"the rotary head size is {size}; dynamic scaling needs at least 4",
        )
        if isinstance(scaling, LongRope):
            for name in ("short", "long"):
                count = len(getattr(scaling, name))
                require(
                    count == size // 2,
                    f"positions.scaling.{name} has {count} divisors and the rotary "
                    f"head size is {size}; give {size // 2}",
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
