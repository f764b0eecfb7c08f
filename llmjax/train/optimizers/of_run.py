"""The optimizer of a run: its config's or a caller's, and what adapters do to it."""

from typing import Any

import optax

from llmjax.config import AdaLoRA, RunConfig
from llmjax.peft import allocation, rates
from llmjax.train.optimizers import optimizers


def make(
    config: RunConfig,
    optimizer: optax.GradientTransformationExtraArgs | None,
    axes: Any,
) -> optax.GradientTransformationExtraArgs:
    """The chain of a run.

    Args:
      config: of the run.
      optimizer: instead of the config's.
      axes: the logical axes of every weight that is trained.

    Raises:
      ValueError: parts of the config that don't go together.
    """
    peft, steps = config.peft, config.train.steps
    allocation.check(config)
    own = rates.transforms(peft)
    if optimizer is None:
        optimizers.check(config)
        optimizer = optimizers.make(config.optimizer, steps, axes, config.model, own)
    elif own:
        optimizer = optax.with_extra_args_support(optax.chain(optimizer, *own))
    if isinstance(peft, AdaLoRA):
        return allocation.allocating(peft, steps, optimizer)
    return optimizer
