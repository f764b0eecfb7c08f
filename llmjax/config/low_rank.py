"""Configs of adapters that are products of small matrices, LoRA and its kin."""

from typing import ClassVar, Literal

from llmjax.config.checks import (
    BelowOne,
    Count,
    InsideOne,
    Natural,
    NotNegative,
    Positive,
    Seed,
    Share,
    checked,
    require,
)


@checked
class Targeted:
    """What all methods but IA3 say of where they are.

    Attributes:
      targets: which matrices: names of projections ("query"), the ends of their paths
        ("attention/out"), or patterns of whole paths ("*/stack/*").
      exclude: of those, the ones to leave out.
      train: patterns of weights that are trained beside them; a head of classes always
        is.
    """

    targets: tuple[str, ...] = ("query", "value")
    exclude: tuple[str, ...] = ()
    train: tuple[str, ...] = ()

    def __post_init__(self):
        check_targets(self.targets)


@checked
class RankOf:
    """The rank of some of LoRA's matrices.

    Attributes:
      pattern: of the matrices; as `LoRA.targets`.
      rank, alpha: of them; alpha None: as the others'.
    """

    pattern: str
    rank: Count
    alpha: Positive | None = None

    def __post_init__(self):
        require(bool(self.pattern), "pattern is empty; name matrices, as 'mlp/down'")


@checked
class LoRA(Targeted):
    """x W + scale · x A B, of which A and B are trained (Hu et al. 2021, 2106.09685).

    Attributes:
      rank: columns of A, rows of B.
      alpha: `scale` is alpha / rank.
      rank_stabilized: `scale` is alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023,
        2312.03732).
      magnitude: the columns of W + scale · A B have trained lengths of their own (DoRA,
        Liu et al. 2024, 2402.09353).
      dropout: of x, before A.
      b_rate: the learning rate of B, as a multiple of the others' (LoRA+, Hayou et al.
        2024, 2402.12354: 16).
      ranks: of matrices that have another rank; the first pattern that fits counts.
    """

    kind: ClassVar[str] = "lora"
    rank: Count = 8
    alpha: Positive = 16.0
    rank_stabilized: bool = False
    magnitude: bool = False
    dropout: Share = 0.0
    b_rate: Positive = 1.0
    ranks: tuple[RankOf, ...] = ()

    def __post_init__(self):
        require(self.dropout < 1, f"dropout={self.dropout} leaves nothing; below 1")
        check_targets(self.targets)

    @property
    def scale(self) -> float:
        """The factor of x A B, of matrices that no pattern of `ranks` fits."""
        return self.scale_of(self.rank, self.alpha)

    def scale_of(self, rank: int, alpha: float) -> float:
        """The factor of x A B of a rank and an alpha."""
        return alpha / (rank**0.5 if self.rank_stabilized else rank)


@checked
class PiSSA(Targeted):
    """x W + scale · (x A B - x A₀ B₀): LoRA that begins as W's largest part, A₀ B₀.

    Meng et al. 2024, 2404.02948.

    Attributes:
      rank: columns of A, rows of B.
      alpha: `scale` is alpha / rank.
      start: A₀ and B₀ are of W's largest singular values ("svd"), or the first rows and
        columns of its QR factors ("qr": OLoRA, Büyükakyüz 2024, 2406.01775).
    """

    kind: ClassVar[str] = "pissa"
    rank: Count = 8
    alpha: Positive = 16.0
    start: Literal["svd", "qr"] = "svd"

    @property
    def scale(self) -> float:
        """The factor of x A B."""
        return self.alpha / self.rank


