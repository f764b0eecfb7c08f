"""Types of activations, matmuls and weights."""

from typing import ClassVar, Literal

from llmjax.config.checks import Positive, Size, checked


@checked
class LossScale:
    """Dynamic scaling of float16's loss (Micikevicius et al. 2017, arXiv:1710.03740).

    It multiplies the mean loss. Gradients that overflow skip the update, which `step`
    counts and the learning rate's schedule doesn't, and halve the scale;
    `growth_interval` updates without one double it. An overflow at a scale of 1 ends
    the run.
    """

    initial: Positive = 2.0**15
    growth_interval: Size = 2000


@checked
class Float32:
    """Activations, matmuls and weights of 32 bits."""

    kind: ClassVar[str] = "float32"
    dtype: ClassVar[str] = "float32"
    masters: ClassVar[str] = "float32"


@checked
class BFloat16:
    """Activations and matmuls in bfloat16.

    Attributes:
      masters: type of the weights; of bfloat16 each update is rounded at random.
    """

    kind: ClassVar[str] = "bfloat16"
    dtype: ClassVar[str] = "bfloat16"
    masters: Literal["float32", "bfloat16"] = "float32"


@checked
class Float16:
    """Activations and matmuls in float16, the loss dynamically scaled."""

    kind: ClassVar[str] = "float16"
    dtype: ClassVar[str] = "float16"
    masters: ClassVar[str] = "float32"
    loss_scale: LossScale = LossScale()


Precision = Float32 | BFloat16 | Float16
