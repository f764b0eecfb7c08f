"""Terms of every cross entropy over classes, of tokens or of labels."""

import dataclasses

from llmjax.config.checks import require


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Terms of the loss that is minimised; printed metrics are without them.

    Attributes:
      z_loss: factor of log(Z)**2, which keeps the normaliser Z near 1 (Chowdhery et
        al. 2022, arXiv:2204.02311, 5).
      label_smoothing: share of each target that is spread evenly over all classes
        (Szegedy et al. 2016, arXiv:1512.00567, 7).
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self):
        require(self.z_loss >= 0, f"z_loss is {self.z_loss}; it must not be negative")
        require(
            0 <= self.label_smoothing < 1,
            f"label_smoothing is {self.label_smoothing}; it must be in [0, 1)",
        )
