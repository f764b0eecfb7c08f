"""Configs of adapters: small weights beside a model's matrices, a class per method."""

from typing import ClassVar, Literal

from llmjax.config.checks import BelowOne, Count, checked, require
from llmjax.config.low_rank import (
    AdaLoRA,
    DeLoRA,
    HiRA,
    LoHa,
    LoKr,
    LoRA,
    PiSSA,
    Targeted,
    VeRA,
    check_targets,
)


@checked
class SHiRA(Targeted):
    """x W + x S, S sparse: of few entries, at random places (Bhardwaj et al. 2024).

    arXiv:2406.13175.

    Attributes:
      rank: as many entries are trained as LoRA of this rank has.
    """

    kind: ClassVar[str] = "shira"
    rank: Count = 32


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
      variant: "road_1": a pair has an angle and a factor; "road_2": its features have
        them each; "road_4": all four entries of its 2 × 2 matrix do.
      group_size: features in a row whose first half is paired with the second.
    """

    kind: ClassVar[str] = "road"
    variant: Literal["road_1", "road_2", "road_4"] = "road_1"
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


Adapters = (
    LoRA
    | PiSSA
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
