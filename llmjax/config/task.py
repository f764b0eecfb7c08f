"""Config of the task: a self-supervised objective, several of them, or a label."""

from typing import Annotated, ClassVar, Literal

from llmjax.config.checks import (
    Count,
    Natural,
    NotNegative,
    Positive,
    Range,
    Share,
    Size,
    SomeShare,
    checked,
    require,
)
from llmjax.config.feed_forward import Activation

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


# --- with labels ---------------------------------------------------------------------


@checked
class LinearHead:
    """A text's vector times a matrix; the hub's decoders have no bias (`score`)."""

    kind: ClassVar[str] = "linear"
    bias: bool = True


@checked
class PoolerHead:
    """tanh(dense(x)) before the matrix: BERT's pooler, pretrained where weights are."""

    kind: ClassVar[str] = "pooler"


@checked
class DenseHead:
    """f(dense(x)) before the matrix: RoBERTa's tanh, DistilBERT's relu, ELECTRA's gelu.

    The dense layer is new in every fine-tuning.
    """

    kind: ClassVar[str] = "dense"
    activation: Literal["tanh", "gelu", "gelu_tanh", "relu", "silu", "relu_squared"] = (
        "tanh"
    )


@checked
class NormedHead:
    """norm(f(dense(x))) before the matrix: ModernBERT's, its masked LM's own."""

    kind: ClassVar[str] = "normed"
    activation: Activation = "gelu"
    bias: bool = False


ClassifierHead = LinearHead | PoolerHead | DenseHead | NormedHead
TokenHead = LinearHead | NormedHead


@checked
class SequenceClassification:
    """One label per text, from its last hidden states.

    Attributes:
      num_labels: how many classes; None: as many as `labels`.
      labels: names of the classes in the order of their numbers; (): those of the
        data, which a run's own config then names (`llmjax.train.initial.complete`).
      pooling: the vector of a text: the mean of its tokens', its first or its last.
      head: what lies between that vector and the classes' logits.
      text_field: of the corpus, that is read.

    Pooling and head that are both None are those of the model's family in transformers,
    so that it can be exported; where there is none, the mean and one matrix.
    """

    kind: ClassVar[str] = "sequence_classification"
    num_labels: Count | None = None
    labels: tuple[str, ...] = ()
    pooling: Literal["mean", "first", "last"] | None = None
    head: ClassifierHead | None = None
    text_field: str = "text"

    def __post_init__(self):
        _check_labels(self.labels, self.num_labels)

    @property
    def pooling_or_mean(self) -> Literal["mean", "first", "last"]:
        """The pooling; the mean where none is said."""
        return self.pooling or "mean"

    @property
    def form(self) -> ClassifierHead:
        """The head; one matrix where none is said."""
        return self.head or LinearHead()

    @property
    def num_classes(self) -> int:
        """Number of the classes; 2 where nothing tells it."""
        return self.num_labels or len(self.labels) or 2


@checked
class TokenClassification:
    """A tag for each word, from the hidden state of its first token.

    Attributes:
      num_labels: how many tags; None: as many as `labels`.
      labels: the tags in the order of their numbers; (): those of the data in `scheme`,
        which a run's own config then names (`llmjax.train.initial.complete`).
      scheme: of the tags that the model gives. "bio": B-X begins an entity of the type
        X, I-X goes on; "bioes": E-X ends one and S-X is one of a single word (BILOU's
        L and U); "plain": tags without entities, such as parts of speech. None: that
        of `labels`, or of the data, IOB1 becoming "bio".
      read: scheme of the data. "iob1": B-X only where an entity follows another one of
        its type (the files of CoNLL-2003). "any": whatever order of B and I, as
        conlleval reads it. None: the one that fits, or an error.
      crf: a linear-chain conditional random field above the tags' scores (Lafferty et
        al. 2001; Lample et al. 2016), which no format of the hub holds.
      head: what lies between a hidden state and the tags' scores; None: what the
        family has in transformers, or one matrix.
      words_field, tags_field: fields of the records that are read.
    """

    kind: ClassVar[str] = "token_classification"
    num_labels: Count | None = None
    labels: tuple[str, ...] = ()
    scheme: Literal["bio", "bioes", "plain"] | None = None
    read: Literal["bio", "iob1", "bioes", "plain", "any"] | None = None
    crf: bool = False
    head: TokenHead | None = None
    words_field: str = "words"
    tags_field: str = "tags"

    def __post_init__(self):
        _check_labels(self.labels, self.num_labels)

    @property
    def form(self) -> TokenHead:
        """The head; one matrix where none is said."""
        return self.head or LinearHead()

    @property
    def num_classes(self) -> int:
        """Number of the tags; 2 where nothing tells it."""
        return self.num_labels or len(self.labels) or 2


@checked
class QuestionAnswering:
    """Find the answer to a question in a text (Rajpurkar et al. 2016, 1606.05250).

    Attributes:
      stride: tokens that two windows of a long text share; a quarter of a row at most.
      max_question: tokens of a question that are read.
      max_answer: tokens of an answer that may be predicted.
      n_best: answers among which probabilities are shared out.
      no_answer: whether there may be none in the text (Rajpurkar et al. 2018).
      null_threshold: what "none" must score above the best answer to be given.
      question_field, context_field, answers_field: fields of the records that are read.
    """

    kind: ClassVar[str] = "question_answering"
    stride: Natural = 64
    max_question: Count = 64
    max_answer: Count = 30
    n_best: Count = 20
    no_answer: bool = False
    null_threshold: Annotated[float, Range(-1e6, 1e6)] = 0.0
    question_field: str = "question"
    context_field: str = "context"
    answers_field: str = "answers"


@checked
class MultipleChoice:
    """Choose the text, of several, that goes with a text (Zellers et al. 2018).

    Attributes:
      choices: the most that a record has.
      question_field, choices_field, label_field: fields of the records that are read.
    """

    kind: ClassVar[str] = "multiple_choice"
    choices: Count = 4
    question_field: str = "question"
    choices_field: str = "choices"
    label_field: str = "label"


Labelled = SequenceClassification | TokenClassification


def _check_labels(names: tuple[str, ...], number: int | None) -> None:
    """Raises ValueError for names that repeat, or are not as many as said."""
    require(
        len(set(names)) == len(names),
        f"labels has {', '.join(names)}; give each class once",
    )
    require(
        not names or number in (None, len(names)),
        f"num_labels={number} and labels names {len(names)} ({', '.join(names)}); "
        "leave num_labels out",
    )


# --- several -------------------------------------------------------------------------

Generative = CausalLM | PrefixLM | FillInTheMiddle | SpanCorruption | UL2 | Denoising


@checked
class TaskPart:
    """One objective of several, and how many of the rows are its."""

    task: Generative = CausalLM()
    weight: NotNegative = 1.0


@checked
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
    | TokenClassification
    | QuestionAnswering
    | MultipleChoice
    | MultiTask
)
