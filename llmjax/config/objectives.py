"""Configs of the self-supervised objectives."""

from typing import ClassVar, Literal

from llmjax.config.checks import Positive, Share, Size, SomeShare, checked, require

# --- left to right -------------------------------------------------------------------


@checked
class CausalLM:
    """Predict the next token (Radford et al. 2018)."""

    kind: ClassVar[str] = "causal_lm"


@checked
class PrefixLM:
    """Predict the rest of a text from its beginning (Raffel et al. 2020, 3.2.4).

    The beginning, whose tokens see each other, is a uniform share of the text between
    `min_prefix` and `max_prefix`.
    """

    kind: ClassVar[str] = "prefix_lm"
    min_prefix: Share = 0.0
    max_prefix: Share = 1.0

    def __post_init__(self):
        require(
            self.min_prefix <= self.max_prefix,
            f"min_prefix={self.min_prefix} is above max_prefix={self.max_prefix}",
        )


@checked
class FillInTheMiddle:
    """Move the middle of a text behind its end (Bavarian et al. 2022, 2207.14255).

    Of a share `rate` of the texts; of those, `spm_rate` put the suffix first.
    """

    kind: ClassVar[str] = "fill_in_the_middle"
    rate: Share = 0.5
    spm_rate: Share = 0.5


@checked
class MultiTokenPrediction:
    """Predict the next `depth` tokens at once (Gloeckle et al. 2024, 2404.19737)."""

    kind: ClassVar[str] = "multi_token_prediction"
    depth: Size = 4


@checked
class PermutationLM:
    """Predict in a random order, by two streams (Yang et al. 2019, 1906.08237).

    One token in `partial` is predicted, in spans of up to `max_span`.
    """

    kind: ClassVar[str] = "permutation_lm"
    partial: Size = 6
    max_span: Size = 5


# --- both ways -----------------------------------------------------------------------


@checked
class MaskedLM:
    """Predict tokens that were hidden (Devlin et al. 2018), others each epoch.

    `rate` of the tokens are predicted: `mask_share` of them masked, `random_share`
    replaced by any token, the rest as they were. `masking`: single tokens, whole words,
    or spans whose lengths in words are geometric (SpanBERT, Joshi et al. 2020).
    """

    kind: ClassVar[str] = "masked_lm"
    rate: Share = 0.15
    mask_share: Share = 0.8
    random_share: Share = 0.1
    masking: Literal["token", "whole_word", "span"] = "token"
    span_p: SomeShare = 0.2  # of the geometric distribution
    max_span: Size = 10

    def __post_init__(self):
        require(
            self.mask_share + self.random_share <= 1,
            f"mask_share={self.mask_share} and random_share={self.random_share} "
            "are more than 1 together",
        )


@checked
class NextSentence(MaskedLM):
    """Masked LM, and does B follow A in the text? (Devlin et al. 2018, 3.1).

    `random_next` of the pairs have B from another document; `short` of them are of a
    random smaller length.
    """

    kind: ClassVar[str] = "next_sentence"
    random_next: Share = 0.5
    short: Share = 0.1


@checked
class SentenceOrder(MaskedLM):
    """Masked LM, and are A and B in order? (ALBERT, Lan et al. 2020, 1909.11942)."""

    kind: ClassVar[str] = "sentence_order"
    swapped: Share = 0.5
    short: Share = 0.1


@checked
class ReplacedTokens(MaskedLM):
    """Find the tokens that a small generator replaced (ELECTRA, Clark et al. 2020).

    The generator is a masked LM with `generator_size` of the model's widths, which
    shares its embeddings; its loss and `loss_weight` times the discriminator's add up.
    """

    kind: ClassVar[str] = "replaced_tokens"
    mask_share: Share = 1.0
    random_share: Share = 0.0
    generator_size: Positive = 0.25
    loss_weight: Positive = 50.0
    temperature: Positive = 1.0  # of the generator's samples


@checked
class SentenceEmbedding:
    """Two views of a text are near, all others far (SimCSE, Gao et al. 2021).

    `views`: the same text under two dropout masks, or its two halves. Negatives are the
    other texts of the global batch.
    """

    kind: ClassVar[str] = "sentence_embedding"
    views: Literal["dropout", "halves"] = "dropout"
    temperature: Positive = 0.05
    pooling: Literal["mean", "first", "last"] = "mean"


# --- text to text --------------------------------------------------------------------


@checked
class SpanCorruption:
    """Write out what sentinels stand for (T5, Raffel et al. 2020, 3.1.4)."""

    kind: ClassVar[str] = "span_corruption"
    noise_density: Share = 0.15
    mean_span: Positive = 3.0


@checked
class Denoiser:
    """One of UL2's; `mean_span` None: one span, at the end."""

    mode: Literal["R", "S", "X"] = "R"
    noise_density: Share = 0.15
    mean_span: Positive | None = 3.0
    weight: Positive = 1.0


UL2_DENOISERS = (
    Denoiser("R", 0.15, 3.0),
    Denoiser("R", 0.15, 8.0),
    Denoiser("S", 0.25, None),
    Denoiser("X", 0.5, 3.0),
    Denoiser("X", 0.5, 8.0),
    Denoiser("X", 0.15, 64.0),
    Denoiser("X", 0.5, 64.0),
)


@checked
class UL2:
    """A mixture of denoisers, each with a token (Tay et al. 2022, 2205.05131, 3.1)."""

    kind: ClassVar[str] = "ul2"
    denoisers: tuple[Denoiser, ...] = UL2_DENOISERS
    mode_tokens: bool = True

    def __post_init__(self):
        require(len(self.denoisers) > 0, "denoisers is empty; give at least one")


@checked
class Denoising:
    """Write the text from a damaged copy (BART, Lewis et al. 2020, 1910.13461).

    `infilling` of the words vanish in spans of Poisson(`poisson_lambda`) words, which
    may overlap, each behind one mask; `deletion` of the tokens vanish without a trace;
    `permute_sentences` of a text's sentences change places; `rotation` is the share of
    texts that start at a random token.
    """

    kind: ClassVar[str] = "denoising"
    infilling: Share = 0.3
    poisson_lambda: Positive = 3.0
    deletion: Share = 0.0
    permute_sentences: Share = 1.0
    rotation: Share = 0.0
