"""The space of a search: which fields of a config, and among what."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath

from llmjax import config as cfg
from llmjax.config import keys

FORMS = (
    'a range {"low": 1e-5, "high": 1e-3}, with "log": true where its exponent is drawn '
    'and "step" where it has steps, of whole numbers where both ends are; or '
    '{"choices": ["linear", "constant"]}'
)
# of which metric is compared, and over how many evaluations
FIXED = ("train.best_metric", "train.best_mode", "data.directory")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers between two ends, which both belong to it."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def draw(self, trial: Any, key: str) -> Any:
        """A value, by optuna's trial."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        if whole:
            step = 1 if self.step is None else self.step
            return trial.suggest_int(key, self.low, self.high, step=step, log=self.log)
        return trial.suggest_float(
            key, self.low, self.high, step=self.step, log=self.log
        )


@dataclasses.dataclass(frozen=True)
class Choice:
    """Some values."""

    choices: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.choices

    def draw(self, trial: Any, key: str) -> Any:
        """A value, by optuna's trial."""
        return trial.suggest_categorical(key, self.choices)


Space = Mapping[str, Range | Choice]  # key of the config -> its values


def read(path: str, config: ml_collections.ConfigDict) -> Space:
    """The space of a JSON file, each of whose ends the config accepts.

    Args:
      path: {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": true}, …}.
      config: that is varied.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a key that the config lacks, or a value that it refuses.
    """
    try:
        values = json.loads(epath.Path(path).expanduser().read_text())
    except ValueError as e:
        raise ValueError(f"--space={path} is no JSON: {e}") from None
    if not isinstance(values, dict) or not values:
        raise ValueError(
            f"--space={path} has no keys; accepted: an object of config keys, each "
            f"with {FORMS}"
        )
    space = {key: _values(path, key, value) for key, value in values.items()}
    for key, range_ in space.items():
        for end in range_.ends:
            try:
                cfg.parse(changed(config, {key: end}))
            except ValueError as e:
                raise ValueError(f"--space={path}, {key}={end!r}: {e}") from None
    return space


def _values(path: str, key: str, value: Any) -> Range | Choice:
    if key not in keys.paths(cfg.RunConfig):
        name = key.rpartition(".")[2]
        unknown = keys.unknown(name, cfg.RunConfig, place=key)
        raise ValueError(f"--space={path}: {unknown}")
    if key in FIXED:
        raise ValueError(
            f"--space={path}: {key} is the same for all trials; leave it out"
        )
    said = f"--space={path}: {key} is {json.dumps(value)}"
    if not isinstance(value, dict):
        raise ValueError(f"{said}; accepted: {FORMS}")
    return _choice(said, value) if "choices" in value else _range(said, value)


def _choice(said: str, value: dict[str, Any]) -> Choice:
    choices = value["choices"]
    listed = value.keys() == {"choices"} and isinstance(choices, list)
    if not listed or any(isinstance(c, list | dict) for c in choices):
        raise ValueError(f"{said}; accepted: {FORMS}")
    if len(choices) < 2:
        raise ValueError(f"{said}; give two choices or more, or set it in the config")
    return Choice(tuple(choices))


def _range(said: str, value: dict[str, Any]) -> Range:
    low, high = value.get("low", math.nan), value.get("high", math.nan)
    log, step = value.get("log", False), value.get("step")
    steps = step is None or _number(step)
    known = not value.keys() - {"low", "high", "log", "step"}
    if not (known and steps and _number(low) and _number(high)):
        raise ValueError(f"{said}; accepted: {FORMS}")
    sound = low < high and isinstance(log, bool) and not (log and low <= 0)
    if not sound or (step is not None and (step <= 0 or log)):
        raise ValueError(
            f"{said}; low is below high, and above 0 where log is true; step is "
            "positive, and none beside log"
        )
    return Range(low, high, log, step)


def _number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def changed(
    config: ml_collections.ConfigDict, values: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """A copy of a config with some of its fields set."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        for key, value in values.items():
            *rooms, name = key.split(".")
            part = copy
            for room in rooms:
                part = part[room]
            with part.ignore_type():
                part[name] = value
    return copy
