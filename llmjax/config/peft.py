"""Config of what is trained: all weights, some of them, or small ones beside them."""

from typing import ClassVar

from llmjax.config.checks import Count, Positive, Share, checked, require


@checked
class FullTuning:
    """All weights, less those of `optimizer.freeze`."""

    kind: ClassVar[str] = "full"


@checked
class PartialTuning:
    """The weights that match, and a head of classes; all others stay as they are.

    `train` takes patterns of weights' names: ("*bias",) is BitFit (Ben Zaken et al.
    2021, 2106.10199), ("*_norm/*",) tunes norms alone (Zhao et al. 2023, 2312.11420),
    and () trains the head alone.
    """

    kind: ClassVar[str] = "partial"
    train: tuple[str, ...] = ()


@checked
class LoRA:
    """x W + scale · x A B, of which A and B are trained (Hu et al. 2021, 2106.09685).

    Attributes:
      rank: columns of A, rows of B.
      alpha: `scale` is alpha / rank.
      rank_stabilized: `scale` is alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023,
        2312.03732).
      magnitude: the columns of W + scale · A B have trained lengths of their own (DoRA,
        Liu et al. 2024, 2402.09353).
      dropout: of x, before A.
      targets: which matrices: names of projections ("query"), the ends of their paths
        ("attention/out"), or patterns of whole paths ("*/stack/*").
      exclude: of those, the ones to leave out.
      train: patterns of weights that are trained beside them; a head of classes always
        is.
    """

    kind: ClassVar[str] = "lora"
    rank: Count = 8
    alpha: Positive = 16.0
    rank_stabilized: bool = False
    magnitude: bool = False
    dropout: Share = 0.0
    targets: tuple[str, ...] = ("query", "value")
    exclude: tuple[str, ...] = ()
    train: tuple[str, ...] = ()

    def __post_init__(self):
        require(self.dropout < 1, f"dropout={self.dropout} leaves nothing; below 1")
        _check_targets(self.targets)

    @property
    def scale(self) -> float:
        """The factor of x A B."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)


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
        _check_targets((*self.outputs, *self.inputs))


def _check_targets(targets: tuple[str, ...]) -> None:
    """Raises ValueError for no targets, or an empty one."""
    require(
        bool(targets) and all(targets),
        f"the targets {targets} choose no matrix; name some, as 'query', or '*/stack/*'"
        " for all of the layers'",
    )


Adapters = LoRA | IA3
Peft = FullTuning | PartialTuning | LoRA | IA3
