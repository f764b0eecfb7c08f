"""The kinds of position information that a model may use."""

import dataclasses
from typing import ClassVar, Literal

from llmjax.config.checks import require


@dataclasses.dataclass(frozen=True)
class NoPositions:
    """No position information beyond the mask's."""

    kind: ClassVar[str] = "none"


@dataclasses.dataclass(frozen=True)
class Learned:
    """One trained vector per absolute position, added to the embeddings.

    Row `offset` of the table is position 0 (RoBERTa and BART keep two rows before it).
    """

    kind: ClassVar[str] = "learned"
    max_length: int = 2048
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Sinusoidal:
    """Fixed sines and cosines added to the embeddings (Vaswani et al. 2017, 3.5).

    Interleaved as in the paper, or in halves, all sines first, as in its own code.
    """

    kind: ClassVar[str] = "sinusoidal"
    max_wavelength: float = 10_000.0
    order: Literal["interleaved", "halves"] = "interleaved"


@dataclasses.dataclass(frozen=True)
class NoScaling:
    """Rotary frequencies as trained."""

    kind: ClassVar[str] = "none"


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (Chen et al. 2023, arXiv:2306.15595)."""

    kind: ClassVar[str] = "linear"
    factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class DynamicScaling:
    """NTK-aware theta that grows with a text past `original_length`.

    Theta follows the length of each text, whatever lies beside it; `generate` takes the
    length of a prompt and all its new tokens. In transformers theta follows the longest
    row so far, and cached keys keep the angles that they were cached with.
    """

    kind: ClassVar[str] = "dynamic"
    factor: float = 1.0
    original_length: int = 2048


@dataclasses.dataclass(frozen=True)
class YaRN:
    """Peng et al. 2023, arXiv:2309.00071.

    `attention_factor` multiplies queries and keys; None: 0.1 ln(factor) + 1, or the
    ratio that `mscale` and `mscale_all_dim` give (DeepSeek).
    """

    kind: ClassVar[str] = "yarn"
    factor: float = 1.0
    original_length: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high kept (Llama 3.1)."""

    kind: ClassVar[str] = "llama3"
    factor: float = 8.0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_length: int = 8192


@dataclasses.dataclass(frozen=True)
class LongRope:
    """A divisor per frequency, of two sets (Ding et al. 2024, arXiv:2402.13753).

    A text longer than `original_length` takes `long`, whatever lies beside it; in
    transformers the longest row chooses for the batch.
    """

    kind: ClassVar[str] = "longrope"
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    original_length: int = 4096
    attention_factor: float = 1.0


Scaling = NoScaling | LinearScaling | DynamicScaling | YaRN | Llama3Scaling | LongRope


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Queries and keys rotated by their position (Su et al. 2021, arXiv:2104.09864).

    The first `fraction` of each head turns; its pairs are (i, i + half), or with
    `interleaved` (2i, 2i + 1).
    """

    kind: ClassVar[str] = "rotary"
    theta: float = 10_000.0
    fraction: float = 1.0
    interleaved: bool = False
    scaling: Scaling = NoScaling()

    def __post_init__(self):
        require(
            0 < self.fraction <= 1,
            f"fraction is {self.fraction}; it must be in (0, 1]",
        )


@dataclasses.dataclass(frozen=True)
class Alibi:
    """A penalty per head that grows with distance (Press et al. 2022, 2108.12409)."""

    kind: ClassVar[str] = "alibi"


@dataclasses.dataclass(frozen=True)
class RelativeBias:
    """A trained bias per head and bucket of distances (T5, arXiv:1910.10683, 2.1)."""

    kind: ClassVar[str] = "relative_bias"
    buckets: int = 32
    max_distance: int = 128


@dataclasses.dataclass(frozen=True)
class TransformerXL:
    """Queries against sinusoids of distances (Dai et al. 2019; XLNet 1906.08237).

    With `segments`, also whether two tokens are of one token type (XLNet 2.5).
    """

    kind: ClassVar[str] = "transformer_xl"
    segments: bool = False


@dataclasses.dataclass(frozen=True)
class Disentangled:
    """Content against relative positions, both ways (DeBERTa, arXiv:2006.03654).

    Distances to `span` are exact up to half of it, then logarithmic to `max_distance`
    (v3's buckets); positions share the content's query and key weights.
    """

    kind: ClassVar[str] = "disentangled"
    span: int = 256
    max_distance: int = 512


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