@checked
class AdaLoRA(Targeted):
    """x W + scale · ((x A) e) B, of which e loses the entries that matter least.

    Zhang et al. 2023, 2303.10512. After `initial_steps` the ranks of all matrices
    together fall by a cubic curve, until `final_steps` before the run's end they are
    `target_rank` times the number of matrices: those entries of e are kept whose
    importance, averaged over steps, is largest.

    Attributes:
      rank: of each matrix at first.
      target_rank: of the matrices in the mean, at the end.
      alpha: `scale` is alpha / rank.
      dropout: of x, before A.
      initial_steps, final_steps: before and after the ranks shrink.
      interval: steps from one cut to the next.
      beta1, beta2: decay of the averages of importance and of its uncertainty.
      orthogonality: factor of the mean of |AᵀA - I| and |B Bᵀ - I|, added to the loss.
    """

    kind: ClassVar[str] = "adalora"
    rank: Count = 12
    target_rank: Count = 8
    alpha: Positive = 16.0
    dropout: BelowOne = 0.0
    initial_steps: Natural = 0
    final_steps: Natural = 0
    interval: Count = 1
    beta1: InsideOne = 0.85
    beta2: InsideOne = 0.85
    orthogonality: NotNegative = 0.5

    def __post_init__(self):
        super().__post_init__()
        require(
            self.target_rank < self.rank,
            f"target_rank={self.target_rank} is not below rank={self.rank}, from which "
            "it is reached by cuts; raise rank, or set peft.kind='lora'",
        )


@checked
class HiRA(Targeted):
    """x W + x (W ⊙ A B): a change of full rank (Huang et al. 2025, ICLR).

    W ⊙ A B is formed, as in peft: its product with x has no cheaper form.

    Attributes:
      rank: columns of A, rows of B.
      dropout: of x, before the added product.
    """

    kind: ClassVar[str] = "hira"
    rank: Count = 32
    dropout: BelowOne = 0.0


@checked
class LoHa(Targeted):
    """x W + scale · x (A₁ B₁ ⊙ A₂ B₂) (Hyeon-Woo et al. 2021, 2108.06098).

    Attributes:
      rank: of each of both products; of their change rank² at most.
      alpha: `scale` is alpha / rank.
    """

    kind: ClassVar[str] = "loha"
    rank: Count = 8
    alpha: Positive = 8.0

    @property
    def scale(self) -> float:
        """The factor of the change."""
        return self.alpha / self.rank


@checked
class LoKr(Targeted):
    """x W + scale · x (W₁ ⊗ W₂) (Yeh et al. 2023, 2309.14859).

    Attributes:
      rank: of the larger factor, W₂, where it is a product A B: where the rank is less
        than half of its larger side.
      alpha: `scale` is alpha / rank.
      factor: of both sides of W, W₁'s share; None: the divisor next to the square root.
      decompose_both: W₁ too may be a product.
    """

    kind: ClassVar[str] = "lokr"
    rank: Count = 8
    alpha: Positive = 8.0
    factor: Count | None = None
    decompose_both: bool = False

    @property
    def scale(self) -> float:
        """The factor of the change."""
        return self.alpha / self.rank


@checked
class DeLoRA(Targeted):
    """x W + (x ⊙ |W|) A diag(λ / (rank |a||b|)) B (Bini et al. 2025, 2503.18225).

    The columns of A and rows of B have length 1; so λ bounds the change, for each input
    in proportion to the length of W's row.

    Attributes:
      rank: columns of A, rows of B.
      bound: λ at first.
      dropout: of x, before the added product.
    """

    kind: ClassVar[str] = "delora"
    rank: Count = 8
    bound: Positive = 15.0
    dropout: BelowOne = 0.0


@checked
class VeRA(Targeted):
    """x W + ((x A) d) B b: A and B random and shared, d and b trained.

    Kopiczko et al. 2023, 2310.11454.

    Attributes:
      rank: columns of A, rows of B.
      initial: of all of d; b begins at 0.
      dropout: of x, before A.
      seed: of A and B, which all matrices have the corner of their size of.
    """

    kind: ClassVar[str] = "vera"
    rank: Count = 256
    initial: Positive = 0.1
    dropout: BelowOne = 0.0
    seed: Seed = 0


def check_targets(targets: tuple[str, ...]) -> None:
    """Raises ValueError for no targets, or an empty one."""
    require(
        bool(targets) and all(targets),
        f"the targets {targets} choose no matrix; name some, as 'query', or '*/stack/*'"
        " for all of the layers'",
    )
