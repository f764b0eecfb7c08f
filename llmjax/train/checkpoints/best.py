"""The best evaluation of a run, when to stop waiting for a better one, what is kept."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orbax.checkpoint import checkpoint_managers as policies

from llmjax.config import TrainConfig, wording

Metrics = Mapping[str, Any] | None  # of an evaluation; None where there was none


@dataclasses.dataclass(frozen=True)
class Best:
    """The best evaluation so far; a checkpoint holds it.

    Attributes:
      value: of `train.best_metric`; None before the first evaluation.
      step: of that evaluation.
      since: evaluations after it, none of them better.
    """

    value: float | None = None
    step: int = 0
    since: int = 0

    def after(self, step: int, value: float, config: TrainConfig) -> "Best":
        """With one more evaluation; a value that is not a number is never better."""
        sign = 1 if config.best_mode == "max" else -1
        first = self.value is None and value == value
        if first or (self.value is not None and sign * value > sign * self.value):
            return Best(value, step)
        return dataclasses.replace(self, since=self.since + 1)

    def exhausted(self, config: TrainConfig) -> bool:
        """Whether `train.patience` evaluations in a row were not better."""
        return config.patience is not None and self.since >= config.patience

    def report(self, step: int, config: TrainConfig) -> str:
        """Why a run stopped at `step`, for a person."""
        name, value = config.best_metric, self.value
        if value is None:
            missed = f"{name} that is a number"
        else:
            missed = f"better {name} than {wording.number(value)} of step {self.step:,}"
        return (
            f"stopped at step {step:,} of {config.steps:,}: "
            f"{wording.count(self.since, 'evaluation')} in a row without a {missed} "
            f"(train.patience={config.patience})"
        )


def order(config: TrainConfig, metrics: Mapping[str, Any]) -> float:
    """A sort key of evaluations, the best last."""
    value = float(metrics[config.best_metric])
    value = value if config.best_mode == "max" else -value
    return value if value == value else float("-inf")


def best_first(config: TrainConfig, metrics: Mapping[int, Metrics]) -> list[int]:
    """Steps by their evaluations, of equal ones the earlier first; then the latest of
    those without."""
    scored = {
        step: order(config, values)
        for step, values in metrics.items()
        if values and config.best_metric in values
    }
    rest = sorted(metrics.keys() - scored.keys(), reverse=True)
    return sorted(scored, key=lambda step: (-scored[step], step)) + rest


class LatestAndBest(policies.PreservationPolicy):
    """Keeps the latest, the `train.keep_best` best ones, and those that are damaged."""

    def __init__(self, config: TrainConfig, metrics: Callable[[int], Metrics]):
        """`metrics`: of a saved step; raises ValueError where it is damaged."""
        self.config, self.metrics = config, metrics

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        steps = [info.step for info in checkpoints]
        kept, scored = {max(steps)}, {}
        for step in steps:
            try:
                metrics = self.metrics(step)
            except ValueError:  # nothing that was saved is lost by us
                kept.add(step)
                continue
            if metrics is not None:
                scored[step] = metrics
        kept.update(best_first(self.config, scored)[: self.config.keep_best])
        return [step in kept for step in steps]
