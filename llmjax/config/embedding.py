"""Config of text embeddings: the way to a vector, and what is learned from pairs."""

from typing import Annotated, ClassVar, Literal

from llmjax.config.checks import Count, Natural, Positive, Range, checked, require

Pooling = Literal["mean", "first", "last"]
Direction = Literal["query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc"]


@checked
class TextReading:
    """The way from a text to its vector, as sentence-transformers folders say it.

    Attributes:
      pooling: of the hidden states of the text's tokens.
      normalize: whether the vector has length 1.
      query_prompt, passage_prompt: beginnings that are put before a text.
      max_length: tokens at which a text is cut; None: not said.
    """

    pooling: Pooling = "mean"
    normalize: bool = True
    query_prompt: str = ""
    passage_prompt: str = ""
    max_length: Count | None = None


# --- false negatives -----------------------------------------------------------------


@checked
class AllNegatives:
    """Every other text of the batch is a negative, but for copies of the positive."""

    kind: ClassVar[str] = "all"


@checked
class GuidedNegatives:
    """Texts that a guide finds too near are none (GISTEmbed, Solatorio 2024).

    Attributes:
      guide: "initial": a frozen copy of the weights that the run began with; "self":
        the weights as they are now.
      margin: how much less than the positive's a negative's similarity must be.
      scale: "absolute": the margin is of the cosine; "relative": it is a share of the
        positive's.
    """

    kind: ClassVar[str] = "guided"
    guide: Literal["initial", "self"] = "initial"
    margin: Annotated[float, Range(-2, 2)] = 0.0
    scale: Literal["absolute", "relative"] = "absolute"


# --- losses --------------------------------------------------------------------------


@checked
class Ranking:
    """Find the positive among the texts of the batch: InfoNCE (van den Oord 2018).

    Attributes:
      temperature: of the cosines; the inverse of sentence-transformers' `scale`.
      directions: whose similarities are in the denominator: of the anchor to all
        documents, of the positive to all anchors, of the anchor to other anchors, of
        the positive to the documents of other rows.
      partition: "joint": one softmax over all of them (Li et al. 2023, 2308.03281);
        "each": one of each direction, averaged (Günther et al. 2023, 2310.19923).
      negatives: what is not taken for one.
    """

    kind: ClassVar[str] = "ranking"
    temperature: Positive = 0.05
    directions: tuple[Direction, ...] = ("query_to_doc",)
    partition: Literal["joint", "each"] = "joint"
    negatives: AllNegatives | GuidedNegatives = AllNegatives()

    def __post_init__(self):
        own = self.directions
        require(
            "query_to_doc" in own and len(set(own)) == len(own),
            f"directions has {', '.join(own) or 'nothing'}; accepted: query_to_doc, "
            "which has the positive, and any of the others once",
        )
        alike = [d for d in own if d in ("query_to_query", "doc_to_doc")]
        require(
            self.partition == "joint" or not alike,
            f"directions has {', '.join(alike)}, which never has the positive; set "
            "partition='joint', or leave it out",
        )


@checked
class CoSENT:
    """Pairs of a higher score are nearer (Su 2022; Huang et al. 2024).

    `temperature`: of the cosines; the inverse of sentence-transformers' `scale`.
    """

    kind: ClassVar[str] = "cosent"
    temperature: Positive = 0.05


@checked
class CosineRegression:
    """The squared difference of cosine and score (Reimers & Gurevych 2019)."""

    kind: ClassVar[str] = "cosine"


EmbeddingLoss = Ranking | CoSENT | CosineRegression


@checked
class Truncation:
    """The first `size` numbers of a vector, and the weight of their loss."""

    size: Count = 64
    weight: Positive = 1.0


# --- the task ------------------------------------------------------------------------


@checked
class TextEmbedding:
    """A vector for each text: near for those that belong together.

    Attributes:
      loss: "ranking" reads pairs and their negatives, "cosent" and "cosine" pairs with
        a score.
      truncations: the loss is the weighted sum of those of these beginnings of the
        vectors (Matryoshka, Kusupati et al. 2022, 2205.13147); (): of whole ones.
      pooling, normalize, query_prompt, passage_prompt: see `TextReading`; None: as the
        folder at `init.path` says, or the mean, normalized, without prompts.
      max_query, max_passage: tokens at which texts are cut, `data.seq_len` at most;
        None: as there, or at that.
      negatives: of a row that are read, drawn anew in each epoch where it has more;
        None: as many as there are columns of them.
      max_score: the score of equal texts, by which scores are divided.
      faulty: rows that teach nothing, as an anchor that is its own positive, are an
        error, or left out and counted.
      anchor_field, positive_field, score_field: fields of the records that are read.
      negatives_field: beginning of the names of the fields with negatives: texts, or
        lists of texts.
    """

    kind: ClassVar[str] = "text_embedding"
    loss: EmbeddingLoss = Ranking()
    truncations: tuple[Truncation, ...] = ()
    pooling: Pooling | None = None
    normalize: bool | None = None
    query_prompt: str | None = None
    passage_prompt: str | None = None
    max_query: Count | None = None
    max_passage: Count | None = None
    negatives: Natural | None = None
    max_score: Positive = 1.0
    faulty: Literal["refuse", "drop"] = "refuse"
    anchor_field: str = "anchor"
    positive_field: str = "positive"
    negatives_field: str = "negative"
    score_field: str = "score"

    def __post_init__(self):
        sizes = [t.size for t in self.truncations]
        require(
            len(set(sizes)) == len(sizes),
            f"truncations has the sizes {', '.join(map(str, sizes))}; give each once",
        )

    @property
    def scored(self) -> bool:
        """Whether pairs have scores."""
        return not isinstance(self.loss, Ranking)

    @property
    def reading(self) -> TextReading:
        """The way to a vector, with what is not said at its usual."""
        names = ("pooling", "normalize", "query_prompt", "passage_prompt")
        said = {name: getattr(self, name) for name in names}
        own = {name: value for name, value in said.items() if value is not None}
        longest = None
        if self.max_query and self.max_passage:
            longest = max(self.max_query, self.max_passage)
        return TextReading(**own, max_length=longest)
