"""Config of the task: a self-supervised objective, several of them, or a label."""

import dataclasses
from typing import ClassVar, Literal

from llmjax.config.checks import positive, require


def share(value: object, *names: str) -> None:
    """Raises ValueError unless these fields lie in [0, 1]."""
    for name in names:
        number = getattr(value, name)
        require(0 <= number <= 1, f"{name} is {number}; it must be in [0, 1]")


# --- left to right -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """Predict the next token (Radford et al. 2018)."""

    kind: ClassVar[str] = "causal_lm"


@dataclasses.dataclass(frozen=True)
class PrefixLM:
    """Predict the rest of a text from its beginning (Raffel et al. 2020, 3.2.4).

    The beginning, whose tokens see each other, is a uniform share of the text between
    `min_prefix` and `max_prefix`.
    """

    kind: ClassVar[str] = "prefix_lm"
    min_prefix: float = 0.0
    max_prefix: float = 1.0

    def __post_init__(self):
        share(self, "min_prefix", "max_prefix")
        require(
            self.min_prefix <= self.max_prefix,
            f"min_prefix={self.min_prefix} is above max_prefix={self.max_prefix}",
        )


@dataclasses.dataclass(frozen=True)
class FillInTheMiddle:
    """Move the middle of a text behind its end (Bavarian et al. 2022, 2207.14255).

    Of a share `rate` of the texts; of those, `spm_rate` put the suffix first.
    """

    kind: ClassVar[str] = "fill_in_the_middle"
    rate: float = 0.5
    spm_rate: float = 0.5

    def __post_init__(self):
        share(self, "rate", "spm_rate")


@dataclasses.dataclass(frozen=True)
class MultiTokenPrediction:
    """Predict the next `depth` tokens at once (Gloeckle et al. 2024, 2404.19737)."""

    kind: ClassVar[str] = "multi_token_prediction"
    depth: int = 4

    def __post_init__(self):
        positive(self, "depth")


@dataclasses.dataclass(frozen=True)
class PermutationLM:
    """Predict in a random order, by two streams (Yang et al. 2019, 1906.08237).

    One token in `partial` is predicted, in spans of up to `max_span`.
    """

    kind: ClassVar[str] = "permutation_lm"
    partial: int = 6
    max_span: int = 5

    def __post_init__(self):
        positive(self, "partial", "max_span")


# --- both ways -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """Predict tokens that were hidden (Devlin et al. 2018), others each epoch.

    `rate` of the tokens are predicted: `mask_share` of them masked, `random_share`
    replaced by any token, the rest as they were. `masking`: single tokens, whole words,
    or spans whose lengths in words are geometric (SpanBERT, Joshi et al. 2020).
    """

    kind: ClassVar[str] = "masked_lm"
    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    masking: Literal["token", "whole_word", "span"] = "token"
    span_p: float = 0.2  # of the geometric distribution
    max_span: int = 10

    def __post_init__(self):
        share(self, "rate", "mask_share", "random_share", "span_p")
        positive(self, "max_span")
        require(
            self.mask_share + self.random_share <= 1,
            f"mask_share={self.mask_share} and random_share={self.random_share} "
            "are more than 1 together",
        )


@dataclasses.dataclass(frozen=True)
class NextSentence(MaskedLM):
    """Masked LM, and does B follow A in the text? (Devlin et al. 2018, 3.1).

    `random_next` of the pairs have B from another document; `short` of them are of a
    random smaller length.
    """

    kind: ClassVar[str] = "next_sentence"
    random_next: float = 0.5
    short: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        share(self, "random_next", "short")


@dataclasses.dataclass(frozen=True)
class SentenceOrder(MaskedLM):
    """Masked LM, and are A and B in order? (ALBERT, Lan et al. 2020, 1909.11942)."""

    kind: ClassVar[str] = "sentence_order"
    swapped: float = 0.5
    short: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        share(self, "swapped", "short")


@dataclasses.dataclass(frozen=True)
class ReplacedTokens(MaskedLM):
    """Find the tokens that a small generator replaced (ELECTRA, Clark et al. 2020).

    The generator is a masked LM with `generator_size` of the model's widths, which
    shares its embeddings; its loss and `loss_weight` times the discriminator's add up.
    """

    kind: ClassVar[str] = "replaced_tokens"
    mask_share: float = 1.0
    random_share: float = 0.0
    generator_size: float = 0.25
    loss_weight: float = 50.0
    temperature: float = 1.0  # of the generator's samples

    def __post_init__(self):
        super().__post_init__()
        positive(self, "generator_size", "loss_weight", "temperature")


@dataclasses.dataclass(frozen=True)
class SentenceEmbedding:
    """Two views of a text are near, all others far (SimCSE, Gao et al. 2021).

    `views`: the same text under two dropout masks, or its two halves. Negatives are the
    other texts of the global batch.
    """

    kind: ClassVar[str] = "sentence_embedding"
    views: Literal["dropout", "halves"] = "dropout"
    temperature: float = 0.05
    pooling: Literal["mean", "first", "last"] = "mean"

    def __post_init__(self):
        positive(self, "temperature")


# --- text to text --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Write out what sentinels stand for (T5, Raffel et al. 2020, 3.1.4)."""

    kind: ClassVar[str] = "span_corruption"
    noise_density: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self):
        share(self, "noise_density")
        positive(self, "mean_span")


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """One of UL2's; `mean_span` None: one span, at the end."""

    mode: Literal["R", "S", "X"] = "R"
    noise_density: float = 0.15
    mean_span: float | None = 3.0
    weight: float = 1.0

    def __post_init__(self):
        share(self, "noise_density")
        positive(self, "mean_span", "weight")


