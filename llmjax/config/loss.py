"""Terms of every cross entropy over classes, of tokens or of labels."""

from llmjax.config.checks import BelowOne, NotNegative, checked


@checked
class LossConfig:
    """Terms of the loss that is minimised; printed metrics are without them.

    Attributes:
      z_loss: factor of log(Z)**2, which keeps the normaliser Z near 1 (Chowdhery et
        al. 2022, arXiv:2204.02311, 5).
      label_smoothing: share of each target that is spread evenly over all classes
        (Szegedy et al. 2016, arXiv:1512.00567, 7).
    """

    z_loss: NotNegative = 0.0
    label_smoothing: BelowOne = 0.0
