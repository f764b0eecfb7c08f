"""The state that a run's `craft` reads: averaged weights, and which are mixed."""

from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from llmjax.config import RunConfig
from llmjax.peft import adapted
from llmjax.tasks.craft.agreement import Average
from llmjax.tasks.craft.mixout import mixout
from llmjax.tasks.task import Loss, Task
from llmjax.train.optimizers.layers import is_body_matrix
from llmjax.train.state import WithAxes


def average(shapes: Any, axes: Any) -> WithAxes:
    """Averaged weights before the first step, which takes its own.

    Args:
      shapes, axes: of the weights that are trained.
    """
    # one number, whatever the shape
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    return WithAxes(Average(zeros, np.int32(0)), Average(axes, ()))


def mixed(run: RunConfig, task: Task, loss: Loss, axes: Any) -> Loss:
    """`loss` with `craft.mixout` of the Transformer's matrices.

    Args:
      run, task, loss: to wrap.
      axes: of the weights that are trained.

    Raises:
      ValueError: no such matrix is trained.
    """
    names = [
        name
        for name, leaf_axes in flatten_dict(axes, sep="/").items()
        if is_body_matrix(name, leaf_axes) and not adapted.of_adapters(run.peft, name)
    ]
    if not names:
        raise ValueError(
            f"craft.mixout={run.craft.mixout} mixes the Transformer's matrices, and "
            f"none of them is trained (peft.kind={run.peft.kind!r}, optimizer.freeze="
            f"{run.optimizer.freeze}); set it to 0"
        )
    return mixout(loss, run.craft.mixout, names, task.needs_reference)