UL2_DENOISERS = (
    Denoiser("R", 0.15, 3.0),
    Denoiser("R", 0.15, 8.0),
    Denoiser("S", 0.25, None),
    Denoiser("X", 0.5, 3.0),
    Denoiser("X", 0.5, 8.0),
    Denoiser("X", 0.15, 64.0),
    Denoiser("X", 0.5, 64.0),
)


@dataclasses.dataclass(frozen=True)
class UL2:
    """A mixture of denoisers, each with a token (Tay et al. 2022, 2205.05131, 3.1)."""

    kind: ClassVar[str] = "ul2"
    denoisers: tuple[Denoiser, ...] = UL2_DENOISERS
    mode_tokens: bool = True

    def __post_init__(self):
        require(len(self.denoisers) > 0, "denoisers is empty; give at least one")


@dataclasses.dataclass(frozen=True)
class Denoising:
    """Write the text from a damaged copy (BART, Lewis et al. 2020, 1910.13461).

    `infilling` of the words vanish in spans of Poisson(`poisson_lambda`) words, which
    may overlap, each behind one mask; `deletion` of the tokens vanish without a trace;
    `permute_sentences` of a text's sentences change places; `rotation` is the share of
    texts that start at a random token.
    """

    kind: ClassVar[str] = "denoising"
    infilling: float = 0.3
    poisson_lambda: float = 3.0
    deletion: float = 0.0
    permute_sentences: float = 1.0
    rotation: float = 0.0

    def __post_init__(self):
        share(self, "infilling", "deletion", "permute_sentences", "rotation")
        positive(self, "poisson_lambda")


# --- with labels ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SequenceClassification:
    """One label per text, from the pooled last hidden states."""

    kind: ClassVar[str] = "sequence_classification"
    num_labels: int = 2
    pooling: Literal["mean", "first", "last"] = "mean"
    text_field: str = "text"


# --- several -------------------------------------------------------------------------

Generative = CausalLM | PrefixLM | FillInTheMiddle | SpanCorruption | UL2 | Denoising


@dataclasses.dataclass(frozen=True)
class TaskPart:
    """One objective of several, and how many of the rows are its."""

    task: Generative = CausalLM()
    weight: float = 1.0

    def __post_init__(self):
        require(self.weight >= 0, f"weight is {self.weight}; it must not be negative")


@dataclasses.dataclass(frozen=True)
class MultiTask:
    """Several objectives that write text, mixed by rows in one model."""

    kind: ClassVar[str] = "multi_task"
    parts: tuple[TaskPart, ...] = ()

    def __post_init__(self):
        total = sum(part.weight for part in self.parts)
        require(
            total > 0,
            f"the weights of task.parts sum to {total}; give at least one part with "
            "a weight above 0",
        )


TaskConfig = (
    CausalLM
    | PrefixLM
    | FillInTheMiddle
    | MultiTokenPrediction
    | PermutationLM
    | MaskedLM
    | NextSentence
    | SentenceOrder
    | ReplacedTokens
    | SentenceEmbedding
    | SpanCorruption
    | UL2
    | Denoising
    | SequenceClassification
    | MultiTask
)
