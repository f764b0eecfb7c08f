"""From a run's `craft` to its loss; what does not go together is refused."""

from typing import Any

import flax.linen as nn

from llmjax.config import (
    FGM,
    PGD,
    SMART,
    Checkpoint,
    Float32,
    FreeLB,
    Mixup,
    PlainLoss,
    RDrop,
    RunConfig,
)
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.tasks.craft.adversarial import adversarial, free_lb
from llmjax.tasks.craft.agreement import r_drop, smart
from llmjax.tasks.craft.mixup import mixup
from llmjax.tasks.task import Composed, Loss, Task

SMALLEST = 1e-2  # radius that 16 bits resolve beside vectors of about 1


def wrapped(run: RunConfig, task: Task, loss: Loss) -> Loss:
    """The loss that is minimised, by `craft.loss`; `check` comes first."""
    config: Any = run.craft.loss
    if isinstance(config, PlainLoss):
        return loss
    assert isinstance(loss, Composed)
    if isinstance(config, FGM | PGD):
        return adversarial(loss, config)
    if isinstance(config, FreeLB):
        return free_lb(loss, config)
    if isinstance(config, Mixup):
        return mixup(loss, config)
    divergence = task.divergence  # type: ignore[attr-defined] # of those that have one
    if isinstance(config, RDrop):
        return r_drop(loss, config, divergence)
    assert isinstance(config, SMART)
    return smart(loss, config, divergence, run.layout.microbatches)


def keeps_average(run: RunConfig) -> bool:
    """Whether the loss keeps averaged weights in `State.extra`."""
    return isinstance(run.craft.loss, SMART) and run.craft.loss.proximal > 0


def check(run: RunConfig, task: Task, model: nn.Module, loss: Loss) -> None:
    """Raises ValueError where `craft` does not go with the rest of a run."""
    config: Any = run.craft.loss
    if run.craft.mixout and not isinstance(run.init, Checkpoint):
        raise ValueError(
            f"craft.mixout={run.craft.mixout} mixes in the weights that a run begins "
            "with, and init.kind='scratch' draws them at random; give init.path, or "
            "set it to 0"
        )
    if isinstance(config, PlainLoss):
        return
    named = f"craft.loss.kind={config.kind!r}"
    if not isinstance(loss, Composed):
        raise ValueError(
            f"{named} wraps outputs and score, which the loss that was given has not "
            "apart; give a `Composed`, or set craft.loss.kind='plain'"
        )
    if loss.whole_batch and run.layout.microbatches > 1:
        raise ValueError(
            f"{named} computes the outputs of a batch more than once, and layout."
            f"microbatches={run.layout.microbatches} of a task that compares all rows "
            "computes them in parts; set it to 1"
        )
    if isinstance(config, RDrop | SMART) and not getattr(task, "diverges", False):
        raise ValueError(
            f"{named} compares outputs, for which task {run.task.kind!r} has no "
            "divergence; accepted are tasks of classes or numbers: for texts "
            "'sequence_classification', for words 'token_classification' without "
            "task.crf, 'multiple_choice', 'question_answering'"
        )
    if isinstance(config, RDrop):
        _check_dropout(run)
    elif isinstance(config, Mixup):
        _check_mixup(run, task, model)
    else:
        _check_perturbed(run, task, named)


def _check_dropout(run: RunConfig) -> None:
    model, peft = run.model, run.peft
    shares = model.dropout, model.attention_dropout, model.layer_drop
    if not any(shares) and not getattr(peft, "dropout", 0.0):
        raise ValueError(
            "craft.loss.kind='r_drop' compares two dropout masks, and model.dropout, "
            "model.attention_dropout and model.layer_drop are 0, which makes them one; "
            "set model.dropout=0.1"
        )


def _check_mixup(run: RunConfig, task: Task, model: nn.Module) -> None:
    labelled = "label" in task.labels and isinstance(model, SequenceClassifier)
    if not labelled:
        raise ValueError(
            "craft.loss.kind='mixup' mixes the vectors of texts that have a label, and "
            f"task {run.task.kind!r} has none; accepted: 'sequence_classification'"
        )
    if run.data.batch_size == run.layout.microbatches and run.data.packing == "pad":
        raise ValueError(
            "craft.loss.kind='mixup' mixes texts of a microbatch, and data.batch_size="
            f"{run.data.batch_size} over layout.microbatches={run.layout.microbatches} "
            "leaves one; raise the first, or lower the second"
        )


def _check_perturbed(run: RunConfig, task: Task, named: str) -> None:
    if task.needs_reference:
        raise ValueError(
            f"{named} perturbs the vectors of tokens, and task {run.task.kind!r} "
            "compares them with those of a reference; set craft.loss.kind='plain'"
        )
    config: Any = run.craft.loss
    narrow = not isinstance(run.layout.precision, Float32)
    if narrow and config.radius < SMALLEST:
        raise ValueError(
            f"{named} moves the vectors of tokens by up to craft.loss.radius="
            f"{config.radius:g}, which layout.precision.kind="
            f"{run.layout.precision.kind!r} rounds away; set craft.loss.radius to "
            f"{SMALLEST:g} or more, or the precision to 'float32'"
        )
