"""Configs of the tasks that learn from labels."""

from typing import Annotated, ClassVar, Literal

from llmjax.config.checks import Count, Natural, Range, checked, require
from llmjax.config.feed_forward import Activation
from llmjax.config.problems import (
    EvenWeights,
    MultiLabel,
    Ordinal,
    Problem,
    Regression,
    SingleLabel,
)


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
    """Classes or numbers of a text, or of a pair of texts, from its hidden states.

    Attributes:
      num_labels: how many classes or numbers; None: as many as `labels`.
      labels: their names in the order of their numbers, of ordered classes the lowest
        first; (): those of the data, which a run's own config then names
        (`llmjax.train.initial.complete`).
      pooling: the vector of a text: the mean of its tokens', its first or its last.
      head: what lies between that vector and the classes' logits.
      text_field: of the corpus, that is read.
      pair_field: of the text that is read behind it, such as a hypothesis; "": none.
      label_field: of records; documents have their own.
      problem: what the scores mean, and their loss.

    Pooling and head that are both None are those of the model's family in transformers,
    so that it can be exported; where there is none, the mean and one matrix.
    """

    kind: ClassVar[str] = "sequence_classification"
    num_labels: Count | None = None
    labels: tuple[str, ...] = ()
    pooling: Literal["mean", "first", "last"] | None = None
    head: ClassifierHead | None = None
    text_field: str = "text"
    pair_field: str = ""
    label_field: str = "label"
    problem: Problem = SingleLabel()

    def __post_init__(self):
        _check_labels(self.labels, self.num_labels)
        names = [self.text_field, self.pair_field, self.label_field]
        names = [name for name in names if name]
        require(
            len(set(names)) == len(names),
            f"text_field={self.text_field!r}, pair_field={self.pair_field!r} and "
            f"label_field={self.label_field!r} name one field twice; give each its own",
        )
        require(
            self.said_classes != 1 or isinstance(self.problem, Regression | MultiLabel),
            f"one class alone says nothing by problem.kind={self.problem.kind!r}; give "
            "two, or set problem.kind='regression'",
        )
        self._check_weights()

    def _check_weights(self) -> None:
        weights = getattr(self.problem, "weights", EvenWeights())
        count = len(getattr(weights, "values", ()))
        require(
            not count or self.said_classes in (None, count),
            f"problem.weights.values has {count} weights for {self.said_classes} "
            "classes; give one for each, in the order of labels",
        )

    @property
    def pooling_or_mean(self) -> Literal["mean", "first", "last"]:
        """The pooling; the mean where none is said."""
        return self.pooling or "mean"

    @property
    def form(self) -> ClassifierHead:
        """The head; one matrix where none is said."""
        return self.head or LinearHead()

    @property
    def said_classes(self) -> int | None:
        """Number of the classes, or numbers, by any field; None where none says it."""
        columns = getattr(self.problem, "columns", ())
        return self.num_labels or len(self.labels) or len(columns) or None

    @property
    def num_classes(self) -> int:
        """Number of the classes, or numbers; where nothing tells it, 2 or 1."""
        return self.said_classes or (1 if isinstance(self.problem, Regression) else 2)

    @property
    def ordered(self) -> bool:
        """Whether the classes have an order."""
        return isinstance(self.problem, Ordinal)


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


@checked
class RelationExtraction:
    """The relation of two marked entities of a text (Baldini Soares et al. 2019).

    Attributes:
      num_labels: how many relations; None: as many as `labels`.
      labels: their names in the order of their numbers; (): those of the data, which a
        run's own config then names.
      none: the class of two entities without a relation; precision, recall and F1 of
        the others leave it out.
      pooling: of an entity: "start": the state of the marker before it (their "entity
        start"), "mean": the mean of its tokens.
      text_field, head_field, tail_field, label_field: fields of the records.
      problem: "single_label_classification": weights of the classes, the focal loss.
    """

    kind: ClassVar[str] = "relation_extraction"
    num_labels: Count | None = None
    labels: tuple[str, ...] = ()
    none: str = "no_relation"
    pooling: Literal["start", "mean"] = "start"
    text_field: str = "text"
    head_field: str = "head_span"
    tail_field: str = "tail_span"
    label_field: str = "relation"
    problem: Problem = SingleLabel()

    def __post_init__(self):
        _check_labels(self.labels, self.num_labels)
        require(
            isinstance(self.problem, SingleLabel),
            f"problem.kind={self.problem.kind!r}; two entities have one relation: "
            f"accepted: {SingleLabel.kind!r}",
        )
        names = self.text_field, self.head_field, self.tail_field, self.label_field
        require(
            len(set(names)) == len(names),
            f"the fields have the names {', '.join(names)}; give each its own",
        )
        require(
            self.said_classes != 1,
            "one class alone says nothing; give two at least, as with 'no_relation'",
        )

    @property
    def said_classes(self) -> int | None:
        """Number of the classes; None where no field says it."""
        return self.num_labels or len(self.labels) or None

    @property
    def num_classes(self) -> int:
        """Number of the classes; 2 where nothing tells it."""
        return self.said_classes or 2

    @property
    def ordered(self) -> bool:
        """Whether the classes have an order: never."""
        return False


Labelled = SequenceClassification | TokenClassification | RelationExtraction


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
