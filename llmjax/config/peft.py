"""Config of what is trained: all weights, some of them, or small ones beside them."""

from typing import ClassVar

from llmjax.config.adapters import Adapters
from llmjax.config.checks import checked


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


Peft = FullTuning | PartialTuning | Adapters
