"""What readers want of a run: its config and its weights, adapters merged."""

import contextlib
import dataclasses
from typing import Any

from etils import epath

from llmjax.config import FullTuning, RunConfig
from llmjax.hub.load import BATCH
from llmjax.peft import adapted
from llmjax.tasks.registry import make_model
from llmjax.train.checkpoints.checkpoints import Checkpoints


def load_params(
    workdir: epath.PathLike, step: int | None = None
) -> tuple[RunConfig, Any]:
    """The config and the weights of a run, of the checkpoint that `read` takes."""
    return read(workdir, step)[1:]


def read(
    workdir: epath.PathLike, step: int | None = None, *, merge: bool = True
) -> tuple[int, RunConfig, Any]:
    """A run's step, config and weights at `step` (None: the best that is whole).

    The weights are the averaged ones where the run kept an average. Adapters are merged
    into their matrices, unless `merge` is False: the config is then one without. What
    is damaged and so passed over is said on standard error.

    Raises:
      FileNotFoundError, ValueError: no such run or step, or one that can't be read.
    """
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:

        def read_step(step: int) -> tuple[int, RunConfig, Any]:
            config, params = checkpoints.run_config(step), checkpoints.params(step)
            if merge:
                config, params = _without_adapters(config, params)
            return step, config, params

        return checkpoints.best_whole(read_step) if step is None else read_step(step)


def load_reference(workdir: epath.PathLike, step: int) -> Any:
    """The weights that a run began with, as `read` gives its last, if it keeps them for
    its task; else None."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        first = checkpoints.reference(step)
        if first is None:
            return None
        return _without_adapters(checkpoints.run_config(step), first)[1]


def _without_adapters(config: RunConfig, params: Any) -> tuple[RunConfig, Any]:
    """The config and the weights of the same model with its adapters merged.

    All of the weights are then alike, those that were frozen too.
    """
    if isinstance(config.peft, FullTuning):
        return config, params
    plain = dataclasses.replace(config, peft=FullTuning())
    return plain, adapted.merged(config.peft, make_model(plain), BATCH, params)
