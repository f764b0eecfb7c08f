"""The kinds of position information that a model may use."""

from typing import Annotated, ClassVar, Literal

from llmjax.config.checks import (
    INT_MAX,
    Natural,
    NotNegative,
    Positive,
    Range,
    Size,
    SomeShare,
    checked,
    require,
)


@checked
class NoPositions:
    """No position information beyond the mask's."""

    kind: ClassVar[str] = "none"


@checked
class Learned:
    """One trained vector per absolute position, added to the embeddings.

    Row `offset` of the table is position 0 (RoBERTa and BART keep two rows before it).
    """

    kind: ClassVar[str] = "learned"
    max_length: Size = 2048
    offset: Natural = 0


@checked
class Sinusoidal:
    """Fixed sines and cosines added to the embeddings (Vaswani et al. 2017, 3.5).

    Interleaved as in the paper, or in halves, all sines first, as in its own code. The
    first position is `offset` (fairseq: 2).
    """

    kind: ClassVar[str] = "sinusoidal"
    max_wavelength: Positive = 10_000.0
    order: Literal["interleaved", "halves"] = "interleaved"
    offset: Natural = 0


@checked
class NoScaling:
    """Rotary frequencies as trained."""

    kind: ClassVar[str] = "none"


@checked
class LinearScaling:
    """Positions divided by `factor` (Chen et al. 2023, arXiv:2306.15595)."""

    kind: ClassVar[str] = "linear"
    factor: Positive = 1.0


@checked
class DynamicScaling:
    """NTK-aware theta that grows with a text past `original_length`.

    Theta follows the length of each text, whatever lies beside it; `generate` takes the
    length of a prompt and all its new tokens. In transformers theta follows the longest
    row so far, and cached keys keep the angles that they were cached with.
    """

    kind: ClassVar[str] = "dynamic"
    factor: Positive = 1.0
    original_length: Size = 2048


@checked
class YaRN:
    """Peng et al. 2023, arXiv:2309.00071.

    `attention_factor` multiplies queries and keys; None: 0.1 ln(factor) + 1, or the
    ratio that `mscale` and `mscale_all_dim` give (DeepSeek).
    """

    kind: ClassVar[str] = "yarn"
    factor: Positive = 1.0
    original_length: Size = 4096
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    attention_factor: Positive | None = None
    mscale: NotNegative | None = None
    mscale_all_dim: NotNegative | None = None
    truncate: bool = True


@checked
class Llama3Scaling:
    """Low frequencies divided by `factor`, high kept (Llama 3.1)."""

    kind: ClassVar[str] = "llama3"
    factor: Positive = 8.0
    low_frequency: Positive = 1.0
    high_frequency: Positive = 4.0
    original_length: Size = 8192

    def __post_init__(self):
        require(
            self.low_frequency < self.high_frequency,
            f"low_frequency={self.low_frequency} is not below "
            f"high_frequency={self.high_frequency}",
        )


@checked
class LongRope:
    """A divisor per frequency, of two sets (Ding et al. 2024, arXiv:2402.13753).

    A text longer than `original_length` takes `long`, whatever lies beside it; in
    transformers the longest row chooses for the batch.
    """

    kind: ClassVar[str] = "longrope"
    short: tuple[Positive, ...] = ()
    long: tuple[Positive, ...] = ()
    original_length: Size = 4096
    attention_factor: Positive = 1.0


Scaling = NoScaling | LinearScaling | DynamicScaling | YaRN | Llama3Scaling | LongRope


@checked
class Rotary:
    """Queries and keys rotated by their position (Su et al. 2021, arXiv:2104.09864).

    The first `fraction` of each head turns; its pairs are (i, i + half), or with
    `interleaved` (2i, 2i + 1).
    """

    kind: ClassVar[str] = "rotary"
    theta: Annotated[float, Range(1, ends="(]")] = 10_000.0
    fraction: SomeShare = 1.0
    interleaved: bool = False
    scaling: Scaling = NoScaling()


@checked
class Alibi:
    """A penalty per head that grows with distance (Press et al. 2022, 2108.12409)."""

    kind: ClassVar[str] = "alibi"


@checked
class RelativeBias:
    """A trained bias per head and bucket of distances (T5, arXiv:1910.10683, 2.1).

    One table for all layers, or with `per_layer` one for each (umT5, 2304.09151).
    """

    kind: ClassVar[str] = "relative_bias"
    buckets: Annotated[int, Range(4, INT_MAX)] = 32
    max_distance: Size = 128
    per_layer: bool = False

    def __post_init__(self):
        require(
            self.max_distance > self.buckets // 2,
            f"max_distance={self.max_distance} is not above half of "
            f"buckets={self.buckets}, to which distances are exact",
        )


@checked
class TransformerXL:
    """Queries against sinusoids of distances (Dai et al. 2019; XLNet 1906.08237).

    With `segments`, also whether two tokens are of one token type (XLNet 2.5).
    """

    kind: ClassVar[str] = "transformer_xl"
    segments: bool = False


@checked
class Disentangled:
    """Content against relative positions, both ways (DeBERTa, arXiv:2006.03654).

    Distances to `span` are exact up to half of it, then logarithmic to `max_distance`
    (v3's buckets); positions share the content's query and key weights.
    """

    kind: ClassVar[str] = "disentangled"
    span: Annotated[int, Range(2, INT_MAX)] = 256
    max_distance: Size = 512

    def __post_init__(self):
        require(
            self.max_distance > self.span // 2 + 1,
            f"max_distance={self.max_distance} is not above half of span={self.span} "
            "and 1, to which distances are exact",
        )


Positions = (
    NoPositions
    | Learned
    | Sinusoidal
    | Rotary
    | Alibi
    | RelativeBias
    | TransformerXL
    | Disentangled
)
