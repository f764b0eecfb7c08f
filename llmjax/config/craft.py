"""Wrappers of a run's loss: how an example is seen while it is learned from."""

from typing import ClassVar

from llmjax.config.checks import (
    BelowOne,
    Count,
    NotNegative,
    Positive,
    checked,
    require,
)


@checked
class PlainLoss:
    """The task's own loss of each example."""

    kind: ClassVar[str] = "plain"


@checked
class RDrop:
    """Two dropout masks of each example agree (Liang et al. 2021, arXiv:2106.14448).

    Attributes:
      weight: of the symmetric divergence, beside the mean of both losses: the `alpha`
        of the authors' code.
    """

    kind: ClassVar[str] = "r_drop"
    weight: Positive = 1.0


@checked
class FGM:
    """One step against the gradient of the token vectors (Miyato et al. 2017,
    arXiv:1605.07725).

    Attributes:
      radius: L2 length of the perturbation of a text's vectors, in their own units:
        pretrained ones are not normalised first.
      weight: of the loss of the perturbed text, beside the plain one.
    """

    kind: ClassVar[str] = "fgm"
    radius: Positive = 1.0
    weight: Positive = 1.0


@checked
class PGD:
    """Several steps, each kept within the radius (Madry et al. 2018, arXiv:1706.06083).

    Attributes:
      radius, weight: as `FGM`'s.
      step_size: L2 length of each step.
      steps: of ascent.
    """

    kind: ClassVar[str] = "pgd"
    radius: Positive = 1.0
    weight: Positive = 1.0
    step_size: Positive = 0.3
    steps: Count = 3


@checked
class FreeLB:
    """The mean loss along an ascent (Zhu et al. 2020, arXiv:1909.11764).

    Attributes:
      radius, step_size: as `PGD`'s.
      steps: perturbations whose losses are averaged, the random first one among them.
      init: L2 length that the first one has at most.
    """

    kind: ClassVar[str] = "freelb"
    radius: Positive = 1.0
    step_size: Positive = 0.3
    steps: Count = 3
    init: NotNegative = 0.1


@checked
class SMART:
    """Smoothness and a proximal point (Jiang et al. 2020, arXiv:1911.03437).

    Attributes:
      weight: of the largest symmetric divergence between a text's outputs and those of
        its perturbed vectors: the paper's lambda_s.
      radius: of each entry of the perturbation (an infinity norm): its epsilon.
      step_size: of its ascent: its eta.
      steps: of its ascent.
      noise: standard deviation of the perturbation at first: its sigma.
      proximal: weight of the divergence from the outputs of averaged weights: its mu;
        0: no average is kept.
      momentum: of that average: its beta.
    """

    kind: ClassVar[str] = "smart"
    weight: NotNegative = 1.0
    radius: Positive = 1e-5
    step_size: Positive = 1e-3
    steps: Count = 1
    noise: Positive = 1e-5
    proximal: NotNegative = 1.0
    momentum: BelowOne = 0.99

    def __post_init__(self):
        require(
            self.weight + self.proximal > 0,
            "weight and proximal are both 0, which leaves the plain loss; raise one, "
            "or set kind='plain'",
        )


@checked
class Mixup:
    """Mixed vectors of two texts have both labels (Guo et al. 2019, arXiv:1905.08941).

    The vectors that a head scores are mixed (their senMixup; manifold mixup of the last
    layer, Verma et al. 2019, arXiv:1806.05236).

    Attributes:
      alpha: of Beta(alpha, alpha), which one share for each batch is drawn from.
    """

    kind: ClassVar[str] = "mixup"
    alpha: Positive = 0.2


CraftLoss = PlainLoss | RDrop | FGM | PGD | FreeLB | SMART | Mixup


@checked
class CraftConfig:
    """What fine-tuning does to the loss beside the task; evaluation never does.

    Attributes:
      loss: its wrapper.
      mixout: the share of the Transformer's matrices' entries that are, at each step,
        those that the run began with (Lee et al. 2020, arXiv:1909.11299).
    """

    loss: CraftLoss = PlainLoss()
    mixout: BelowOne = 0.0
