"""A row of the suite: what it is given, and what it gives."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a row is given.

    Attributes:
      folder: its own, for data and runs.
      weights: has the folders of models that are made here.
      corpora: cache of prepared corpora.
      data: folder of the files that no package has.
      quick: toy models and made-up rows, in seconds and without a network.
    """

    folder: Path
    weights: Path
    corpora: Path
    data: Path
    quick: bool = False


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric on the test rows, and where 95 % of bootstrap samples have it."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Score:
    """The metric of something that a row is compared with."""

    name: str
    value: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a row gives.

    Attributes:
      metric: its name.
      found: of the tuned model.
      trivial: of an answer that does not look at its text.
      classical: of a method without a network; None: there is none.
      zero_shot: of the same weights before training; None: they have no such answer.
      wanted: what `found` must reach, in words.
      bound: the same as a number.
      lower: whether less is better.
      speed: of training, by the names of `tuning.Tuned.speed`; `tokens_per_second` at
        least.
      sizes: test rows and the like, by name.
      more: other metrics, by name.
      notes: sentences that a reader must know.
    """

    metric: str
    found: Estimate
    trivial: Score
    classical: Score | None
    zero_shot: Score | None
    wanted: str
    bound: float
    speed: Mapping[str, float]
    sizes: Mapping[str, int]
    lower: bool = False
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the bound is reached, and every `required` of `more`."""
        value = self.found.value
        reached = value <= self.bound if self.lower else value >= self.bound
        return reached and all(self.more.get("required", {}).values())


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      name: its folder, and what `--only` names.
      what: data and weights, in words.
      measure: trains, evaluates and compares.
      needs: a file or folder below `Setting.data`; "": packages have it all.
    """

    name: str
    what: str
    measure: Callable[[Setting], Outcome]
    needs: str = ""
