"""The best evaluation of a run, and when to stop waiting for a better one."""

import dataclasses
from typing import Any

from llmjax.config import TrainConfig


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
        return (
            f"stopped at step {step} of {config.steps}: {self.since} evaluations in a "
            f"row without a better {config.best_metric} than {self.value} of step "
            f"{self.step} (train.patience={config.patience})"
        )


def order(config: TrainConfig, metrics: dict[str, Any]) -> float:
    """A sort key of evaluations, the best last."""
    value = float(metrics[config.best_metric])
    value = value if config.best_mode == "max" else -value
    return value if value == value else float("-inf")
