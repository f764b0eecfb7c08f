"""Configs of adapters: small weights beside a model's matrices, a class per method."""

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
    """

    kind: ClassVar[str] = "lora"
    rank: Count = 8
    alpha: Positive = 16.0
    rank_stabilized: bool = False
    magnitude: bool = False
    dropout: Share = 0.0
    b_rate: Positive = 1.0

    def __post_init__(self):
        require(self.dropout < 1, f"dropout={self.dropout} leaves nothing; below 1")
        check_targets(self.targets)

    @property
    def scale(self) -> float:
        """The factor of x A B."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)


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


@checked
class SHiRA(Targeted):
    """x W + x S, S sparse: of few entries, at random places (Bhardwaj et al. 2024).

    arXiv:2406.13175.

    Attributes:
      rank: as many entries are trained as LoRA of this rank has.
      seed: of the places.
    """

    kind: ClassVar[str] = "shira"
    rank: Count = 32
    seed: Seed = 0


@checked
class MiSS(Targeted):
    """x W + (sum of x's pieces of `rank` features) B (Kang & Yin 2024, 2409.15371).

    Attributes:
      rank: rows of B, the length of the pieces.
      variant: "bat": the change is W's blocks of rank × rank times blocks of B, plus
        these; "mini": B has `width` columns, which are repeated.
      width: columns of B where `variant` is "mini".
      dropout: of x, before it is summed; not with "bat".
    """

    kind: ClassVar[str] = "miss"
    rank: Count = 64
    variant: Literal["plain", "bat", "mini"] = "plain"
    width: Count = 1
    dropout: BelowOne = 0.0

    def __post_init__(self):
        super().__post_init__()
        require(
            not (self.dropout and self.variant == "bat"),
            f"dropout={self.dropout} and variant='bat', which has none; set one to its "
            "default",
        )


@checked
class OFT(Targeted):
    """(x R) W, R of orthogonal blocks (Qiu et al. 2023, 2306.07280).

    Attributes:
      block_size: of R's blocks, which are (I - Q)(I + Q)⁻¹ of a trained Q = -Qᵀ.
      share: all blocks are the same.
      terms: of the Neumann series that takes the inverse's place: I + 2Q + 2Q² + …,
        the last one once (Qiu et al. 2025, 2506.19847); None: the inverse. peft's
        default is 5.
    """

    kind: ClassVar[str] = "oft"
    block_size: Count = 32
    share: bool = False
    terms: Count | None = None

    def __post_init__(self):
        super().__post_init__()
        require(
            self.terms is None or self.terms > 2,
            f"terms={self.terms} leaves no rotation to train; 3 or more, or None",
        )


@checked
class HRA(Targeted):
    """(x H) W, H a product of `rank` reflections (Yuan et al. 2024, 2405.17484).

    Attributes:
      rank: reflections; in pairs, which begin as each other's inverse.
    """

    kind: ClassVar[str] = "hra"
    rank: Count = 8

    def __post_init__(self):
        super().__post_init__()
        require(
            self.rank % 2 == 0,
            f"rank={self.rank} is odd: reflections begin in pairs that cancel; set it "
            f"to {self.rank + 1}",
        )


@checked
class RoAd(Targeted):
    """The results' pairs, each turned and scaled (Liao & Monz 2024, 2409.00119).

    Attributes:
      entries: 1: a pair has an angle and a factor; 2: its features have them each; 4:
        all four entries of its 2 × 2 matrix do.
      group_size: features in a row whose first half is paired with the second.
    """

    kind: ClassVar[str] = "road"
    entries: Literal[1, 2, 4] = 1
    group_size: Count = 64

    def __post_init__(self):
        super().__post_init__()
        require(
            self.group_size % 2 == 0,
            f"group_size={self.group_size} is odd, and holds no pairs; make it even",
        )


@checked
class C3A(Targeted):
    """x W + x C / inputs, C of circulant blocks (Chen et al. 2024, 2407.19342).

    Attributes:
      block_size: of the blocks, each of which has as many weights.
    """

    kind: ClassVar[str] = "c3a"
    block_size: Count = 256


@checked
class IA3:
    """Keys, values and the MLP's inner states times trained vectors (Liu et al. 2022).

    arXiv:2205.05638.

    Attributes:
      outputs: projections whose results are scaled; as `LoRA.targets`.
      inputs: projections whose inputs are scaled.
      train: as `LoRA.train`.
    """

    kind: ClassVar[str] = "ia3"
    outputs: tuple[str, ...] = ("key", "value")
    inputs: tuple[str, ...] = ("mlp/down",)
    train: tuple[str, ...] = ()

    def __post_init__(self):
        check_targets((*self.outputs, *self.inputs))


def check_targets(targets: tuple[str, ...]) -> None:
    """Raises ValueError for no targets, or an empty one."""
    require(
        bool(targets) and all(targets),
        f"the targets {targets} choose no matrix; name some, as 'query', or '*/stack/*'"
        " for all of the layers'",
    )


Adapters = (
    LoRA
    | AdaLoRA
    | VeRA
    | MiSS
    | OFT
    | HRA
    | HiRA
    | SHiRA
    | LoHa
    | LoKr
    | DeLoRA
    | RoAd
    | C3A
    | IA3
)
